"""A Pyramid Vision Transformer: C2 … C5."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from dhcli.config.schema import PVTS, Pvt
from dhcli.models.contract import Features
from dhcli.models.state import load_state

WIDTHS, HEADS = (64, 128, 320, 512), (1, 2, 5, 8)
WIDENING, REDUCTIONS = (8, 8, 4, 4), (8, 4, 2, 1)
SIDES = (56, 28, 14, 7)
"""Cells a side that the position embedding of each stage is learned for: of 224 pixels."""
LN_EPS = 1e-6


class PvtFeatures(Features):
    """Four stages of transformer layers on ever coarser patches ("Pyramid Vision Transformer").

    The names are MMDetection's: `layers.S.0` a stage's patches, `layers.S.1.0` its positions,
    `layers.S.1.L` its layers. No norm after the last.

    in   (B, 3, H, W) float, normalised;  sides are multiples of 32
    out  C2 … C5, strides 4, 8, 16, 32;  `channels` says how many channels each has

    widths, heads, sides  of each stage: channels, attention heads, cells a side of the positions
    """

    def __init__(
        self,
        name: str,
        drop_path: float = 0.1,
        frozen_stages: int = 0,
        *,
        widths: Sequence[int] = WIDTHS,
        heads: Sequence[int] = HEADS,
        sides: Sequence[int] = SIDES,
    ) -> None:
        super().__init__()
        self.name, self.channels, self.strides = name, list(widths), [4, 8, 16, 32]
        counts = PVTS[name]
        drops = torch.linspace(0, drop_path, sum(counts), device="cpu").tolist()
        self.layers = nn.ModuleList()
        for stage, count in enumerate(counts):
            inputs, patch = (widths[stage - 1], 2) if stage else (3, 4)
            shape = widths[stage], heads[stage], WIDENING[stage], REDUCTIONS[stage]
            layers = [Layer(*shape, drops.pop(0)) for _ in range(count)]
            patches = Patches(inputs, widths[stage], patch)
            positions = Positions(widths[stage], sides[stage])
            self.layers.append(nn.ModuleList([patches, nn.ModuleList([positions, *layers])]))
        self.freeze(frozen_stages)

    @classmethod
    def of(cls, config: Pvt) -> PvtFeatures:
        """The one that `config` describes."""
        return cls(config.name, config.drop_path, config.frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = []
        for stage in self.layers:
            patches, body = stage.children()
            x = patches(x)
            height, width = x.shape[-2:]
            tokens = x.flatten(2).transpose(1, 2)  # (B, H·W, C)
            for layer in body.children():
                tokens = layer(tokens, (height, width))
            x = _as_map(tokens, (height, width))
            levels.append(x)
        return levels

    def stages(self) -> list[list[nn.Module]]:
        first, *others = self.layers
        return [*([part] for part in first.children()), *([stage] for stage in others)]

    def load_pretrained(self, state: Mapping[str, Tensor], where: object, hint: str) -> None:
        published = "patch_embed1.proj.weight" in state
        load_state(self, of_published(state) if published else state, where, hint)


class Patches(nn.Module):
    """Each `side` × `side` cells as one token, normed.

    in   (B, inputs, H, W) float
    out  (B, width, H / side, W / side) float
    """

    def __init__(self, inputs: int, width: int, side: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(inputs, width, side, side)
        self.norm = nn.LayerNorm(width, LN_EPS)
        _init_conv(self.projection)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.projection(x).permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class Positions(nn.Module):
    """A learned vector for each cell of a square map, stretched bilinearly to the map there is.

    in, out  (B, H·W, width) float;  `size` is H, W
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(torch.empty(1, side * side, width))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        square = _as_map(self.pos_embed, (self.side, self.side))
        stretched = F.interpolate(square, size, mode="bilinear", align_corners=False)
        return tokens + stretched.flatten(2).transpose(1, 2)


class Layer(nn.Module):
    """x + attention(LN x), then x + 1×1(GELU(1×1(LN x))).

    in, out  (B, H·W, width) float;  `size` is H, W
    """

    def __init__(
        self, width: int, heads: int, widening: int, reduction: int, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, LN_EPS)
        self.attn = ReducedAttention(width, heads, reduction)
        self.norm2 = nn.LayerNorm(width, LN_EPS)
        self.ffn = FeedForward(width, width * widening)
        self.drop = StochasticDepth(drop_path, "row")

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        tokens = tokens + self.drop(self.attn(self.norm1(tokens), size))
        out: Tensor = tokens + self.drop(self.ffn(self.norm2(tokens), size))
        return out


class ReducedAttention(nn.Module):
    """Every cell looks at every `reduction` × `reduction` cells, which a convolution makes one.

    in, out  (B, H·W, width) float;  `size` is H, W
    """

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.trunc_normal_(self.attn.out_proj.weight, std=0.02)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(width, width, reduction, reduction)
            self.norm = nn.LayerNorm(width, LN_EPS)
            _init_conv(self.sr)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        seen = tokens
        if self.reduction > 1:
            reduced = self.sr(_as_map(tokens, size))
            seen = self.norm(reduced.flatten(2).transpose(1, 2))
        out: Tensor = self.attn(tokens, seen, seen, need_weights=False)[0]
        return out


class FeedForward(nn.Module):
    """1×1, GELU, 1×1 on each cell.

    in, out  (B, H·W, width) float;  `size` is H, W
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        first, last = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)
        for conv in (first, last):
            _init_conv(conv)
        # The name of the last is MMDetection's, where dropout stands between
        self.layers = nn.Sequential(first, nn.GELU(), nn.Identity(), last)

    def forward(self, tokens: Tensor, size: tuple[int, int]) -> Tensor:
        out: Tensor = self.layers(_as_map(tokens, size))
        return out.flatten(2).transpose(1, 2)


def of_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published `pvt_tiny.pth` (or another size) under our names.

    The classifier is left out, with its class token, which also stands before the cells of the last
    positions; q, k and v are stacked; a linear layer of the feed-forward is a 1×1 convolution.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name == "cls_token" or name.startswith(("head.", "norm.")):
            continue
        if name.endswith(("attn.q.weight", "attn.q.bias")):
            tensor = torch.cat([tensor, state[name.replace("attn.q.", "attn.kv.")]])
        elif ".attn.kv." in name:
            continue
        elif ".mlp." in name and name.endswith("weight"):
            tensor = tensor[:, :, None, None]
        elif name.startswith("pos_embed") and math.isqrt(tensor.shape[1]) ** 2 < tensor.shape[1]:
            tensor = tensor[:, 1:]
        ours[_our_name(name)] = tensor
    return ours


_PARTS = {
    r"^patch_embed(\d)\.proj\.": r"layers.\1.0.projection.",
    r"^patch_embed(\d)\.norm\.": r"layers.\1.0.norm.",
    r"^pos_embed(\d)$": r"layers.\1.1.0.pos_embed",
    r"^block(\d)\.(\d+)\.": r"layers.\1.1.+\2.",
    r"\.attn\.q\.": ".attn.attn.in_proj_",
    r"\.attn\.proj\.": ".attn.attn.out_proj.",
    r"\.mlp\.fc1\.": ".ffn.layers.0.",
    r"\.mlp\.fc2\.": ".ffn.layers.3.",
}
"""Their names to ours; their stages count from 1, and their layers (`+`) from 0, ours from 1."""


def _our_name(name: str) -> str:
    for theirs, ours in _PARTS.items():
        name = re.sub(theirs, ours, name)
    name = re.sub(r"\+(\d+)", lambda found: str(int(found[1]) + 1), name)
    return re.sub(r"^layers\.(\d)", lambda found: f"layers.{int(found[1]) - 1}", name)


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H·W, C) as (B, C, H, W), the same memory: channels_last."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *size)


def _init_conv(conv: nn.Conv2d) -> None:
    """Weights from N(0, 2 / (outputs · cells of the kernel)), biases 0."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)

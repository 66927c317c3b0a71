"""Deformable DETR's head: "Deformable DETR: Deformable Transformers for End-to-End Object
Detection" (Zhu et al., 2021): plain, with its boxes refined layer by layer, or in two stages.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dhcli.config.schema import DeformableHead as DeformableConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import spread_xavier, start_rarely
from dhcli.models.queries import transformer
from dhcli.models.queries.proposals import Proposals
from dhcli.models.queries.set_loss import Said
from dhcli.ops.batch import ImageBatch

LEAST = 1e-5
"""Distance from 0 and 1 that the inverse of a sigmoid keeps."""


class DeformableHead(nn.Module):
    """Cells, then learned queries, look at a few points of every level about their own place.

    A query is a position and a content: learned, or with `two_stage` of the encoder's best cells.
    Its box is said from where it looks: of the position, or with `refine` of the box of the layer
    before.

    in   levels  (B, C, h, w) float each
    out  with `two_stage` what the encoder's cells say; what each layer of the decoder says
    """

    def __init__(self, config: DeformableConfig, channels: int, levels: int, scores: int) -> None:
        super().__init__()
        settings = transformer.layer_settings(config, channels)
        from transformers import DeformableDetrConfig as Settings
        from transformers.models.deformable_detr import modeling_deformable_detr as library

        points = {"encoder_n_points": config.points, "decoder_n_points": config.points}
        told = Settings(**settings, **points, num_feature_levels=levels)
        self.refine = config.refine
        self.position = library.DeformableDetrSinePositionEmbedding(channels // 2, normalize=True)
        self.levels = nn.Parameter(torch.randn(levels, channels))
        self.encoder = nn.ModuleList(
            library.DeformableDetrEncoderLayer(told) for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            library.DeformableDetrDecoderLayer(told) for _ in range(config.decoder_layers)
        )
        if config.two_stage:
            self.proposals = Proposals(channels, scores, config.queries)
        else:
            self.queries = nn.Parameter(torch.randn(config.queries, 2 * channels))
            self.reference_points = nn.Linear(channels, 2)
        self.two_stage = config.two_stage
        own = config.decoder_layers if config.refine else 1
        self.cls = nn.ModuleList(nn.Linear(channels, scores) for _ in range(own))
        self.reg = nn.ModuleList(transformer.box_layers(channels) for _ in range(own))
        self._set_first_values(config)
        looks: Any = [layer.self_attn for layer in self.encoder]
        for attention in (*looks, *(layer.encoder_attn for layer in self.decoder)):
            attention.attn = Sampling(attention.attn)

    def _set_first_values(self, config: DeformableConfig) -> None:
        for part in (self.encoder, self.decoder):
            spread_xavier(part)
        if not config.two_stage:
            spread_xavier(self.reference_points)
            nn.init.zeros_(self.reference_points.bias)
        layer: Any
        for name, layer in (*self.encoder.named_modules(), *self.decoder.named_modules()):
            if name.endswith(("sampling_offsets", "attention_weights")):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
            if name.endswith("sampling_offsets"):
                with torch.no_grad():
                    layer.bias += _ring(config, len(self.levels)).to(layer.bias)
        cls: Any
        reg: Any
        for number, (cls, reg) in enumerate(zip(self.cls, self.reg, strict=True)):
            start_rarely(cls)
            nn.init.zeros_(reg[-1].weight)
            nn.init.zeros_(reg[-1].bias)
            if number == 0 and not config.two_stage:
                nn.init.constant_(reg[-1].bias[2:], -2.0)

    def forward(self, levels: Sequence[Tensor], images: ImageBatch) -> list[Said]:
        inside = transformer.inside_masks(levels, images)
        seen = torch.cat([one.flatten(1) for one in inside], dim=1)
        ratios = torch.stack([_inner_share(one) for one in inside], dim=1)
        shapes = [tuple(level.shape[-2:]) for level in levels]
        # One by one: a tensor of a list would have the numbers of one image in a graph for export
        sides = torch.stack([torch.full((), n, device=seen.device) for hw in shapes for n in hw])
        around = {"spatial_shapes": sides.view(-1, 2), "spatial_shapes_list": shapes}
        x = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        place = torch.cat(
            [
                transformer.places(self.position, level, one) + name
                for level, one, name in zip(levels, inside, self.levels.to(x.dtype), strict=True)
            ],
            dim=1,
        )
        centres = torch.cat(transformer.cell_centres(inside), dim=1)
        reference = centres[:, :, None] * ratios[:, None]
        for layer in self.encoder:
            x = layer(
                x, seen, spatial_position_embeddings=place, reference_points=reference, **around
            )
        every, queries, reference = self._ask(x, inside, images.sizes)
        return every + self._decode(
            x, queries, reference, seen=seen, ratios=ratios, around=around, sizes=images.sizes
        )

    def _ask(
        self, x: Tensor, inside: Sequence[Tensor], sizes: Tensor
    ) -> tuple[list[Said], Tensor, Tensor]:
        """What cells say; queries (B, N, 2 · C), and where each looks (B, N, …)."""
        if self.two_stage:
            found = self.proposals(x, inside)
            said = transformer.say(found.logits, found.boxes, sizes)
            return [said._replace(any_class=True)], found.queries, found.reference
        queries = self.queries.repeat(len(x), 1, 1)
        reference = self.reference_points(queries.chunk(2, dim=-1)[0]).float().sigmoid()
        return [], queries, reference

    def _decode(
        self,
        x: Tensor,
        queries: Tensor,
        reference: Tensor,
        *,
        seen: Tensor,
        ratios: Tensor,
        around: dict[str, object],
        sizes: Tensor,
    ) -> list[Said]:
        position, y = queries.to(x.dtype).chunk(2, dim=-1)
        every = []
        for number, layer in enumerate(self.decoder):
            scale = ratios if reference.shape[-1] == 2 else ratios.repeat(1, 1, 2)
            y = layer(
                y,
                position,
                reference[:, :, None] * scale[:, None],
                encoder_hidden_states=x,
                encoder_attention_mask=seen,
                **around,
            )
            own, read = number if self.refine else 0, y.to(self.cls[0].weight.dtype)
            boxes = _move(self.reg[own](read).float(), reference)
            every.append(transformer.say(self.cls[own](read), boxes, sizes))
            if self.refine:
                reference = boxes.detach()
        return every

    def parts(self) -> dict[str, nn.Module]:
        """The layers in their order."""
        return transformer.layers_by_name(self.encoder, self.decoder)

    def predictors(self, rows: Predictor) -> dict[str, Predictor]:
        """The tensors that have `rows` by class."""
        both = ("weight", "bias")
        found = {f"cls.{n}.{part}": rows for n in range(len(self.cls)) for part in both}
        if self.two_stage:
            found |= {f"proposals.cls.{part}": rows._replace(named=False) for part in both}
        return found


class Sampling(nn.Module):
    """The library's sampling in the precision of where it looks, which is float32 at least."""

    def __init__(self, sampling: nn.Module) -> None:
        super().__init__()
        self.sampling = sampling

    def forward(
        self,
        value: Tensor,
        shapes: Tensor,
        listed: list[tuple[int, int]],
        starts: Tensor | None,
        where: Tensor,
        weights: Tensor,
        step: int,
    ) -> Tensor:
        exact, own = (x.to(where.dtype) for x in (value, weights))
        seen: Tensor = self.sampling(exact, shapes, listed, starts, where, own, step)
        return seen.to(value.dtype)


def _move(moved: Tensor, reference: Tensor) -> Tensor:
    """Boxes (B, N, 4) of cxcywh in 0…1: what is said, added to the reference before its sigmoid.

    in   moved  (B, N, 4);  reference  (B, N, 2) a point or (B, N, 4) a box, in 0…1
    """
    low, high = reference.clamp(min=LEAST), (1 - reference).clamp(min=LEAST)
    start = (low / high).log()
    there = start.shape[-1]
    return torch.cat([moved[..., :there] + start, moved[..., there:]], dim=-1).sigmoid()


def _inner_share(inside: Tensor) -> Tensor:
    """Share of the width and of the height that is no padding: (B, 2) of (B, h, w)."""
    width, height = inside[:, 0].float().mean(dim=1), inside[:, :, 0].float().mean(dim=1)
    return torch.stack([width, height], dim=1)


def _ring(config: DeformableConfig, levels: int) -> Tensor:
    """Where heads look at first: each in a direction of its own, its points 1 … cells away."""
    angle = torch.arange(config.attention_heads, device="cpu") * (
        2 * math.pi / config.attention_heads
    )
    ways = torch.stack([angle.cos(), angle.sin()], dim=1)
    ways = ways / ways.abs().amax(dim=1, keepdim=True)
    far = torch.arange(1, config.points + 1, device="cpu")
    # (heads, levels, points, 2)
    ring = ways[:, None, None] * far[None, None, :, None]
    return ring.expand(-1, levels, -1, -1).flatten()

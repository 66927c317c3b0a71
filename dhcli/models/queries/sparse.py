"""Sparse R-CNN's head: learned proposals, and stages that each speak to their own RoI.

"Sparse R-CNN: End-to-End Object Detection with Learnable Proposals" (Sun et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import SparseHead as SparseConfig
from dhcli.models.contract import Predictor
from dhcli.models.init import spread_xavier, start_rarely
from dhcli.models.queries.set_loss import Said
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import ImageBatch
from dhcli.ops.boxes import decode_boxes


class SparseHead(nn.Module):
    """N learned boxes and features, the same for every image; each stage refines all of them.

    in   levels  (B, C, h, w) float each
    out  what each stage says
    """

    def __init__(self, config: SparseConfig, pool: Pool, channels: int, classes: int) -> None:
        super().__init__()
        whole = torch.tensor([0.5, 0.5, 1.0, 1.0])
        self.boxes = nn.Parameter(whole.repeat(config.proposals, 1))  # cxcywh, parts of the image
        self.features = nn.Parameter(torch.randn(config.proposals, channels))
        self.box_std = config.box_std
        self.pool = pool
        self.stages = nn.ModuleList(
            Stage(config, channels, pool.size, classes) for _ in range(config.stages)
        )

    def forward(self, levels: Sequence[Tensor], batch: ImageBatch) -> list[Said]:
        boxes = self.first_boxes(batch.sizes)
        size, count = boxes.shape[:2]
        images = torch.arange(size, device=boxes.device).repeat_interleave(count)
        features = self.features.repeat(size, 1, 1)
        every = []
        for stage in self.stages:
            # What is learned of a box comes through its decoding alone, as RoIAlign has it
            pooled = self.pool(levels, boxes.detach().flatten(0, 1), images)
            logits, deltas, features = stage(pooled, features)
            boxes = decode_boxes(deltas, boxes, self.box_std)
            every.append(Said(logits.float(), boxes))
            boxes = boxes.detach()
        return every

    def parts(self) -> dict[str, nn.Module]:
        """The pool, and the stages in their order."""
        return {"pool": self.pool, **{f"stage {n}": one for n, one in enumerate(self.stages, 1)}}

    def predictors(self, rows: Predictor) -> dict[str, Predictor]:
        """The tensors that have `rows` by class."""
        both = ("weight", "bias")
        return {f"stages.{n}.cls.{part}": rows for n in range(len(self.stages)) for part in both}

    def first_boxes(self, sizes: Tensor) -> Tensor:
        """The learned boxes in each image, (B, N, 4) float32 xyxy."""
        centre, half = self.boxes[:, :2].float(), self.boxes[:, 2:].float() / 2
        parts = torch.cat([centre - half, centre + half], dim=1)
        return parts * sizes.flip(1).repeat(1, 2)[:, None].to(parts)


class Stage(nn.Module):
    """The proposals of an image see each other, then each its RoI; then they score and refine.

    in   pooled    (B · N, C, S, S) float;  features  (B, N, C) float
    out  logits    (B, N, K);  deltas  (B, N, 4);  features  (B, N, C) for the next stage
    """

    def __init__(self, config: SparseConfig, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.attention = Attention(channels, config.attention_heads)
        self.attention_norm = nn.LayerNorm(channels)
        self.dynamic = DynamicConv(channels, config.dynamic_width, side)
        self.dynamic_norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, config.ffn_width),
            nn.ReLU(),
            nn.Linear(config.ffn_width, channels),
        )
        self.ffn_norm = nn.LayerNorm(channels)
        self.cls_tower = _tower(channels, config.cls_layers)
        self.cls = nn.Linear(channels, classes)
        self.reg_tower = _tower(channels, config.reg_layers)
        self.reg = nn.Linear(channels, 4)
        spread_xavier(self)
        start_rarely(self.cls)

    def forward(self, pooled: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        batch = len(features)
        x = features.to(self.reg.weight.dtype)
        x = self.attention_norm(x + self.attention(x)).flatten(0, 1)  # (B · N, C)
        x = self.dynamic_norm(x + self.dynamic(x, pooled.to(x.dtype)))
        x = self.ffn_norm(x + self.ffn(x))
        said = self.cls(self.cls_tower(x)), self.reg(self.reg_tower(x)), x
        logits, deltas, own = (part.unflatten(0, (batch, -1)) for part in said)
        return logits, deltas, own


class Attention(nn.Module):
    """Each of the proposals of an image looks at all of them ("Attention Is All You Need").

    in, out  (B, N, C) float
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.inputs.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, N, C / heads)
            for part in self.inputs(x).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.output(seen.transpose(1, 2).flatten(2))
        return mixed


class DynamicConv(nn.Module):
    """Two layers over the cells of a RoI whose weights its proposal makes, then one over them all.

    in   features  (N, C) float;  pooled  (N, C, S, S) float
    out  (N, C) float
    """

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__()
        self.width = width
        self.weights = nn.Linear(channels, 2 * channels * width)
        self.norm_in = nn.LayerNorm(width)
        self.norm_out = nn.LayerNorm(channels)
        self.fc = nn.Linear(channels * side**2, channels)
        self.fc_norm = nn.LayerNorm(channels)

    def forward(self, features: Tensor, pooled: Tensor) -> Tensor:
        first, second = self.weights(features).chunk(2, dim=1)
        x = pooled.flatten(2).mT  # (N, S², C): cells row by row
        x = F.relu(self.norm_in(x @ first.unflatten(1, (-1, self.width))))
        x = F.relu(self.norm_out(x @ second.unflatten(1, (self.width, -1))))
        return F.relu(self.fc_norm(self.fc(x.flatten(1))))


def _tower(channels: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(layers):
        parts += [nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU()]
    return nn.Sequential(*parts)

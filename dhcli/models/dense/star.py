"""Towers that look at a box before they refine and score it.

"VarifocalNet: An IoU-aware Dense Object Detector" (Zhang et al., 2021), §3.3, §3.4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import DenseHead as HeadConfig
from dhcli.models.dense.head import Level, Maps, Towers, scaled, tower
from dhcli.models.init import init_normal
from dhcli.ops.deform_conv import deform_conv

GRADIENT = 0.1
"""Share of the gradient that goes through where is looked."""


class StarTowers(Towers):
    """Towers whose boxes are first found by one more convolution, then refined and scored.

    A deformable 3×3 convolution at the end of each tower looks at the nine points of the first box:
    corners, middles of sides, and the cell. Distances are exponentials, so that refining adds.

    in   x  (B, C, h, w) float, of `level`
    out  Maps of one prior a cell
    """

    def __init__(self, config: HeadConfig, channels: int, classes: int, unit: float) -> None:
        super().__init__(config, channels, 1, classes)
        width = config.width if config.reg_layers else channels
        self.unit = unit
        self.reg_conv = tower(config, width, 1)
        self.reg_star = Star(width)
        self.refine = nn.Conv2d(width, 4, config.kernel, padding=config.kernel // 2)
        self.cls_star = Star(config.width if config.cls_layers else channels)
        init_normal(self.refine, std=0.01)

    def forward(self, x: Tensor, level: Level) -> Maps:
        on_cls, on_reg = self.cls_convs(x), self.reg_convs(x)
        on_first = self.reg_conv(on_reg)
        first = scaled(self.reg(on_first), level.scale).float()
        quality = None if self.quality is None else self.quality(on_first)
        look = star_offsets(first.exp() * self.unit)
        more = scaled(self.refine(self.reg_star(on_reg, look)), level.refined).float()
        logits = self.cls(self.cls_star(on_cls, look))
        return Maps(logits, first.detach() + more, quality, first)


class Star(nn.Module):
    """A 3×3 convolution without bias at other points than the neighbours, and a ReLU.

    in   x  (B, C, h, w) float;  offsets  (B, 18, h, w) float32, dy and dx of each tap in cells
    out  (B, C, h, w) float
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        # Neither torchvision's kernel nor a sum of rows is made for bfloat16
        out = deform_conv(x.float(), offsets.float(), self.weight.float())
        return F.relu(out).to(x.dtype)


def star_offsets(distances: Tensor) -> Tensor:
    """Where the taps of a 3×3 convolution go, beside where they are: (B, 18, h, w), dy, dx of each.

    in   distances  (B, 4, h, w) float32 left, top, right, bottom in cells
    """
    seen = (1 - GRADIENT) * distances.detach() + GRADIENT * distances
    left, top, right, bottom = seen.unbind(1)
    none = torch.zeros_like(left)
    rows, columns = (-top, none, bottom), (-left, none, right)
    offsets = [
        part - place
        for row, y in zip(rows, (-1, 0, 1), strict=True)
        for column, x in zip(columns, (-1, 0, 1), strict=True)
        for part, place in ((row, y), (column, x))
    ]
    return torch.stack(offsets, dim=1)

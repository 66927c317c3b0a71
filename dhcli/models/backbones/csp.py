"""YOLOX's CSPDarknet: C2 … C5."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import Csp
from dhcli.models.contract import Features
from dhcli.models.norms import norm_layer
from dhcli.models.state import load_state
from dhcli.models.units import ConvUnit, CspLayer, Norm, unit_3x3

WIDTHS = (64, 128, 256, 512, 1024)
"""Channels of the stem and of the four stages at width 1."""
BLOCKS = (3, 9, 9, 3)
"""Residual blocks of the stages at depth 1."""


class CspFeatures(Features):
    """CSPDarknet ("YOLOX"), under MMDetection's names.

    A stage is a 3×3 of stride 2 and a CSP layer, whose blocks have shortcuts except in the last
    stage; that one has spatial pyramid pooling between.

    in   (B, 3, H, W) float;  sides are multiples of 32
    out  C2 … C5, strides 4, 8, 16, 32;  `channels` says how many channels each has
    """

    def __init__(self, config: Csp) -> None:
        super().__init__()
        self.name = "CSPDarknet"
        norm = norm_layer(config.norm, config.bn_epsilon, config.bn_momentum)
        stem, *self.channels = (int(width * config.width) for width in WIDTHS)
        self.strides = [4, 8, 16, 32]
        self.stem = Focus(stem, norm)
        self.stage1, self.stage2, self.stage3, self.stage4 = self._stages = [
            self._stage(number, inputs, outputs, config, norm)
            for number, (inputs, outputs) in enumerate(
                zip([stem, *self.channels], self.channels, strict=False)
            )
        ]
        self.freeze(config.frozen_stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, levels = self.stem(x), []
        for stage in self._stages:
            x = stage(x)
            levels.append(x)
        return levels

    def stages(self) -> list[list[nn.Module]]:
        every: list[nn.Module] = [self.stem, *self._stages]
        return [[stage] for stage in every]

    def load_pretrained(self, state: Mapping[str, Tensor], where: object, hint: str) -> None:
        load_state(self, state, where, hint)

    @staticmethod
    def _stage(number: int, inputs: int, outputs: int, config: Csp, norm: Norm) -> nn.Sequential:
        last, deep = number == 3, config.depthwise
        blocks = max(round(BLOCKS[number] * config.depth), 1)
        layer = CspLayer(outputs, outputs, blocks, norm, shortcut=not last, depthwise=deep)
        down = unit_3x3(inputs, outputs, norm, stride=2, depthwise=deep)
        return nn.Sequential(down, *([Spp(outputs, norm)] if last else []), layer)


class Focus(nn.Module):
    """Pixels to half their height and width: four of them as twelve channels, then a 3×3.

    The four in the order top left, bottom left, top right, bottom right.

    in   (B, 3, H, W) float, even sides
    out  (B, channels, H / 2, W / 2) float
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv = ConvUnit(12, channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., ::2], x[..., 1::2]
        four = left[..., ::2, :], left[..., 1::2, :], right[..., ::2, :], right[..., 1::2, :]
        y: Tensor = self.conv(torch.cat(four, 1))
        return y


class Spp(nn.Module):
    """Maxima over 5×5, 9×9 and 13×13 cells beside each cell itself ("spatial pyramid pooling").

    The maximum over 9×9 is that over 5×5 of those over 5×5, and so on, exactly.

    in, out  (B, channels, H, W) float
    """

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels // 2, 1, norm)
        self.conv2 = ConvUnit(4 * (channels // 2), channels, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.conv1(x)]
        for _ in range(3):
            parts.append(F.max_pool2d(parts[-1], 5, stride=1, padding=2))
        y: Tensor = self.conv2(torch.cat(parts, 1))
        return y

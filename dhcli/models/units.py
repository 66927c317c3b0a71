"""A convolution, its norm and its activation, and the CSP layers that are made of these."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class ConvUnit(nn.Sequential):
    """Convolution, batch norm, activation; the first two named `conv` and `bn`.

    in   (B, inputs, H, W) float
    out  (B, outputs, H / stride, W / stride) float

    kernel, dilation  odd sides are padded so that only `stride` changes the size
    activation        its class; None: none
    """

    conv: nn.Conv2d

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        norm: Norm,
        activation: Callable[..., nn.Module] | None = nn.SiLU,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride, padding, dilation, groups, bias=False
        )
        self.bn = norm(outputs)
        if activation is not None:
            self.activation = activation(inplace=True)


class SeparableUnit(nn.Sequential):
    """A depthwise 3×3 unit, then a 1×1 one: a 3×3 at a fraction of the price ("MobileNets").

    in   (B, inputs, H, W) float
    out  (B, outputs, H / stride, W / stride) float
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, *, stride: int = 1) -> None:
        super().__init__()
        self.depthwise_conv = ConvUnit(inputs, inputs, 3, norm, stride=stride, groups=inputs)
        self.pointwise_conv = ConvUnit(inputs, outputs, 1, norm)


def unit_3x3(
    inputs: int, outputs: int, norm: Norm, *, stride: int = 1, depthwise: bool = False
) -> ConvUnit | SeparableUnit:
    """A 3×3 with SiLU, whole or depthwise."""
    if depthwise:
        return SeparableUnit(inputs, outputs, norm, stride=stride)
    return ConvUnit(inputs, outputs, 3, norm, stride=stride)


class CspBlock(nn.Module):
    """A 1×1 and a 3×3; with `shortcut` what came in is added.

    in, out  (B, channels, H, W) float
    """

    def __init__(self, channels: int, norm: Norm, *, shortcut: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = ConvUnit(channels, channels, 1, norm)
        self.conv2 = unit_3x3(channels, channels, norm, depthwise=depthwise)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return y + x if self.shortcut else y


class CspLayer(nn.Module):
    """Half of the channels go through blocks, half past them ("CSPNet").

    final(cat(blocks(main(x)), short(x))), each of the three a 1×1.

    in   (B, inputs, H, W) float
    out  (B, outputs, H, W) float
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        blocks: int,
        norm: Norm,
        *,
        shortcut: bool,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        half = outputs // 2
        self.main_conv = ConvUnit(inputs, half, 1, norm)
        self.short_conv = ConvUnit(inputs, half, 1, norm)
        self.final_conv = ConvUnit(2 * half, outputs, 1, norm)
        self.blocks = nn.Sequential(
            *(CspBlock(half, norm, shortcut=shortcut, depthwise=depthwise) for _ in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = self.blocks(self.main_conv(x)), self.short_conv(x)
        y: Tensor = self.final_conv(torch.cat(parts, 1))
        return y

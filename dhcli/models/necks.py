"""From the backbone's features to those that a finder sees."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import MapNeck
from dhcli.models.init import init_normal
from dhcli.models.norms import group_norm
from dhcli.models.units import ConvUnit, CspLayer, Norm, unit_3x3


class Fpn(nn.Module):
    """C2 … C5 to P2 … P6, all with the same number of channels ("Feature Pyramid Networks").

    Each level is a 1×1 of its own C plus the coarser level, doubled to its size, then a 3×3.
    A level after the last, such as P6, is every second cell of the one before it, or (`beyond`) a
    3×3 convolution of stride 2.

    in   C2 … C5  (B, c, h, w) float
    out  P2 … P6  (B, channels, h, w) float, of `strides`; `extra` of them after the last

    `first` is the number of the first feature map that is used; `beyond` and `relu` are the
    settings `extra` and `extra_relu`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: int = 256,
        extra: int = 1,
        first: int = 0,
        beyond: str = "subsample",
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.extra = extra
        self.beyond = beyond
        self.relu = relu
        self.used = slice(first, first + len(in_channels))
        self.strides = [*in_strides, *(in_strides[-1] << (k + 1) for k in range(extra))]
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        inputs = [in_channels[-1] if beyond == "on_input" else channels]
        inputs += [channels] * (extra - 1)
        self.further = nn.ModuleList(
            nn.Conv2d(c, channels, 3, stride=2, padding=1)
            for c in (() if beyond == "subsample" else inputs[:extra])
        )
        for conv in (*self.lateral, *self.output, *self.further):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.constant_(conv.bias, 0)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        used = features[self.used]
        merged = [lateral(c) for lateral, c in zip(self.lateral, used, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            coarser = F.interpolate(merged[level], size=finer.shape[-2:], mode="nearest")
            merged[level - 1] = coarser.add_(finer)
        levels = [output(p) for output, p in zip(self.output, merged, strict=True)]
        if self.beyond != "subsample":
            return levels + self._extend(used[-1], levels[-1])
        for _ in range(self.extra):
            levels.append(levels[-1][:, :, ::2, ::2])
        return levels

    def _extend(self, features: Tensor, level: Tensor) -> list[Tensor]:
        """The levels by convolutions, of the last `features` or the last `level`."""
        x, levels = features if self.beyond == "on_input" else level, []
        # On a CPU the gradient of one cell's convolution in bfloat16 is not finite
        with torch.autocast("cpu", enabled=False):
            for number, conv in enumerate(self.further):
                x = F.relu(x) if self.relu and number else x
                x = conv(x.to(next(conv.parameters()).dtype))
                levels.append(x)
        return [own.to(level.dtype) for own in levels]


class Maps(nn.Module):
    """Each level by a convolution of its own to the same number of channels (Deformable DETR).

    A 1×1 of each C; a level after the last is a 3×3 of stride 2, first of the coarsest C, then of
    the level before.

    in   C2 … C5  (B, c, h, w) float
    out  a level (B, channels, h, w) float for each of `strides`; `extra` of them after the last

    `first` is the number of the first feature map that is used.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        config: MapNeck,
        extra: int,
        first: int,
    ) -> None:
        super().__init__()
        self.channels = channels = config.channels
        self.used = slice(first, first + len(in_channels))
        self.strides = config.strides()
        self.maps = nn.ModuleList(Map(c, config) for c in in_channels)
        sources = [in_channels[-1], *[channels] * extra][:extra]
        self.extra = nn.ModuleList(Map(c, config, halve=True) for c in sources)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        used = features[self.used]
        levels = [one(c) for one, c in zip(self.maps, used, strict=True)]
        source = used[-1]
        for one in self.extra:
            source = one(source)
            levels.append(source)
        return levels


class Map(nn.Module):
    """A convolution, 1×1 or, to `halve`, 3×3 of stride 2, and a norm where there is one."""

    def __init__(self, channels: int, config: MapNeck, *, halve: bool = False) -> None:
        super().__init__()
        size, stride, pad = (3, 2, 1) if halve else (1, 1, 0)
        out = config.channels
        self.conv = nn.Conv2d(channels, out, size, stride, pad, bias=config.bias)
        self.norm = group_norm(out) if config.norm == "gn" else nn.Identity()
        nn.init.xavier_uniform_(self.conv.weight)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        level: Tensor = self.norm(self.conv(x))
        return level


class LastFeatures(nn.Module):
    """No pyramid: the backbone's coarsest features as they are.

    in   … C4  (B, c, h, w) float
    out  C4 alone, in a list
    """

    def __init__(self, in_channels: Sequence[int], in_strides: Sequence[int]) -> None:
        super().__init__()
        self.channels = in_channels[-1]
        self.strides = [in_strides[-1]]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [features[-1]]


class DilatedEncoder(nn.Module):
    """C5 alone, made to see near and far: YOLOF's encoder, under MMDetection's names.

    A 1×1 and a 3×3, each with a bias and a norm and no ReLU, then residual blocks ("You Only Look
    One-level Feature").

    in   … C5  (B, inputs, h, w) float
    out  one level, (B, channels, h, w) float, in a list
    """

    def __init__(
        self,
        inputs: int,
        norm: Norm,
        channels: int = 512,
        width: int = 128,
        dilations: Sequence[int] = (2, 4, 6, 8),
    ) -> None:
        super().__init__()
        self.channels, self.strides = channels, [32]
        self.lateral_conv = nn.Conv2d(inputs, channels, 1)
        self.lateral_norm = norm(channels)
        self.fpn_conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.fpn_norm = norm(channels)
        self.dilated_encoder_blocks = nn.Sequential(
            *(DilatedBlock(channels, width, dilation, norm) for dilation in dilations)
        )
        for conv in (self.lateral_conv, self.fpn_conv):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        for block in self.dilated_encoder_blocks.modules():
            if isinstance(block, nn.Conv2d):
                init_normal(block, 0.01)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        x = self.lateral_norm(self.lateral_conv(features[-1]))
        return [self.dilated_encoder_blocks(self.fpn_norm(self.fpn_conv(x)))]


class DilatedBlock(nn.Module):
    """1×1, dilated 3×3, 1×1, each with a norm and a ReLU, and what came in; no ReLU after the sum.

    in, out  (B, channels, h, w) float;  `width` channels between
    """

    def __init__(self, channels: int, width: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        relu = nn.ReLU
        self.conv1 = ConvUnit(channels, width, 1, norm, relu)
        self.conv2 = ConvUnit(width, width, 3, norm, relu, dilation=dilation)
        self.conv3 = ConvUnit(width, channels, 1, norm, relu)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv3(self.conv2(self.conv1(x)))
        return y + x


class PaFpn(nn.Module):
    """A pyramid that goes down and up again, of CSP layers ("YOLOX"), under MMDetection's names.

    Down: a 1×1, doubled, beside the finer features, a CSP layer. Up: a 3×3 of stride 2, beside what
    the 1×1 gave, a CSP layer. Then a 1×1 to `channels` for each level.

    in   … C3, C4, C5  (B, c, h, w) float, of which `in_channels` are the c
    out  P3, P4, P5    (B, channels, h, w) float
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        norm: Norm,
        channels: int = 128,
        blocks: int = 1,
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.strides = channels, [8, 16, 32]
        fine, middle, coarse = in_channels
        layer = partial(CspLayer, blocks=blocks, norm=norm, shortcut=False, depthwise=depthwise)
        down = partial(unit_3x3, norm=norm, stride=2, depthwise=depthwise)
        self.reduce_layers = nn.ModuleList(
            [ConvUnit(coarse, middle, 1, norm), ConvUnit(middle, fine, 1, norm)]
        )
        self.top_down_blocks = nn.ModuleList([layer(2 * middle, middle), layer(2 * fine, fine)])
        self.downsamples = nn.ModuleList([down(fine, fine), down(middle, middle)])
        self.bottom_up_blocks = nn.ModuleList([layer(2 * fine, middle), layer(2 * middle, coarse)])
        self.out_convs = nn.ModuleList(ConvUnit(c, channels, 1, norm) for c in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        x, kept = features[-1], []
        finer = features[-2], features[-3]
        for reduce, merge, beside in zip(
            self.reduce_layers, self.top_down_blocks, finer, strict=True
        ):
            x = reduce(x)
            kept.append(x)
            up = F.interpolate(x, size=beside.shape[-2:], mode="nearest")
            x = merge(torch.cat([up, beside], 1))
        levels = [x]
        for down, merge, beside in zip(
            self.downsamples, self.bottom_up_blocks, reversed(kept), strict=True
        ):
            levels.append(merge(torch.cat([down(levels[-1]), beside], 1)))
        return [out(level) for out, level in zip(self.out_convs, levels, strict=True)]

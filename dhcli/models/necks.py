"""From the backbone's features to those that a finder sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import MapNeck
from dhcli.models.norms import group_norm


class Fpn(nn.Module):
    """C2 … C5 to P2 … P6, all with the same number of channels ("Feature Pyramid Networks").

    Each level is a 1×1 of its own C plus the coarser level, doubled to its size, then a 3×3.
    A level after the last, such as P6, is every second cell of the one before it.

    in   C2 … C5  (B, c, h, w) float
    out  P2 … P6  (B, channels, h, w) float, of `strides`; `extra` of them after the last

    `first` is the number of the first feature map that is used.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        channels: int = 256,
        extra: int = 1,
        first: int = 0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.extra = extra
        self.used = slice(first, first + len(in_channels))
        self.strides = [*in_strides, *(in_strides[-1] << (k + 1) for k in range(extra))]
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )
        for conv in (*self.lateral, *self.output):
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
        for _ in range(self.extra):
            levels.append(levels[-1][:, :, ::2, ::2])
        return levels


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

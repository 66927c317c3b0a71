"""From the backbone's features to those that a finder sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


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
        for number, conv in enumerate(self.further):
            x = conv(F.relu(x) if self.relu and number else x)
            levels.append(x)
        return levels


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

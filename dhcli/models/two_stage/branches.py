"""The two kinds of branch: fully connected layers, and residual blocks.

A branch turns pooled RoIs (N, C, S, S) into vectors (N, D), from which its predictors read.
Sizes are those of "Rethinking Classification and Localization for Object Detection", §4.1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.models.init import init_normal
from dhcli.models.norms import ConvNorms, take_rows

Norm = Callable[[int], nn.Module]


class FcTrunk(nn.Sequential):
    """Fully connected layers on all cells at once: sensitive to position.

    in   (N, C, S, S) float, flattened channel by channel
    out  (N, width) float
    """

    width: int

    def __init__(self, channels: int, side: int, width: int = 1024, layers: int = 2) -> None:
        inputs = [channels * side**2, *[width] * (layers - 1)]
        linear = [nn.Linear(size, width) for size in inputs]
        for layer in linear:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0)
        super().__init__(nn.Flatten(), *(part for layer in linear for part in (layer, nn.ReLU())))
        self.width = width


class ConvTrunk(nn.Sequential):
    """Residual blocks and an average over the cells: the same function at every position.

    A widening block, then bottlenecks, the first `non_local` of them after a non-local block each.

    in   x     (N, C, S, S) float
         rows  (n,) int64, those that are wanted; the others only count in the norms' statistics,
               so that the last block's widest layer need not run on them. None: all
    out  (N or n, width) float
    """

    width: int

    def __init__(
        self,
        channels: int,
        norm: Norm,
        width: int = 1024,
        residual: int = 5,
        non_local: int = 0,
        groups: int = 4,
        normalise: str = "count",
    ) -> None:
        blocks: list[nn.Module] = [WideningBlock(channels, width, norm)]
        for index in range(residual - 1):
            if index < non_local:
                blocks.append(NonLocalBlock(width, norm, groups, normalise))
            blocks.append(BottleneckBlock(width, norm))
        super().__init__(*blocks, CellMean())
        self.width = width

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        *blocks, last, mean = self
        for block in blocks:
            x = block(x)
        means: Tensor = mean(last(x, rows))
        return means


class Res5Trunk(nn.Module):
    """The backbone's last stage, with its stride of 2, and an average over the cells (C4 head).

    in   (N, C, S, S) float, C4 pooled
    out  (N, width) float
    """

    def __init__(self, layer4: nn.Sequential, width: int) -> None:
        super().__init__()
        self.layer4 = layer4
        self.mean = CellMean()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.mean(self.layer4(x))
        return means


class CellMean(nn.Module):
    """The mean over the cells, (N, C, S, S) to (N, C).

    Summed, then divided: so the gradient is divided once a channel, and not once a cell.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=(2, 3)) / (x.shape[2] * x.shape[3])


Trunk = FcTrunk | ConvTrunk | Res5Trunk


class WideningBlock(nn.Module):
    """The first residual block, C to `width` channels (Fig. 5a)."""

    def __init__(self, channels: int, width: int, norm: Norm) -> None:
        super().__init__()
        self.main = ConvNorms(
            _conv(channels, channels, 3),
            norm(channels),
            nn.ReLU(inplace=True),
            _conv(channels, width, 1),
            norm(width),
        )
        self.shortcut = ConvNorms(_conv(channels, width, 1), norm(width))

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return F.relu_(self.main(x, rows).add_(self.shortcut(x, rows)))


class BottleneckBlock(nn.Module):
    """A residual bottleneck, inner layers a quarter as wide (Fig. 5b)."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        inner = width // 4
        self.main = ConvNorms(
            _conv(width, inner, 1),
            norm(inner),
            nn.ReLU(inplace=True),
            _conv(inner, inner, 3),
            norm(inner),
            nn.ReLU(inplace=True),
            _conv(inner, width, 1),
            norm(width),
        )

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        return F.relu_(self.main(x, rows).add_(take_rows(x, rows)))


class NonLocalBlock(nn.Module):
    """Every cell looks at every other (Fig. 5c), in groups of consecutive channels.

    f = θᵀφ / cells ("count", as in the authors' code) or softmax(θᵀφ);  y = f g;
    z = relu(BN(W y) + x). W starts from zero, so that the block starts as the identity.
    """

    def __init__(self, width: int, norm: Norm, groups: int, normalise: str) -> None:
        super().__init__()
        inner = width // 2
        self.groups = groups
        self.normalise = normalise
        self.theta = nn.Conv2d(width, inner, 1)
        self.phi = nn.Conv2d(width, inner, 1)
        self.g = nn.Conv2d(width, inner, 1)
        last = nn.Conv2d(inner, width, 1)
        init_normal(last, std=0.0)
        self.out = ConvNorms(last, norm(width))
        for conv in (self.theta, self.phi, self.g):
            init_normal(conv, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        theta, phi, g = (conv(x).permute(0, 2, 3, 1) for conv in (self.theta, self.phi, self.g))
        cells = [part.flatten(1, 2).chunk(self.groups, -1) for part in (theta, phi, g)]
        # One batched product a group reads views; one product for all groups would read copies.
        y = torch.cat([self._attend(*group) for group in zip(*cells, strict=True)], dim=-1)
        return F.relu_(self.out(y.view_as(theta).permute(0, 3, 1, 2)).add_(x))

    def _attend(self, theta: Tensor, phi: Tensor, g: Tensor) -> Tensor:
        """What each cell takes from all: (N, cells, C / groups)."""
        affinity = theta @ phi.transpose(1, 2)  # (N, cells, cells)
        if self.normalise == "softmax":
            return affinity.softmax(dim=-1) @ g
        return affinity / affinity.shape[-1] @ g


def _conv(inputs: int, outputs: int, size: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def fuse_scores(first: Tensor, second: Tensor, how: str) -> Tensor:
    """Scores of two classifiers as one, class by class (Table 3).

    max            the larger
    average        the mean
    complementary  s = s_fc + s_conv (1 − s_fc)  (Eq. 4); symmetric, never below either

    Both (N, K+1) float probabilities.
    """
    if how == "max":
        return torch.maximum(first, second)
    if how == "average":
        return (first + second) / 2
    return first + second * (1 - first)

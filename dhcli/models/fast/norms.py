"""Norms taken into convolutions, and what lies between two of these made again, not kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck

from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.fast.winograd import convolve
from dhcli.models.norms import ConvNorms, FrozenBatchNorm


class FastBasicBlock(BasicBlock):  # type: ignore[misc]
    """torchvision's, with norms taken into the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = conv_norm(self.conv2, self.bn2, out)
        return F.relu_(out.add_(_shortcut(self, x)))


class FastBottleneck(Bottleneck):  # type: ignore[misc]
    """torchvision's, with norms taken into the convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(conv_norm(self.conv1, self.bn1, x))
        out = F.relu_(conv_norm(self.conv2, self.bn2, out))
        out = conv_norm(self.conv3, self.bn3, out)
        return F.relu_(out.add_(_shortcut(self, x)))


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    if block.downsample is None:
        return x
    conv, norm = block.downsample
    return conv_norm(conv, norm, x)


class FastResNet(ResNetFeatures):
    """Ours, with the stem's norm taken into its convolution."""

    def stem(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(conv_norm(self.conv1, self.bn1, x)), 3, stride=2, padding=1)


class FastConvNorms(ConvNorms):
    """Norms taken in where that is cheap; what batch norm and ReLU give is made again, not kept.

    Exact: the same operations on the same numbers, in the forward pass and again for the gradient.

    in   x     (N, C, h, w) float
         rows  (n,) int64: see `conv_norm`
    """

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        *layers, conv, norm = self
        between: list[nn.Module] = []  # since the last convolution whose output is kept
        for index in range(0, len(layers), 3):
            first, following, relu = layers[index : index + 3]
            if _is_cheap_to_repeat(following, x):
                x, between = self._pass(between, first, x), [following, relu]
            else:
                whole = partial(conv_norm, first, following)
                x, between = relu(self._pass(between, whole, x)), []
        return self._pass(between, partial(conv_norm, conv, norm, rows=rows), x)

    def _pass(
        self, between: Sequence[nn.Module], conv: Callable[[Tensor], Tensor], x: Tensor
    ) -> Tensor:
        """conv(x after `between`); for the gradient what lies `between` is made again, not kept."""

        def run(x: Tensor) -> Tensor:
            for layer in between:
                x = layer(x)
            return conv(x)

        if not between:
            return run(x)
        y: Tensor = checkpoint(
            run,
            x,
            use_reentrant=False,  # this one stops before `conv`, whose result is there
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _untracked(self)),
        )
        return y


def conv_norm(conv: Any, norm: nn.Module, x: Tensor, rows: Tensor | None = None) -> Tensor:
    """norm(conv(x)); as one convolution where the norm's scale and shift can be had beforehand.

    A scale and a shift of a convolution is a convolution: the scale times its weights, and a bias.
    So a pass over the output is saved, and in training its copy for the norm's gradient. With
    `rows` (n,), only theirs are given; the others of x (N, C, h, w) count in the statistics.
    """
    if type(norm) is FrozenBatchNorm:  # exact types: a subclass may do more than its base
        scale, shift = norm.affine()
    elif type(norm) is nn.BatchNorm2d and _statistics_are_cheap(conv, norm, x):
        scale, shift = _batch_affine(conv, norm, x)
    else:
        return take_rows(norm(conv(x)), rows)
    bias = shift if conv.bias is None else shift + scale * conv.bias
    weight, x = conv.weight * scale[:, None, None, None], take_rows(x, rows)
    return convolve(conv, x, weight, bias)


def _is_cheap_to_repeat(norm: nn.Module, x: Tensor) -> bool:
    """Whether its output is made again rather than kept: batch norm in training, on a CPU."""
    return isinstance(norm, nn.BatchNorm2d) and norm.training and x.is_cpu


@contextmanager
def _untracked(network: nn.Module) -> Iterator[None]:
    """Have what the batch norms of `network` see not count in their running statistics again."""
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, (_, batches) in zip(norms, kept, strict=True):
        norm.momentum = 0.0
        norm.num_batches_tracked = None if batches is None else batches.clone()
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def take_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """`rows` (n,) of x (N, C, h, w), or all; channels_last, and so is the gradient."""
    return x if rows is None else x.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)


def _statistics_are_cheap(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether training on a CPU gains by `_batch_affine`: a 1×1 that widens, not in 16 bits."""
    plain = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1
    widens = conv.out_channels >= 2 * conv.in_channels
    exact = x.is_cpu and x.dtype.itemsize >= 4 and not torch.is_autocast_enabled("cpu")
    return norm.training and plain and widens and exact and len(x) > 0


def _batch_affine(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Batch norm's scale and shift of the channels of conv(x), a 1×1, without computing conv(x).

    Of inputs with mean m and covariance C, the outputs W x + b have mean W m + b and variances
    diag(W C Wᵀ). Running statistics move as in nn.BatchNorm2d.
    """
    cells = x.permute(0, 2, 3, 1).flatten(0, 2)  # (N·h·w, C), a view in channels_last
    weight, count = conv.weight.flatten(1), len(cells)
    centre, covariance = _Moments.apply(cells)
    mean = weight @ centre if conv.bias is None else weight @ centre + conv.bias
    variance = ((weight @ covariance) * weight).sum(1).clamp(min=0)
    _move_statistics(norm, mean.detach(), variance.detach() * count / max(count - 1, 1))
    scale = norm.weight * (variance + norm.eps).rsqrt()
    return scale, norm.bias - mean * scale


class _Moments(torch.autograd.Function):
    """The mean m (C,) and the covariance (X − m)ᵀ(X − m) / n (C, C) of X (n, C).

    XᵀX / n − mmᵀ would lose the digits of a variance that is small beside m². The gradient is
    that for a gradient G of the covariance which is symmetric, as that of diag(W C Wᵀ) is:
    2 (X − m) G / n, so that X itself is all that is kept.
    """

    @staticmethod
    def forward(ctx: Any, cells: Tensor) -> tuple[Tensor, Tensor]:
        centre = cells.mean(0)
        ctx.save_for_backward(cells, centre)
        centred = cells - centre
        return centre, centred.T @ centred / len(cells)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        cells, centre = ctx.saved_tensors
        of_centre, of_covariance = (gradient / len(cells) for gradient in given)
        matrix = 2 * of_covariance
        return torch.addmm(of_centre - centre @ matrix, cells, matrix)


def _move_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    assert norm.momentum is not None
    for running, value in ((norm.running_mean, mean), (norm.running_var, variance)):
        assert running is not None
        running.lerp_(value, norm.momentum)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)

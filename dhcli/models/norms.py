"""Norms, and convolutions that take theirs in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dhcli.models.fast.winograd import convolve


class FrozenBatchNorm(nn.Module):
    """Batch norm as a fixed scale and shift; state-dict names of nn.BatchNorm2d.

    y = (x − running_mean) / √(running_var + eps) · weight + bias

    `affine_learns`: only the statistics are fixed, weight and bias learn (MMDetection).
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, affine_learns: bool = False) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", torch.ones(channels)), ("bias", torch.zeros(channels))):
            if affine_learns:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (part.to(x.dtype)[:, None, None] for part in self.affine())
        return torch.addcmul(shift, x, scale)

    def affine(self) -> tuple[Tensor, Tensor]:
        """The scale and the shift of each channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale


def norm_layer(kind: str, eps: float = 1e-5) -> Callable[[int], nn.Module]:
    """The norm named `kind`, to be called with a channel count: frozen_bn, eval_bn, bn or gn."""
    if kind == "gn":
        return group_norm
    if kind == "bn":
        return partial(nn.BatchNorm2d, eps=eps)
    return partial(FrozenBatchNorm, eps=eps, affine_learns=kind == "eval_bn")


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in 32 groups, or in fewer where 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


class ConvNorms(nn.Sequential):
    """Convolution, norm, ReLU, convolution, norm, and so on; a norm is the last.

    in   x (N, C, h, w);  rows as of `conv_norm`
    """

    def forward(self, x: Tensor, rows: Tensor | None = None) -> Tensor:
        *layers, conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        between: list[nn.Module] = []  # since the last convolution whose output is kept
        for index in range(0, len(layers), 3):
            first, following, relu = layers[index : index + 3]
            assert isinstance(first, nn.Conv2d)
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


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor, rows: Tensor | None = None) -> Tensor:
    """norm(conv(x)); as one convolution where the norm's scale and shift can be had beforehand.

    A scale and a shift of a convolution is a convolution: the scale times its weights, and a bias.
    So a pass over the output is saved, and in training its copy for the norm's gradient. With
    `rows` (n,), only theirs are given; the others of x (N, C, h, w) count in the statistics.
    """
    if isinstance(norm, FrozenBatchNorm):
        scale, shift = norm.affine()
    elif isinstance(norm, nn.BatchNorm2d) and _statistics_are_cheap(conv, norm, x):
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

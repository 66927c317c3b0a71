"""Norms, and convolutions each followed by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from dhcli.errors import ConfigError


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


def norm_layer(kind: str, eps: float = 1e-5, momentum: float = 0.1) -> Callable[[int], nn.Module]:
    """The norm named `kind`, to be called with a channel count: frozen_bn, eval_bn, bn or gn."""
    if kind == "gn":
        return group_norm
    if kind == "bn":
        return partial(nn.BatchNorm2d, eps=eps, momentum=momentum)
    return partial(FrozenBatchNorm, eps=eps, affine_learns=kind == "eval_bn")


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in 32 groups, or in fewer where 32 does not divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def synchronise(module: nn.Module, device: torch.device) -> None:
    """Let batch norms take their statistics over the batches of all processes, on GPUs.

    The modules get another class and keep all else. Raises ConfigError on another device, for which
    torch has no such norm.
    """
    if device.type != "cuda":
        hint = "leave it out, or use norms without statistics (frozen_bn, gn)"
        raise ConfigError(f"works on GPUs only, not on {device}", where="train.sync_bn", hint=hint)
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = nn.SyncBatchNorm  # type: ignore[assignment]
            part.process_group = None  # type: ignore[assignment]


class ConvNorms(nn.Sequential):
    """Convolution, norm, ReLU, convolution, norm, and so on; a norm is the last.

    in   (N, C, h, w) float
    Raises ValueError for layers in another order.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        relus = [k for k, layer in enumerate(layers) if isinstance(layer, nn.ReLU)]
        if len(layers) % 3 != 2 or relus != list(range(2, len(layers), 3)):
            raise ValueError("convolution, norm, ReLU, convolution, norm, …: a norm is the last")

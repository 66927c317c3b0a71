"""Depthwise convolutions in float32 on CPUs, whatever the rest of the network computes in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dhcli.models.backbones.timm_net import SameConv2d


class _FloatOnCpu(nn.Module):
    """Before a convolution: its own computation, in float32 on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y: Tensor = super().forward(x.float() if x.is_cpu else x)
        return y


class FloatDepthwiseConv(_FloatOnCpu, nn.Conv2d):
    """nn.Conv2d of one channel per group. On a CPU its gradient in bf16 takes three times as long.

    in   (B, C, H, W) float
    out  (B, O, H', W'), float32 on a CPU
    """


class FloatDepthwiseSameConv(_FloatOnCpu, SameConv2d):
    """As FloatDepthwiseConv, padded as TensorFlow's SAME."""


FLOAT_DEPTHWISE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: FloatDepthwiseConv,
    SameConv2d: FloatDepthwiseSameConv,
}


def is_depthwise(module: nn.Module) -> bool:
    """Whether every group of the convolution `module` sees one channel of its own."""
    return isinstance(module, nn.Conv2d) and 1 < module.groups == module.in_channels

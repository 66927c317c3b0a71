"""EfficientNet-Lite0 by its file alone: the layers that the names of `_blocks.…` stand for."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
DOWN = {1, 3, 5, 11}
"""Blocks of stride 2 (Tan & Le, "EfficientNet", table 1)."""


def logits(state: State, pixels: Tensor) -> Tensor:
    """(B, 1000) of RGB images (B, 3, H, W) on the 0–255 scale, as the published model gives."""
    x = conv(state, "_conv_stem", "_bn0", (pixels - 127.5) / 127.5, stride=2).clamp(0, 6)
    for number in range(16):
        x = block(state, f"_blocks.{number}.", x, 2 if number in DOWN else 1)
    x = conv(state, "_conv_head", "_bn1", x).clamp(0, 6).mean(dim=(2, 3))
    return F.linear(x, state["_fc.weight"], state["_fc.bias"])


def block(state: State, at: str, x: Tensor, stride: int) -> Tensor:
    """An inverted residual block; the first one does not expand."""
    y = x
    if f"{at}_expand_conv.weight" in state:
        y = conv(state, f"{at}_expand_conv", f"{at}_bn0", y).clamp(0, 6)
    y = conv(state, f"{at}_depthwise_conv", f"{at}_bn1", y, stride, len(y[0])).clamp(0, 6)
    y = conv(state, f"{at}_project_conv", f"{at}_bn2", y)
    return x + y if x.shape == y.shape else y


def conv(state: State, name: str, norm: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
    """A convolution padded as TensorFlow's SAME does, more after than before, and its norm."""
    weight = state[f"{name}.weight"]
    over = [max((-(-n // stride) - 1) * stride + weight.shape[-1] - n, 0) for n in x.shape[-2:]]
    height, width = over
    x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
    x = F.conv2d(x, weight, stride=stride, groups=groups)
    parts = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x, *(state[f"{norm}.{part}"] for part in parts), eps=1e-3)

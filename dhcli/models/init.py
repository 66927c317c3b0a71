"""First values of weights."""

from __future__ import annotations

from torch import nn


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Weights from N(0, std²), biases 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)

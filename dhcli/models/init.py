"""First values of weights."""

from __future__ import annotations

import math

from torch import nn

FIRST_SCORE = 0.01
"""Of every class that is scored by a sigmoid: most of what is seen is no object."""


def init_normal(layer: nn.Conv2d | nn.Linear, std: float) -> None:
    """Weights from N(0, std²), biases 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def spread_xavier(layers: nn.Module) -> None:
    """Every matrix from Xavier's uniform distribution."""
    for weight in layers.parameters():
        if weight.ndim > 1:
            nn.init.xavier_uniform_(weight)


def start_rarely(layer: nn.Conv2d | nn.Linear) -> None:
    """The bias from which all scores begin at `FIRST_SCORE` ("Focal Loss", §4.1)."""
    nn.init.constant_(layer.bias, -math.log(1 / FIRST_SCORE - 1))  # type: ignore[arg-type]

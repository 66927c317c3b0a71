"""First values of weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FIRST_SCORE = 0.01
"""Of every class that is scored by a sigmoid: most of what is seen is no object."""


class Undrawn(TorchFunctionMode):
    """A context in which no weight is drawn: what builds here gets its values from a file.

    Most of the time that it takes to build a detector goes into random numbers.
    """

    DRAWS: tuple[Any, ...] = (
        *(Tensor.normal_, Tensor.uniform_),
        *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
    )

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in self.DRAWS:
            return args[0] if args else named["tensor"]
        return func(*args, **named)


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

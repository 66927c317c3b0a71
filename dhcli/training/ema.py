"""A moving average of the weights, which often generalises better than the last ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Ema(Generic[Net]):
    """average ← d · average + (1 − d) · weights, with d = min(decay, (1 + n) / (10 + n)).

    With a `ramp`, d = decay · (1 − exp(−n / ramp)) ("YOLOX").

    n counts updates, so the random weights of the start are soon forgotten. Running statistics
    are averaged like weights, since they belong to them; counters are copied. `module` is a copy
    of the network that holds the average, in eval mode.
    """

    def __init__(self, module: Net, decay: float, ramp: int = 0) -> None:
        self.decay, self.ramp = decay, ramp
        self.updates = 0
        self.module = copy.deepcopy(module).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: Net) -> None:
        """Move the average towards the weights of `module`."""
        self.updates += 1
        decay = self._decay_now()
        averages, weights = _floats(self.module), _floats(module)
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in zip(_others(self.module), _others(module), strict=True):
            average.copy_(value)

    def _decay_now(self) -> float:
        if self.ramp:
            return self.decay * (1 - math.exp(-self.updates / self.ramp))
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    def state_dict(self) -> dict[str, Any]:
        """The average and how many updates made it."""
        return {"updates": self.updates, "average": self.module.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.updates = int(state["updates"])
        self.module.load_state_dict(state["average"])


def _floats(module: nn.Module) -> list[Tensor]:
    return [x for x in module.state_dict().values() if x.is_floating_point()]


def _others(module: nn.Module) -> list[Tensor]:
    return [x for x in module.state_dict().values() if not x.is_floating_point()]

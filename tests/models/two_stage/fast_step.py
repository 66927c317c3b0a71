"""A training step of a head before and after it is made fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import Target

ABSENT: dict[str, Any] = {"materialize_grads": True}
"""A weight that takes no part has a gradient of zeros."""


def assert_fast_changes_nothing(
    head: Any,
    levels: Sequence[Tensor],
    proposals: Sequence[Tensor],
    targets: Sequence[Target],
    sizes: Tensor,
    atol: float = 1e-5,
) -> None:
    """Losses and gradients, of features and of all weights, are the same but for `atol`."""
    features = [level.requires_grad_() for level in levels]

    def step() -> list[Tensor]:
        losses = head.losses(features, proposals, targets, sizes)
        wanted = [*features, *head.parameters()]
        return [*losses.values(), *torch.autograd.grad(sum(losses.values()), wanted, **ABSENT)]

    expected = step()
    prepare_for_training(head)

    for one, other in zip(step(), expected, strict=True):
        assert torch.allclose(one, other, atol=atol * (1 + other.abs().max().item()))

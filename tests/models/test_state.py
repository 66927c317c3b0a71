from __future__ import annotations

import pytest
import torch
from torch import nn

from dhcli.errors import ModelError
from dhcli.models.state import load_state, shorten


def test_differences_are_listed_shortly_and_nothing_is_copied() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = {f"x.{i}": torch.zeros(1) for i in range(5)}
    state |= {"0.weight": torch.zeros(3, 2), "0.bias": torch.zeros(2)}

    with pytest.raises(ModelError) as caught:
        load_state(module, state, where="w.pth")

    assert str(caught.value) == (
        "w.pth: does not fit the network: "
        "missing: 1.weight, 1.bias, 2.weight and 1 more; "
        "unknown: x.0, x.1, x.2 and 2 more; "
        "of another shape: 0.weight 3×2 instead of 2×2"
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_counters_of_batch_norm_may_be_absent_or_too_many() -> None:
    norm, bare = nn.BatchNorm2d(2), nn.GroupNorm(1, 2)
    counter = {"num_batches_tracked": torch.tensor(7)}
    statistics = {"running_mean": torch.ones(2), "running_var": torch.ones(2)}
    affine = {"weight": torch.full((2,), 3.0), "bias": torch.zeros(2)}
    wrapped, bare_wrapped = nn.Sequential(norm), nn.Sequential(bare)

    load_state(wrapped, {f"0.{k}": v for k, v in (affine | statistics).items()}, where=None)
    load_state(bare_wrapped, {f"0.{k}": v for k, v in (affine | counter).items()}, where=None)

    assert norm.weight.tolist() == [3, 3]
    assert bare.weight.tolist() == [3, 3]
    assert norm.num_batches_tracked == 0


def test_shorten_counts_the_rest() -> None:
    assert shorten(["a", "b", "c"]) == "a, b, c"
    assert shorten(["a", "b", "c", "d"]) == "a, b, c and 1 more"

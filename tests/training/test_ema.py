from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dhcli.training.ema import Ema


def _scalar(value: float) -> nn.BatchNorm1d:
    module = nn.BatchNorm1d(1)
    with torch.no_grad():
        module.weight.fill_(value)
    return module


def test_average_forgets_the_start_quickly_then_slowly() -> None:
    ema = Ema(_scalar(0.0), decay=0.25)

    values = []
    for _ in range(3):
        ema.update(_scalar(1.0))
        values.append(ema.module.weight.item())

    # d = min(0.25, (1 + n) / (10 + n)) = 2/11, 3/12, 0.25
    first = 1 - 2 / 11
    second = first * 0.25 + 0.75
    assert values == pytest.approx([first, second, second * 0.25 + 0.75])


def test_statistics_are_averaged_and_counters_copied() -> None:
    source, ema = _scalar(0.0), Ema(_scalar(0.0), decay=0.5)
    source.running_mean.fill_(11.0)
    source.num_batches_tracked.fill_(7)

    ema.update(source)

    assert ema.module.running_mean.item() == pytest.approx(9.0)
    assert ema.module.num_batches_tracked.item() == 7


def test_state_goes_on_where_it_was() -> None:
    ema, other = Ema(_scalar(0.0), decay=0.99), Ema(_scalar(5.0), decay=0.99)
    ema.update(_scalar(1.0))

    other.load_state_dict(ema.state_dict())
    ema.update(_scalar(1.0))
    other.update(_scalar(1.0))

    assert other.module.weight.item() == ema.module.weight.item()


def test_average_does_not_learn() -> None:
    ema = Ema(_scalar(0.0).train(), decay=0.9)

    assert not ema.module.training
    assert not any(weight.requires_grad for weight in ema.module.parameters())


def test_a_ramp_begins_with_the_weights_and_ends_at_the_decay() -> None:
    ema = Ema(_scalar(0.0), decay=0.9, ramp=10)

    ema.update(_scalar(1.0))
    first = ema.module.weight.item()
    ema.updates = 10_000
    ema.update(_scalar(2.0))

    start = 1 - 0.9 * (1 - math.exp(-1 / 10))
    assert first == pytest.approx(start)
    assert ema.module.weight.item() == pytest.approx(0.9 * start + 0.1 * 2.0)

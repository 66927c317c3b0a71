"""What is counted and timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dhcli.runtime.eager import Runtime, restore_detector
from dhcli.studies import speed as benchmark
from dhcli.studies.speed import drawn_batch, measure_speed
from dhcli.weights.model_file import ModelFile


def test_arithmetic_is_that_of_the_layers(
    small_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SIDE", 64)
    detector = Runtime("cpu").prepare(restore_detector(small_model("car"), torch.device("cpu")))
    one, two = drawn_batch((64, 96), 1, 32), drawn_batch((64, 96), 2, 32)

    single, double = measure_speed(detector, one, 1), measure_speed(detector, two, 1)

    stem = 2 * 3 * 64 * 49 * 32 * 48 / 1e9  # multiplications and additions of one layer
    assert stem < single.gflop < 3
    assert double.gflop == pytest.approx(single.gflop, rel=0.3)
    assert single.images_per_second > 0

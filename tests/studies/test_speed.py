"""What is counted and timed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dhcli.config.detecting import DetectOptions
from dhcli.models.fast.winograd import WinogradConv, use_winograd
from dhcli.runtime.eager import EagerRunner
from dhcli.studies import speed as benchmark
from dhcli.studies.speed import REST, _count_gflop, drawn_pictures, measure_speed
from dhcli.weights.model_file import ModelFile


def test_arithmetic_does_not_depend_on_how_a_convolution_is_computed() -> None:
    wide = nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), nn.Conv2d(256, 8, 1))
    x = torch.zeros(1, 256, 20, 30)
    plain = _count_gflop(wide, lambda: wide(x))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        use_winograd(wide)
        wide(x)

    assert isinstance(wide[0], WinogradConv)
    assert _count_gflop(wide, lambda: wide(x)) == pytest.approx(plain, rel=1e-12)
    assert plain == pytest.approx((2 * 9 * 256 * 256 + 2 * 256 * 8) * 600 / 1e9)
    assert counter.get_total_flops() / 1e9 < 0.6 * plain
    assert not wide[0]._forward_hooks


def test_arithmetic_is_that_of_the_layers(
    small_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "SIDE", 64)
    runner = EagerRunner.of(small_model("car"), DetectOptions(device="cpu"))
    one, two = drawn_pictures((64, 96), 1, 32), drawn_pictures((64, 96), 2, 32)

    single, double = measure_speed(runner, one, 1), measure_speed(runner, two, 1)

    stem = 2 * 3 * 64 * 49 * 32 * 48 / 1e9  # multiplications and additions of one layer
    assert stem < single.gflop < 3
    assert double.gflop == pytest.approx(single.gflop, rel=0.3)
    assert single.images_per_second > 0
    names = ["backbone", "neck", "RPN", "pool", "fc branch", "conv branch", "NMS", REST]
    assert list(single.parts) == names
    assert all(seconds > 0 for seconds in single.parts.values())

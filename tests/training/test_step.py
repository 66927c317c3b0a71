from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dhcli.data.loading.loader import Batch
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.precision import Precision, choose_precision
from dhcli.training.step import Updater, seed_all

CPU = torch.device("cpu")


class Straight(nn.Module):
    """loss = w · mean pixel; its gradient is the mean pixel. Batch norm keeps statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))
        self.norm = nn.BatchNorm2d(3, affine=False)

    def losses(self, images: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        self.norm(images.pixels.float())
        mean = images.pixels.float().mean()
        return {"loss_cls": self.w * mean, "loss_reg": mean / (mean - 13)}


def _batch(value: int) -> Batch:
    pixels = torch.full((1, 3, 4, 4), value, dtype=torch.uint8)
    sizes = torch.tensor([[4, 4]])
    none = torch.zeros(0, 4)
    target = Target(none, torch.zeros(0, dtype=torch.long), none)
    return Batch(ImageBatch(pixels, sizes, sizes), [target], [value])


def _updater(detector: nn.Module, clip_norm: float = 0.0, precision: str = "fp32") -> Updater:
    optimizer = torch.optim.SGD(detector.parameters(), 1.0)
    return Updater(detector, optimizer, Precision(precision, CPU), clip_norm)


def test_gradients_of_a_group_are_averaged() -> None:
    detector = Straight()

    result = _updater(detector).update([_batch(2), _batch(8)], rate=0.1)

    assert detector.w.item() == pytest.approx(1 - 0.1 * (2 + 8) / 2)
    assert result.losses["loss_cls"].item() == pytest.approx((2 + 8) / 2)
    assert not result.bad


def test_gradient_is_clipped() -> None:
    detector = Straight()

    _updater(detector, clip_norm=0.5).update([_batch(8)], rate=1.0)

    assert detector.w.item() == pytest.approx(0.5, rel=1e-5)


def test_gradients_do_not_pile_up_between_iterations() -> None:
    detector = Straight()
    updater = _updater(detector)

    for _ in range(2):
        updater.update([_batch(2)], rate=0.1)

    assert detector.w.item() == pytest.approx(1 - 2 * 0.1 * 2)


def test_bad_loss_names_its_batch_and_leaves_no_trace() -> None:
    detector = Straight()
    updater = _updater(detector)
    updater.update([_batch(8)], rate=0.1)
    before = {name: x.clone() for name, x in detector.state_dict().items() if "num" not in name}

    result = updater.update([_batch(2), _batch(13)], rate=0.1)

    assert result.bad == [1]
    assert torch.isinf(result.losses["loss_reg"])
    for name, value in before.items():
        assert torch.equal(detector.state_dict()[name], value), name


def test_scaled_gradients_are_unscaled_before_clipping() -> None:
    detector = Straight()

    _updater(detector, clip_norm=0.5, precision="fp16").update([_batch(8)], rate=1.0)

    assert detector.w.item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_network_runs_in_the_precision(name: str) -> None:
    with Precision(name, CPU).autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)

    assert product.dtype == {"bf16": torch.bfloat16, "fp16": torch.float16}[name]


@pytest.mark.parametrize(("native", "name"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_that_does_not_compute_in_bf16_takes_full_precision(
    monkeypatch: pytest.MonkeyPatch, native: bool, name: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)

    assert choose_precision("auto", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == name


def test_auto_asks_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for native, name in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda native=native, **_: native)
        assert choose_precision("auto", torch.device("cuda")).name == name


@pytest.mark.parametrize(
    "draw",
    [random.random, np.random.random, lambda: torch.rand(()).item()],
    ids=["python", "numpy", "torch"],
)
def test_seeds_decide_what_is_drawn(draw: Callable[[], Any]) -> None:
    def drawn(*numbers: int) -> Any:
        seed_all(*numbers)
        return draw()

    assert drawn(0, 5, 1) == drawn(0, 5, 1)
    assert len({drawn(0, 5, 1), drawn(0, 5, 2), drawn(0, 6, 1), drawn(1, 5, 1)}) == 4


class Steep(nn.Module):
    """loss = √(w − 1) + w · mean pixel: finite at w = 1, where its gradient is not."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(1.0))

    def losses(self, images: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        return {"loss_cls": (self.w - 1).sqrt() + self.w * images.pixels.float().mean()}


@pytest.mark.parametrize("clip_norm", [0.0, 10.0])
def test_gradient_that_is_not_finite_moves_nothing(clip_norm: float) -> None:
    detector = Steep()

    result = _updater(detector, clip_norm).update([_batch(2)], rate=0.1)

    assert (result.bad, result.gradient, result.moved) == ([], False, False)
    assert detector.w.item() == 1.0


def test_with_fp16_the_scaler_passes_over_an_overflow_until_its_scale_is_one() -> None:
    detector = Steep()
    updater = _updater(detector, precision="fp16")

    results = [updater.update([_batch(2)], rate=0.1) for _ in range(18)]

    assert [result.moved for result in results] == [True] * 16 + [False] * 2  # from 65,536 to 1
    assert detector.w.item() == 1.0

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dhcli.data.loading.loader import Batch
from dhcli.errors import DhError
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.precision import Precision, choose_precision
from dhcli.runtime.team import Team
from dhcli.training.step import Updater, seed_all
from tests.threads import together

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


class OutOfMemoryError(RuntimeError):
    """Named as torch's is."""


class Small(Straight):
    """Has memory for `most` images at a time; counts what it is given; draws at random."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.given = most, list[int]()

    def losses(self, images: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        self.given.append(len(images))
        losses = super().losses(images, targets)
        if len(images) > self.most:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return {name: loss * (1 + torch.rand(())) for name, loss in losses.items()}


def _several(*values: int) -> Batch:
    every = [_batch(value) for value in values]
    pixels = torch.cat([one.images.pixels for one in every])
    sizes = torch.cat([one.images.sizes for one in every])
    targets = [target for one in every for target in one.targets]
    return Batch(ImageBatch(pixels, sizes, sizes), targets, list(values))


def test_too_little_memory_halves_the_micro_batch_and_keeps_the_step() -> None:
    """Four images at a time become two, as with batch_size 2 and accumulate 4; and so they stay."""
    short, recipe = Small(2), Small(2)
    updater = _updater(short)
    parts = [_several(1, 2), _several(3, 4), _several(5, 6), _several(7, 8)]
    seeds = [(7, 0), (7, 0, 1), (7, 1), (7, 1, 1)]

    result = updater.update(
        [_several(1, 2, 3, 4), _several(5, 6, 7, 8)], 0.1, None, [(7, 0), (7, 1)]
    )
    expected = _updater(recipe).update(parts, 0.1, None, seeds)

    assert short.given == [4, 2, 2, 2, 2]
    assert updater.parts == 2
    assert result.losses.keys() == expected.losses.keys()
    for name, loss in expected.losses.items():
        assert result.losses[name].item() == pytest.approx(loss.item(), rel=1e-6)
    assert short.w.item() == pytest.approx(recipe.w.item(), rel=1e-6)
    assert torch.equal(short.norm.running_mean, recipe.norm.running_mean)  # type: ignore[arg-type]
    updater.update([_several(1, 2, 3, 4)], 0.1)
    assert short.given[5:] == [2, 2]


def test_images_of_a_part_count_alike() -> None:
    detector = Small(2)

    _updater(detector).update([_several(3, 3, 9)], 0.1, None, [(1,)])

    assert detector.given == [3, 2, 1]
    torch.manual_seed(0)
    drawn = []
    for seed in ((1,), (1, 1)):
        seed_all(*seed)
        drawn.append(1 + torch.rand(()).item())
    mean = (2 * 3 * drawn[0] + 9 * drawn[1]) / 3
    assert detector.w.item() == pytest.approx(1 - 0.1 * mean, rel=1e-5)


def test_a_single_image_without_memory_is_one_clear_error() -> None:
    with pytest.raises(DhError, match="cpu has too little memory for a single image"):
        _updater(Small(0)).update([_several(1, 2)], 0.1)


class Pooled(Straight):
    """Its norm sees one cell of an image."""

    def losses(self, images: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        cell = self.norm(images.pixels.float().mean((2, 3), keepdim=True))
        return {"loss_cls": self.w * cell.sum()}


def test_a_single_cell_for_batch_norm_is_one_clear_error() -> None:
    _updater(Pooled()).update([_several(1, 2)], 0.1)

    with pytest.raises(DhError, match="a level of a single cell, of 1 image of 4×4 pixels") as e:
        _updater(Pooled()).update([_batch(2)], 0.1)

    assert "`norm: gn`" in str(e.value.hint)


def test_a_team_halves_together() -> None:
    def work(team: Team) -> object:
        detector = Small(1 if team.rank else 4)
        optimizer = torch.optim.SGD(detector.parameters(), 1.0)
        updater = Updater(detector, optimizer, Precision("fp32", CPU), 0.0, team)
        updater.update([_several(1, 2)], 0.1, 2, [(5, team.rank)])
        return detector.given, updater.parts, detector.w.item()

    first, second = together(2, work)

    assert first == ([2, 1, 1], 2, second[2])  # type: ignore[index]
    assert second[0] == [2, 1, 1]  # type: ignore[index]


def test_other_errors_of_memory_are_not_answered_by_halving() -> None:
    class Broken(Straight):
        def losses(self, images: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        _updater(Broken()).update([_several(1, 2)], 0.1)

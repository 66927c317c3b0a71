from __future__ import annotations

import math

import pytest

from dhcli.config.load import load_config
from dhcli.config.schema import Augment, Schedule, Train
from dhcli.training.schedule import (
    base_rate,
    describe_rate,
    describe_step,
    learning_rate,
    odd_milestones,
    own_batches,
    plain_epochs,
    scheduled,
    total_iterations,
    warmup_iterations,
)

STEP = Schedule(kind="step", length=12, steps=(8, 11), gamma=0.1, warmup=4, warmup_factor=0.2)


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [
        (0, 0.2),  # warm-up starts from its factor
        (1, 0.4),
        (3, 0.8),
        (4, 1.0),  # and ends
        (5, 1.0),
        (79, 1.0),  # the last iteration of the eighth epoch
        (80, 0.1),
        (109, 0.1),
        (110, 0.01),
    ],
)
def test_steps_in_epochs(iteration: int, factor: float) -> None:
    assert learning_rate(iteration, 0.5, STEP, epoch_length=10) == pytest.approx(0.5 * factor)


def test_steps_in_iterations_do_not_know_epochs() -> None:
    schedule = Schedule(unit="iteration", length=90, steps=(60,), warmup=0)

    rates = [learning_rate(i, 1.0, schedule, epoch_length=7) for i in (59, 60)]

    assert rates == pytest.approx([1.0, 0.1])
    assert total_iterations(schedule, 7) == 90


def test_cosine_falls_from_one_to_zero() -> None:
    schedule = Schedule(kind="cosine", length=4, warmup=0)

    rates = [learning_rate(i, 2.0, schedule, epoch_length=3) for i in (0, 3, 6, 11, 12)]

    last = 1 + math.cos(math.pi * 11 / 12)
    assert rates == pytest.approx([2.0, 1 + math.sqrt(0.5), 1.0, last, 0.0])
    assert total_iterations(schedule, 3) == 12


def test_rate_follows_images_a_step_processes_and_accumulation_counted() -> None:
    train = Train(lr=0.01, batch_size=2, accumulate=3, reference_batch=8)

    assert base_rate(train) == pytest.approx(0.0075)
    assert base_rate(train, processes=12) == pytest.approx(0.03)
    assert "0.03 = 0.01 × 24 / 8" in describe_rate(train, processes=12)


@pytest.mark.parametrize(
    ("processes", "own", "said"),
    [
        (1, 4, "8 images per step: 2 images at a time, 4 times (train.accumulate 4)"),
        (2, 2, "8 images per step: 2 images at a time, 2 times (train.accumulate 4), in 2 proc"),
        (3, 1, "6 images per step: 2 images at a time, in 3 processes"),
        (4, 1, "8 images per step: 2 images at a time, in 4 processes"),
        (8, 1, "16 images per step: 2 images at a time, in 8 processes"),
    ],
)
def test_processes_share_the_micro_batches_of_a_step(processes: int, own: int, said: str) -> None:
    """The paper's 4 GPUs × 2 images are accumulate 4 on one."""
    train = load_config("coco-r50-ext").config.train

    assert own_batches(train, processes) == own
    assert describe_step(train, processes).startswith(said)
    assert base_rate(train, processes) == pytest.approx(0.01 * processes * own / 4)


def test_rate_stays_when_told_to() -> None:
    train = Train(lr=0.01, batch_size=2, reference_batch=8, scale_lr=False)

    assert base_rate(train) == 0.01
    assert "scale_lr=false" in describe_rate(train)


def test_warm_up_is_never_longer_than_a_third() -> None:
    short = Schedule(unit="iteration", length=30, steps=(20,), warmup=500, warmup_factor=0.1)

    rates = [learning_rate(i, 1.0, short, epoch_length=7) for i in (0, 5, 10, 19, 20)]

    assert warmup_iterations(short, 7) == 10
    assert rates == pytest.approx([0.1, 0.55, 1.0, 1.0, 0.1])


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (STEP, None),
        (Schedule(unit="iteration", length=600, steps=(100,), warmup=100), None),
        (Schedule(unit="iteration", length=600, steps=(99, 500), warmup=100), "at iteration 99, "),
        (Schedule(unit="iteration", length=90, steps=(10,), warmup=100), "warm-up of 30 iter"),
        (Schedule(length=8, steps=(7, 10), warmup=0), None),
        (Schedule(length=8, steps=(8, 10), warmup=0), "at epoch 8, and training ends at 8"),
        (Schedule(length=8, steps=(), warmup=0), None),
        (Schedule(kind="cosine", length=8, steps=(10,)), None),
    ],
)
def test_milestones_that_were_left_behind_are_warned_of(
    schedule: Schedule, said: str | None
) -> None:
    warning = odd_milestones(schedule, epoch_length=40)

    assert (warning or "").count(said or "train.schedule") == (said is not None)


@pytest.mark.parametrize("unit", ["epoch", "iteration"])
def test_epochs_are_epochs_whatever_the_schedule_counts(unit: str) -> None:
    schedule = Schedule(unit=unit, length=12, steps=(8, 11), warmup=0)

    drawn = scheduled(Train(schedule=schedule, epochs=3), epoch_length=40)

    assert total_iterations(drawn, 40) == 3 * 40
    rates = [learning_rate(i, 1.0, drawn, 40) for i in (79, 80, 109, 110)]
    assert rates == pytest.approx([1.0, 0.1, 0.1, 0.01])
    assert scheduled(Train(schedule=schedule), epoch_length=40) == schedule


def test_yolox_rises_with_the_square_falls_along_a_cosine_and_stays_flat() -> None:
    schedule = Schedule(
        kind="cosine",
        length=20,
        warmup_epochs=2,
        warmup_factor=0,
        warmup_shape="quadratic",
        floor=0.05,
        flat=4,
    )

    rates = [learning_rate(i, 2.0, schedule, epoch_length=10) for i in (0, 5, 10, 20, 90, 160, 199)]

    middle = 0.1 + 1.9 / 2
    assert rates == pytest.approx([0.0, 2 / 16, 2 / 4, 2.0, middle, 0.1, 0.1])


def test_flat_and_plain_epochs_are_drawn_out_with_the_training() -> None:
    schedule = Schedule(kind="cosine", length=300, flat=15)
    augment = Augment(plain_epochs=15)

    short = Train(schedule=schedule, epochs=60)

    assert scheduled(short, 10).flat == 30
    assert plain_epochs(augment, short) == 3
    assert plain_epochs(augment, Train(schedule=schedule)) == 15

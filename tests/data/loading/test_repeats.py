"""Which images come more than once per epoch, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from dhcli.data.loading.batching import Share, training_batches
from dhcli.data.loading.repeats import epoch_images, repeated, repeats_of
from dhcli.data.table import DetectionTable, Flag, make_table

SIZES = np.array([(60, 40), (40, 60)] * 8)


def table_of(*labels: list[int]) -> DetectionTable:
    """An image for each list, with a box of each label."""
    flat = [label for one in labels for label in one]
    counts = [len(one) for one in labels]
    files = [f"{number}.jpg" for number in range(len(labels))]
    boxes = [[0, 0, 9, 9]] * len(flat)
    names = ("car", "van", "tram", "none")
    return make_table("root", files, [(60, 40)] * len(labels), counts, boxes, flat, names)


def test_images_of_rare_classes_come_by_the_rule_of_lvis() -> None:
    table = table_of([0, 0, 0], [0, 1], [0, 1, 2], [], *[[0]] * 12)

    repeats = repeats_of(table, 0.5, "ignore")

    assert repeats is not None
    assert repeats.images.tolist() == [15, 2, 1, 0]  # images, not boxes
    van, tram = (0.5 / (2 / 16)) ** 0.5, (0.5 / (1 / 16)) ** 0.5
    assert repeats.of_classes.tolist() == pytest.approx([1, van, tram, 1])
    assert repeats.factors.tolist() == pytest.approx([1, van, tram, 1, *[1] * 12])
    assert repeats.describe() == (
        "rare classes: 1 image of `tram` comes 2.8 times, 2 images of `van` come 2.0 times; an "
        "epoch has 19 images instead of 16"
    )


def test_only_what_is_learned_counts_and_nothing_is_done_unless_asked() -> None:
    boxes, flags = [[0, 0, 9, 9]] * 2, np.array([Flag.CROWD, Flag.DIFFICULT], np.uint8)
    table = make_table(
        "root", ["a", "b"], [(9, 9)] * 2, [1, 1], boxes, [0, 1], ("a", "b"), flags=flags
    )

    ignoring, keeping = (repeats_of(table, 0.9, how) for how in ("ignore", "keep"))

    assert ignoring is not None
    assert keeping is not None
    assert ignoring.images.tolist() == [0, 0]
    assert keeping.images.tolist() == [0, 1]
    assert "rare classes: none" in ignoring.describe()
    assert repeats_of(table, 0.0, "keep") is None


def test_every_epoch_is_as_long_and_images_come_their_times_on_average() -> None:
    factors = np.array([1.0, 1.5, 2.25, 1.0, 3.75, *[1.0] * 8, 1.1, 1.4, 1.0])
    order = np.arange(16)

    epochs = [
        np.bincount(repeated(order, factors, offset) % 16, minlength=16)
        for offset in (np.arange(400) + 0.5) / 400
    ]

    assert {int(times.sum()) for times in epochs} == {epoch_images(factors)} == {21}
    assert all(
        ((times >= np.floor(factors)) & (times <= np.ceil(factors))).all() for times in epochs
    )
    assert np.mean(epochs, axis=0) == pytest.approx(factors, abs=0.01)


def test_what_comes_again_has_numbers_of_its_own_and_every_rank_its_share() -> None:
    factors = np.where(np.arange(16) % 5, 1.0, 2.7)

    def batches(epoch: int, shares: int = 1) -> list[list[int]]:
        every = training_batches(SIZES, 4, seed=3, epoch=epoch, shares=shares, factors=factors)
        return [batch.tolist() for batch in every]

    numbers = [sorted(n for batch in batches(epoch) for n in batch) for epoch in range(5)]

    assert all(len(set(one)) == len(one) == 23 for one in numbers)
    assert all(set(range(16)) <= set(one) for one in numbers)
    assert all({0, 16, 5, 21, 10, 26, 15, 31} <= set(one) for one in numbers)
    assert len({tuple(one) for one in numbers}) > 1  # another sample in another epoch
    assert batches(0) == batches(0) != batches(1)
    tall = [np.mean([SIZES[n % 16, 0] < SIZES[n % 16, 1] for n in one]) for one in batches(0)]
    assert sum(0 < share < 1 for share in tall) <= 1
    every = training_batches(SIZES, 4, seed=3, epoch=0, shares=4, factors=factors)
    assert {len(Share(rank, 4).of(every)) for rank in range(4)} == {2}


def test_without_rare_classes_the_order_is_what_it_was() -> None:
    usual = training_batches(SIZES, 4, seed=0, epoch=1)

    assert np.concatenate(usual).tolist() == BEFORE


BEFORE = [9, 3, 13, 5, 0, 10, 4, 14, 6, 8, 12, 2, 11, 7, 1, 15]
"""The order of these images before there was class-aware sampling."""

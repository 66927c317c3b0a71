from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhcli.config.schema import Input
from dhcli.data.loading.batching import (
    Share,
    evaluation_batches,
    image_dice,
    known_sizes,
    training_batches,
)
from dhcli.data.table import make_table
from dhcli.errors import DataError

SIZES = np.array([(60, 40), (40, 60), (50, 50), (40, 70)] * 6 + [(60, 40)])  # 13 wide, 12 tall


def test_training_batches_hold_every_image_once_and_mix_shapes_at_most_once() -> None:
    batches = training_batches(SIZES, 4, seed=0, epoch=0)

    assert sorted(np.concatenate(batches).tolist()) == list(range(25))
    assert sorted(len(batch) for batch in batches) == [1, 4, 4, 4, 4, 4, 4]
    tall = [(SIZES[batch, 0] < SIZES[batch, 1]).mean() for batch in batches]
    assert sum(0 < share < 1 for share in tall) <= 1
    assert tall != sorted(tall)  # landscape does not all come first


def test_training_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(training_batches(SIZES, 4, seed=seed, epoch=epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_neighbours_change_between_epochs() -> None:
    mates = [
        next(set(b.tolist()) for b in training_batches(SIZES, 4, seed=0, epoch=e) if 0 in b)
        for e in range(4)
    ]

    assert len({frozenset(mate) for mate in mates}) > 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_every_rank_trains_equally_many_batches(size: int) -> None:
    whole = training_batches(SIZES, 4, seed=0, epoch=0)
    shared = training_batches(SIZES, 4, seed=0, epoch=0, shares=size)

    ranks = [Share(rank, size).of(shared) for rank in range(size)]

    assert len({len(rank) for rank in ranks}) == 1
    assert len(shared) - len(whole) < size
    assert [b.tolist() for b in shared[:7]] == [b.tolist() for b in whole]
    assert [b.tolist() for b in shared[7:9]] == [b.tolist() for b in whole[: len(shared) - 7][:2]]


def test_no_images_make_no_batches() -> None:
    none = np.zeros((0, 2), np.int64)

    assert training_batches(none, 4, seed=0, epoch=0, shares=2) == []
    assert evaluation_batches(none, 4, Input()) == []


def test_evaluation_batches_hold_every_image_once_in_one_padded_shape() -> None:
    sizes = np.array(
        [(640, 480), (480, 640), (641, 480), (500, 375), (100, 100)] * 3 + [(639, 480)]
    )

    batches = evaluation_batches(sizes, 4, Input(min_size=480, max_size=1000))

    # 641×480 is padded to 672×480; 500×375 is resized and 639×480 padded to 640×480
    assert [batch.tolist() for batch in batches] == [
        [2, 7, 12],
        [1, 6, 11],
        [0, 3, 5, 8],
        [10, 13, 15],
        [4, 9, 14],
    ]


def test_dice_are_apart() -> None:
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]

    first = [float(image_dice(*key).random()) for key in keys]

    assert len(set(first)) == 4
    assert first[1] == float(image_dice(0, 0, 1).random())
    assert float(np.random.default_rng((0, 0, 0)).random()) not in first


def test_sizes_that_are_not_stated_are_read(tmp_path: Path) -> None:
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    table = make_table(tmp_path, ["a.png", "b.png"], [(0, 0), (7, 8)], [0, 0], [], [], ["x"])

    assert known_sizes(table).tolist() == [[30, 20], [7, 8]]
    assert table.sizes.tolist() == [[0, 0], [7, 8]]


def test_unstated_size_of_a_missing_image_is_named(tmp_path: Path) -> None:
    table = make_table(tmp_path, ["a.png"], [(0, 0)], [0], [], [], ["x"])

    with pytest.raises(DataError, match=r"a\.png: no such image"):
        known_sizes(table)

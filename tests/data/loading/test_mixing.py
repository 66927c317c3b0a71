"""Mosaic, affine, mixup: pixels and boxes by hand, and what the loader makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from dhcli.config.schema import Augment, Input
from dhcli.config.schema.augment import Affine
from dhcli.data.loading.cache import decode_to_memory
from dhcli.data.loading.loader import Batch, TrainLoader
from dhcli.data.loading.mixing import (
    affine_matrix,
    change_hsv,
    fit_square,
    lay_mosaic,
    mix_sample,
    mix_up,
    throw,
    warp_sample,
)
from dhcli.data.loading.transforms import Sample
from dhcli.data.table import DetectionTable, make_table
from dhcli.errors import DataError

SQUARE = Input(min_size=32, max_size=32, letterbox=114, interpolation="cv2")
HALF = np.full(9, 0.5)
ALL = Augment(
    mosaic=1,
    mixup=1,
    affine=Affine(scale=(0.5, 1.5), rotate=10, shear=2, shift=0.1),
    hsv=1,
    batch_sizes=(32, 64),
    batch_sizes_every=1,
)


def flat(width: int, height: int, colour: int, box: list[float], label: int = 0) -> Sample:
    """One colour, and one object of 250 in it."""
    image = np.full((height, width, 3), colour, np.uint8)
    x1, y1, x2, y2 = map(int, box)
    image[y1:y2, x1:x2] = 250
    boxes = np.array([box], np.float64)
    return Sample(image, boxes, np.array([label]), np.zeros((0, 4)))


def seen(image: NDArray[Any], colour: int = 250, *, near: int = 3) -> list[int]:
    """The box around the pixels of `colour`."""
    rows, columns = np.nonzero(np.abs(image[..., 0].astype(int) - colour) <= near)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_a_mosaic_lays_four_images_around_a_point() -> None:
    four = [flat(32, 32, 10 * (k + 1), [4, 4, 12, 20], k) for k in range(4)]

    found = lay_mosaic(four, SQUARE, np.array([0.25, 0.5]))  # they meet at 24, 32

    assert found.image.shape == (64, 64, 3)
    corners = [found.image[row, column, 0] for row in (0, 63) for column in (16, 50)]
    assert corners == [10, 20, 30, 40]
    assert found.image[0, 57, 0] == 114  # the right ones end at 24 + 32
    wanted = [[0, 4, 4, 20], [28, 4, 36, 20], [0, 36, 4, 52], [28, 36, 36, 52]]
    assert found.boxes.tolist() == wanted
    assert found.labels.tolist() == [0, 1, 2, 3]
    for x1, y1, x2, y2 in wanted:
        assert (found.image[y1:y2, x1:x2] == 250).all()


def test_images_of_a_mosaic_are_fitted_and_what_is_outside_is_dropped() -> None:
    large, small = flat(64, 32, 10, [0, 0, 4, 4]), flat(16, 16, 20, [8, 8, 12, 12])

    found = lay_mosaic([large, small, small, small], SQUARE, np.array([0.0, 0.0]))  # 16, 16

    # The first is 32 × 16 and begins at −16, 0; the second 32 × 32 at 16, −16
    assert found.boxes.tolist() == [[32, 0, 40, 8], [0, 32, 8, 40], [32, 32, 40, 40]]
    assert found.image[0, 16, 0] == 20


@pytest.mark.parametrize(
    ("limits", "dice", "box"),
    [
        (Affine(scale=(0.5, 1.5)), [0, 0, 0, 0, 0, 0], [4, 8, 8, 12]),
        (Affine(shift=0.25), [0, 0, 0, 0, 1, 0], [16, 8, 24, 16]),
        (Affine(rotate=90), [0, 1, 0, 0, 0, 0], [-24, 8, -16, 16]),
        (Affine(shear=45), [0, 0.5, 1, 0.5, 0, 0], [24, 16, 40, 24]),
    ],
)
def test_affine_matrices_by_hand(limits: Affine, dice: list[float], box: list[float]) -> None:
    start = flat(32, 32, 0, [8, 16, 16, 24])

    matrix = affine_matrix(limits, np.array(dice), 32)

    corners = np.array([[8, 16, 1], [16, 16, 1], [8, 24, 1], [16, 24, 1]]) @ matrix.T
    low, high = corners.min(0)[:2], corners.max(0)[:2]
    np.testing.assert_allclose([*low, *high], box, atol=1e-9)
    clipped = np.clip(box, 0, 32)
    moved = warp_sample(start, matrix, 32, 114).boxes
    if (clipped[2:] > clipped[:2]).all():
        np.testing.assert_allclose(moved, [clipped], atol=1e-9)
    else:
        assert not len(moved)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_a_warped_box_lies_around_what_is_warped(factor: float) -> None:
    start = flat(32, 32, 0, [4, 6, 12, 14])
    matrix = np.diag([factor, factor, 1.0]) + np.array([[0, 0, 3], [0, 0, 1], [0, 0, 0]])

    found = warp_sample(start, matrix, 32, 114)

    assert np.abs(np.subtract(seen(found.image, near=130), found.boxes[0])).max() <= 0.5


def test_a_mixup_is_the_mean_and_has_the_objects_of_both() -> None:
    one, other = flat(32, 32, 100, [4, 4, 8, 8], 1), flat(32, 32, 50, [16, 8, 24, 12], 2)

    found = mix_up(one, other, SQUARE, np.array([0.25, 0.9, 0, 0]))  # as large, not flipped

    assert found.boxes.tolist() == [[4, 4, 8, 8], [16, 8, 24, 12]]
    assert found.labels.tolist() == [1, 2]
    assert found.image[0, 0, 0] == 75
    assert found.image[9, 17, 0] == 175
    flipped = mix_up(one, other, SQUARE, np.array([0.25, 0.1, 0, 0]))
    assert flipped.boxes[1].tolist() == [8, 8, 16, 12]
    small = mix_up(one, other, SQUARE, np.array([0, 0.9, 0.5, 0.5]))  # 25 of 32 pixels
    np.testing.assert_allclose(small.boxes[1], np.array([16, 8, 24, 12]) * 25 / 32)
    assert small.image[31, 31, 0] == (100 + 114) // 2
    large = mix_up(one, other, SQUARE, np.array([1, 0.9, 0.999, 0]))  # 51: 19 pixels are cut
    wanted = np.array([16, 8, 24, 12]) * 51 / 32 - [19, 0, 19, 0]
    np.testing.assert_allclose(large.boxes[1], np.clip(wanted, 0, 32))


def test_what_is_less_than_a_pixel_is_ignored_and_regions_come_along() -> None:
    start = flat(32, 32, 0, [4, 4, 5, 8])
    start = Sample(start.image, start.boxes, start.labels, np.array([[8.0, 8, 16, 16]]))
    augment = Augment(affine=Affine(scale=(0.5, 0.5)))

    found = mix_sample(start, lambda _: start, SQUARE, augment, throw(rng(), 1))

    assert not len(found.boxes)
    assert sorted(found.ignore.tolist()) == [[2, 2, 2.5, 4], [4, 4, 8, 8]]


def test_a_mosaic_without_affine_is_halved() -> None:
    start = flat(32, 32, 10, [8, 8, 24, 24])

    found = mix_sample(start, lambda _: start, SQUARE, Augment(mosaic=1), throw(rng(), 1))

    assert found.image.shape == (32, 32, 3)
    assert len(found.boxes) >= 1
    assert np.ptp(found.boxes.reshape(-1, 2, 2), axis=1).max() == 8


def test_an_image_in_the_square_has_grey_beside_it() -> None:
    found = fit_square(flat(64, 32, 10, [0, 0, 32, 32]), SQUARE)

    assert found.image.shape == (32, 32, 3)
    assert (found.image[16:] == 114).all()
    assert found.boxes.tolist() == [[0, 0, 16, 16]]


def test_hsv_changes_each_part_and_its_strength() -> None:
    image = np.full((1, 1, 3), (200, 100, 50), np.uint8)

    assert (change_hsv(image, 0, np.ones(3)) == image).all()
    assert change_hsv(image, 1, np.array([0, 0, 1]))[0, 0, 0] == 230
    assert change_hsv(image, 1, np.array([0, 1.0, 0]))[0, 0, 2] < 50
    assert change_hsv(image, 1, np.array([1.0, 0, 0]))[0, 0, 1] > 100
    assert change_hsv(image, 9, np.array([0, 0, 1]))[0, 0, 0] == 255


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def table(tmp_path: Path) -> DetectionTable:
    draws, files = rng(), []
    for k in range(5):
        pixels = draws.integers(0, 256, (30 + k, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{k}.png")
        files.append(f"{k}.png")
    sizes = [(40, 30 + k) for k in range(5)]
    return make_table(tmp_path, files, sizes, [1] * 5, [[4.0, 4, 20, 20]] * 5, [0] * 5, ("a",))


def loader(table: DetectionTable, augment: Augment = ALL, **settings: Any) -> TrainLoader:
    all_of = {"batch_size": 2, "seed": 3, "workers": 0, **settings}
    return TrainLoader(table, SQUARE, augment, **all_of)


def prints(batches: list[Batch]) -> list[tuple[Any, ...]]:
    return [
        (b.images.pixels.numpy().tobytes(), b.indices, [t.boxes.tolist() for t in b.targets])
        for b in batches
    ]


def test_mixed_pictures_are_the_same_from_files_a_cache_and_anywhere_in_an_epoch(
    table: DetectionTable,
) -> None:
    whole = prints(list(loader(table).epoch(1)))

    assert prints(list(loader(table).epoch(1, start=1))) == whole[1:]
    cache = decode_to_memory(table, upright=True)
    assert prints(list(loader(table, cache=cache).epoch(1))) == whole
    assert prints(list(loader(table).epoch(2))) != whole
    assert prints(list(loader(table, seed=4).epoch(1))) != whole


def test_all_batches_of_a_step_have_one_side_and_others_follow(table: DetectionTable) -> None:
    sides = [
        [b.images.pixels.shape[-1] for b in loader(table, batch_size=1, held=2).epoch(epoch)]
        for epoch in range(6)
    ]

    assert {side for every in sides for side in every} == {32, 64}
    assert all(every[0] == every[1] and every[2] == every[3] for every in sides)
    assert any(every[0] != every[2] for every in sides)


def test_plain_epochs_are_those_without_mixing(table: DetectionTable) -> None:
    bare = loader(table, Augment()).epoch(1)

    plain = loader(table, ALL.model_copy(update={"hsv": 0.0})).epoch(1, plain=True)

    assert prints(list(plain)) == prints(list(bare))
    assert {b.images.pixels.shape[-1] for b in loader(table).epoch(1, plain=True)} == {32}


def test_mixing_leaves_the_dice_of_what_was_there_before(table: DetectionTable) -> None:
    flips = [loader(table, Augment(flip=0.5, hsv=h)).epoch(0) for h in (0.0, 1e-9)]

    assert prints(list(flips[0])) == prints(list(flips[1]))


def test_an_image_of_a_mosaic_that_cannot_be_read_is_named_or_left_out(
    table: DetectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.data.loading.loader.PAUSES", ())
    made = loader(table, skip=True, batch_size=1)
    lost: list[int] = []
    made.lost = lambda image, _: lost.append(image)
    strict = loader(table)
    (table.root / "0.png").write_bytes(b"no image")

    batches = list(made.epoch(0))

    assert sorted(len(batch) for batch in batches) == [0, 1, 1, 1, 1]
    assert set(lost) == {0}
    assert len(lost) > 1
    with pytest.raises(DataError, match=r"0\.png"):
        list(strict.epoch(0))

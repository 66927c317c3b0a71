from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as vision
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from dhcli.config.schema import Augment, Input
from dhcli.data.loading.transforms import (
    Sample,
    augment_sample,
    change_colour,
    clip_sample,
    crop_sample,
    draw_shift,
    draw_window,
    flip_sample,
    resize,
    resize_sample,
    resized_size,
    shift_sample,
)

SMALL = Input(min_size=60, max_size=100)


def sample_of(
    width: int, height: int, boxes: list[list[float]], ignore: list[list[float]] | None = None
) -> Sample:
    rng = np.random.default_rng(1)
    return Sample(
        rng.integers(0, 256, (height, width, 3), np.uint8),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.arange(len(boxes)),
        np.array(ignore or [], np.float64).reshape(-1, 4),
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (1067, 800)),  # 1066.67 goes up
        ((480, 640), (800, 1067)),
        ((500, 375), (1067, 800)),
        ((1242, 375), (1333, 402)),  # the longest side wins; 402.47
        ((800, 800), (800, 800)),
        ((3000, 1), (1333, 1)),  # never nothing
        ((1, 3000), (1, 1333)),
    ],
)
def test_resized_size_by_hand(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, Input()) == expected


def test_resized_size_takes_another_shortest_side() -> None:
    assert resized_size(640, 480, Input(), 240) == (320, 240)


def test_pil_resize_is_torchvisions_antialiased_one() -> None:
    image = sample_of(90, 70, []).image

    ours = resize(image, (41, 33), "pil")
    theirs = vision.resize(torch.from_numpy(image).permute(2, 0, 1), [33, 41], antialias=True)

    difference = ours.astype(int) - theirs.permute(1, 2, 0).numpy()
    assert ours.shape == (33, 41, 3)
    assert np.abs(difference).max() <= 1


def test_cv2_resize_reads_the_four_nearest_pixels() -> None:
    image = np.zeros((1, 10, 3), np.uint8)
    image[0, 4] = 200

    nearest = resize(image, (4, 1), "cv2")
    averaged = resize(image, (5, 1), "pil")

    assert nearest[0, :, 0].tolist() == [0, 50, 0, 0]  # centres at 0.75, 3.25, 5.75, 8.25
    assert averaged[0, :, 0].tolist() == [0, 25, 75, 0, 0]  # a triangle twice as wide


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = sample_of(30, 20, []).image

    assert np.array_equal(resize(image, (30, 20), "pil"), image)


def test_resize_scales_boxes_by_each_axis() -> None:
    sample = sample_of(97, 61, [[97 / 2, 0, 97, 61]], [[0, 0, 97, 61]])

    resized = resize_sample(sample, SMALL, 30)  # 47.7 × 30 becomes 48 × 30

    assert resized.image.shape == (30, 48, 3)
    assert resized.boxes == pytest.approx(np.array([[24, 0, 48, 30]]), abs=1e-12)
    assert resized.ignore == pytest.approx(np.array([[0, 0, 48, 30]]), abs=1e-12)


def test_flip_is_exact_and_undoes_itself() -> None:
    sample = sample_of(97, 61, [[0.1, 2, 30.7, 50], [90, 0, 97, 61]], [[1 / 3, 1, 2, 3]])

    flipped = flip_sample(sample)
    again = flip_sample(flipped)

    assert np.array_equal(flipped.image, sample.image[:, ::-1])
    assert flipped.boxes.tolist() == [[97 - 30.7, 2, 97 - 0.1, 50], [0, 0, 7, 61]]
    assert flipped.ignore.tolist() == [[95, 1, 97 - 1 / 3, 3]]
    assert np.array_equal(again.image, sample.image)
    assert again.boxes == pytest.approx(sample.boxes, abs=1e-12)


def test_flip_is_torchvisions() -> None:
    sample = sample_of(97, 61, [[0.5, 2, 30.25, 50], [90, 0, 97, 61]])
    boxes = tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=(61, 97))

    assert torch.equal(
        torch.from_numpy(flip_sample(sample).boxes),
        vision.horizontal_flip(boxes).as_subclass(torch.Tensor),
    )


def test_crop_moves_cuts_ignores_and_drops() -> None:
    sample = sample_of(
        100,
        80,
        [
            [20.5, 30, 40, 50],  # whole
            [50, 30, 70, 50],  # half is left: still an object
            [55, 30, 75, 50],  # a quarter is left: to be ignored
            [61, 30, 75, 50],  # outside
            [60, 30, 75, 50],  # touches
        ],
        [[0, 0, 15, 80], [80, 0, 100, 80]],
    )

    cropped = crop_sample(sample, (10, 20, 60, 70))

    assert np.array_equal(cropped.image, sample.image[20:70, 10:60])
    assert cropped.boxes.tolist() == [[10.5, 10, 30, 30], [40, 10, 50, 30]]
    assert cropped.labels.tolist() == [0, 1]
    assert cropped.ignore.tolist() == [[0, 0, 5, 50], [45, 10, 50, 30]]


def test_shift_moves_cuts_ignores_and_blackens() -> None:
    boxes = [[20.5, 30, 40, 50], [-1, 30, 9, 50], [2, 30, 14, 50], [0, 0, 6, 80]]
    sample = sample_of(100, 80, boxes, [[0, 0, 15, 80], [90, 70, 100, 80]])

    shifted = shift_sample(sample, -8, 5)

    assert np.array_equal(shifted.image[5:, :92], sample.image[:75, 8:])
    assert not shifted.image[:5].any()
    assert not shifted.image[:, 92:].any()
    assert shifted.boxes.tolist() == [[12.5, 35, 32, 55], [0, 35, 6, 55]]
    assert shifted.labels.tolist() == [0, 2]
    assert shifted.ignore.tolist() == [[0, 5, 7, 80], [82, 75, 92, 80], [0, 35, 1, 55]]


def test_a_sample_is_not_shifted_out_of_its_own_picture(rng: np.random.Generator) -> None:
    corner = sample_of(100, 80, [[0, 0, 4, 4]])
    assert shift_sample(corner, -20, -20) is corner
    assert shift_sample(sample_of(9, 9, []), -8, 8).image.any()

    drawn = {draw_shift((50, 4), 32, rng) for _ in range(4000)}

    assert {across for across, _ in drawn} == set(range(-32, 33))
    assert {down for _, down in drawn} == set(range(-3, 4))


def test_every_second_image_is_shifted_and_nothing_else_changes() -> None:
    sample = sample_of(80, 60, [[30, 20, 50, 40]])
    moved = 0
    for seed in range(400):
        plain, shifted = (
            augment_sample(sample, SMALL, Augment(shift=most), np.random.default_rng(seed))
            for most in (0, 8)
        )
        by = shifted.boxes - plain.boxes
        assert by[0, :2].tolist() == by[0, 2:].tolist()
        assert np.abs(by).max() <= 8
        moved += bool(by.any())
    assert moved / 400 == pytest.approx(0.5, abs=0.08)


def test_clip_cuts_at_the_border_and_drops_what_is_empty() -> None:
    sample = sample_of(
        100,
        80,
        [[-5, -5, 10, 10], [90, 70, 120, 90], [5, 5, 5, 9], [30, 9, 20, 30], [200, 0, 210, 9]],
        [[-9, 0, 0, 9], [99, 0, 101, 1]],
    )

    clipped = clip_sample(sample)

    assert clipped.boxes.tolist() == [[0, 0, 10, 10], [90, 70, 100, 80]]
    assert clipped.labels.tolist() == [0, 1]
    assert clipped.ignore.tolist() == [[99, 0, 100, 1]]


def test_window_keeps_an_object_whole_and_stays_inside(rng: np.random.Generator) -> None:
    boxes = np.array([[0, 0, 9.5, 9.5], [90.2, 70.9, 100, 80], [5, 5, 99, 79]])

    windows = np.array([draw_window(100, 80, boxes, rng) for _ in range(500)])

    x1, y1, x2, y2 = windows.T
    assert windows.min() >= 0
    assert x2.max() <= 100
    assert y2.max() <= 80
    assert (x2 - x1).min() >= 50
    assert (y2 - y1).min() >= 40
    holds = (windows[:, None, :2] <= boxes[:, :2]) & (windows[:, None, 2:] >= boxes[:, 2:])
    assert holds.all(axis=2).any(axis=1).all()
    assert len(np.unique(windows, axis=0)) > 100


def test_window_keeps_fractions_of_a_pixel_whole(rng: np.random.Generator) -> None:
    box = np.array([[5.5, 5.5, 93.5, 78.5]])

    windows = np.array([draw_window(100, 80, box, rng) for _ in range(200)])

    assert windows.max(axis=0)[:2].tolist() == [5, 5]
    assert windows.min(axis=0)[2:].tolist() == [94, 79]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 47)])
def test_window_without_objects(size: tuple[int, int], rng: np.random.Generator) -> None:
    for _ in range(100):
        x1, y1, x2, y2 = draw_window(*size, np.zeros((0, 4)), rng)

        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]


def test_augmentation_off_is_resizing() -> None:
    sample = sample_of(97, 61, [[1, 2, 30, 40]])

    plain = resize_sample(sample, SMALL)
    augmented = augment_sample(sample, SMALL, Augment(flip=0), np.random.default_rng(0))

    assert np.array_equal(augmented.image, plain.image)
    assert np.array_equal(augmented.boxes, plain.boxes)


def test_augmentation_flips_by_its_chance_and_chooses_among_the_sizes() -> None:
    sample = sample_of(80, 60, [[0, 0, 8, 60]])
    augment = Augment(flip=0.25, min_sizes=(30, 45, 60))

    drawn = [
        augment_sample(sample, SMALL, augment, np.random.default_rng((0, i))) for i in range(400)
    ]

    sides = [one.image.shape[0] for one in drawn]
    flipped = np.mean([one.boxes[0, 0] > 0 for one in drawn])
    assert flipped == pytest.approx(0.25, abs=0.07)
    assert {side: round(sides.count(side) / 400, 1) for side in sides} == {
        30: 0.3,
        45: 0.3,
        60: 0.3,
    }


def test_turning_colour_on_leaves_the_geometry_as_it_was() -> None:
    sample = sample_of(80, 60, [[0, 0, 8, 60]])
    plain, coloured = Augment(min_sizes=(30, 60)), Augment(min_sizes=(30, 60), colour=0.5)

    for seed in range(10):
        one = augment_sample(sample, SMALL, plain, np.random.default_rng(seed))
        other = augment_sample(sample, SMALL, coloured, np.random.default_rng(seed))

        assert np.array_equal(one.boxes, other.boxes)
        assert not np.array_equal(one.image, other.image)


def test_colour_follows_its_seed_and_leaves_the_image_alone() -> None:
    image = sample_of(40, 30, []).image
    before = image.copy()

    one, same, other = (change_colour(image, 0.5, seed) for seed in (1, 1, 2))

    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(image, before)
    assert (one.shape, one.dtype) == (image.shape, np.uint8)


def test_weak_colour_changes_less_than_strong() -> None:
    image = sample_of(40, 30, []).image

    def change(strength: float) -> float:
        changed = [change_colour(image, strength, seed) for seed in range(20)]
        return float(np.mean([np.abs(one.astype(int) - image).mean() for one in changed]))

    assert 0 < change(0.05) < change(0.5) / 4


def test_input_is_not_changed() -> None:
    sample = clip_sample(sample_of(80, 60, [[-3, 0, 8, 60]], [[0, 0, 5, 5]]))
    before = (sample.image.copy(), sample.boxes.copy(), sample.ignore.copy())

    augment_sample(sample, SMALL, Augment(flip=1, crop=1, colour=1), np.random.default_rng(0))

    for part, old in zip((sample.image, sample.boxes, sample.ignore), before, strict=True):
        assert np.array_equal(part, old)


def test_albumentations_is_imported_only_for_colour() -> None:
    code = "import sys, dhcli.data.loading.transforms; print('albumentations' in sys.modules)"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        ("plain", (1000, 2000), (667, 1333)),  # 666.5, halves up
        ("maskrcnn_benchmark", (1000, 2000), (666, 1332)),  # halves to even, and in proportion
        ("maskrcnn_benchmark", (427, 640), (800, 1199)),  # 1199.06 cut
        ("maskrcnn_benchmark", (375, 500), (800, 1066)),  # 1066.67 cut
        ("plain", (375, 500), (800, 1067)),
        ("torchvision", (1000, 2000), (666, 1333)),
        ("torchvision", (375, 500), (800, 1066)),
    ],
)
def test_rounding_of_the_new_size(
    rule: str, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    input = Input.model_validate({"resize": rule})

    assert resized_size(*size, input) == expected
    assert resized_size(*size[::-1], input) == expected[::-1]


def test_float_resize_and_its_sizes_are_torchvision_detections() -> None:
    mean, std = [0.0] * 3, [1.0] * 3
    transform = GeneralizedRCNNTransform(200, 320, mean, std).eval()
    input = Input(min_size=200, max_size=320, resize="torchvision", interpolation="float")
    rng = np.random.default_rng(0)
    for width, height in ((320, 427), (211, 97), (640, 480)):
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        theirs, _ = transform([torch.from_numpy(image).permute(2, 0, 1) / 255])

        size = resized_size(width, height, input)
        ours = resize(image, size, "float")

        assert theirs.image_sizes == [size[::-1]]
        expected = theirs.tensors[0, :, : size[1], : size[0]].permute(1, 2, 0) * 255
        assert np.allclose(ours, expected.numpy(), atol=1e-3)
        assert ours.dtype == np.float32

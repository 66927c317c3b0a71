"""Pictures made of several images, and pictures turned, scaled and slanted; boxes carried along.

"YOLOX: Exceeding YOLO Series in 2021", §2.1. All in the square that images are fitted into. What
is left of an object stays one, unless a side of it is under a pixel: then it is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dhcli.config.schema import Augment, Input
from dhcli.config.schema.augment import UNMOVED, Affine
from dhcli.data.io.image import Pixels, Values
from dhcli.data.loading.transforms import (
    Boxes,
    Sample,
    clip_sample,
    flip_sample,
    resize_sample,
    resized_size,
)

CENTRES = (0.5, 1.5)
"""Between which shares of the square's side the four images of a mosaic meet."""
MIX_SCALES = (0.8, 1.6)
"""Between which factors the other image of a mixup is scaled."""
HSV = (5, 30, 30)
"""Most that hue (of 180), saturation and value (of 255) change at strength 1."""
LEAST_SIDE = 1.0
"""Pixels that an object must be wide and high."""

Read = Callable[[int], Sample]
"""What is in an image, by its number."""


class Dice(NamedTuple):
    """What is random of one picture, each part uniform in [0, 1) unless told.

    asked     (2,) whether there is a mosaic, a mixup
    partners  (4,) int64 numbers of images: three of a mosaic, one of a mixup
    centre    (2,) where a mosaic's images meet
    move      (6,) scale, turn, slant along x, y, shift along x, y
    mix       (4,) scale, flip, place along x, y of the other image of a mixup
    colour    (3,) in [−1, 1) hue, saturation, value
    """

    asked: NDArray[np.float64]
    partners: NDArray[np.int64]
    centre: NDArray[np.float64]
    move: NDArray[np.float64]
    mix: NDArray[np.float64]
    colour: NDArray[np.float64]


def throw(rng: np.random.Generator, images: int) -> Dice:
    """All the dice at once, so that what is asked of some does not change the others."""
    asked, partners = rng.random(2), rng.integers(images, size=4)
    centre, move, mix = rng.random(2), rng.random(6), rng.random(4)
    colour = rng.uniform(-1, 1, 3) * rng.integers(0, 2, 3)
    return Dice(asked, partners, centre, move, mix, colour)


def mix_sample(sample: Sample, read: Read, input: Input, augment: Augment, dice: Dice) -> Sample:
    """The picture that `augment` makes of `sample` and of others, square: `input` has its side."""
    side, first = input.max_size, [sample]
    is_mosaic = dice.asked[0] < augment.mosaic
    if is_mosaic:
        first += [read(int(number)) for number in dice.partners[:3]]
        picture = lay_mosaic(first, input, dice.centre)
    else:
        picture = fit_square(sample, input)
    if is_mosaic and augment.affine == UNMOVED:
        picture = warp_sample(picture, np.diag([0.5, 0.5, 1]), side, _grey(input))
    elif augment.affine != UNMOVED:
        matrix = affine_matrix(augment.affine, dice.move, side)
        picture = warp_sample(picture, matrix, side, _grey(input))
    if dice.asked[1] < augment.mixup:
        picture = mix_up(picture, fit_square(read(int(dice.partners[3])), input), input, dice.mix)
    return spare_slivers(picture)


def fit_square(sample: Sample, input: Input) -> Sample:
    """The sample in the top left corner of the square, grey beside it."""
    fitted = resize_sample(sample, _whole_pixels(input))
    return replace(fitted, image=_paste(fitted.image, (0, 0), input.max_size, _grey(input)))


def lay_mosaic(samples: Sequence[Sample], input: Input, centre: NDArray[np.float64]) -> Sample:
    """Four samples, each fitted into the square, around a point of a square of twice the side.

    The first above and left of that point, the second above and right, the third below and left.
    `centre` (2,) in [0, 1) says where the point lies within its limits.
    """
    side, low, high = input.max_size, *CENTRES
    x, y = (int(side * (low + share * (high - low))) for share in centre)
    canvas = np.full((2 * side, 2 * side, 3), _grey(input), np.uint8)
    parts = []
    for number, sample in enumerate(samples):
        height, width = sample.image.shape[:2]
        width, height = resized_size(width, height, input)
        left, top = x - width * (number % 2 == 0), y - height * (number < 2)
        fitted = resize_sample(sample, _whole_pixels(input))
        _lay(canvas, fitted.image, (left, top))
        parts.append(_moved(fitted, (left, top)))
    return _joined(canvas, parts)


def affine_matrix(limits: Affine, dice: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """(3, 3) shift · shear · rotation · scale, of points from the top left corner, in pixels."""
    low, high = limits.scale
    scale = low + (high - low) * dice[0]
    turn, slant_x, slant_y = np.radians((2 * dice[1:4] - 1) * [limits.rotate, *[limits.shear] * 2])
    shift = (2 * dice[4:] - 1) * limits.shift * side
    cos, sin = math.cos(turn), math.sin(turn)
    turned = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    slanted = np.array([[1, math.tan(slant_x), 0], [math.tan(slant_y), 1, 0], [0, 0, 1]])
    moved = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    matrix: NDArray[np.float64] = moved @ slanted @ turned @ np.diag([scale, scale, 1])
    return matrix


def warp_sample(sample: Sample, matrix: NDArray[np.float64], side: int, grey: int) -> Sample:
    """The square of `side` pixels of what `matrix` (3, 3) makes of the sample.

    Boxes become those around their four corners, cut at the border.
    """
    # OpenCV counts from the middle of the first pixel, boxes from its corner
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    of_pixels = np.linalg.inv(half) @ matrix @ half
    image = cv2.warpAffine(
        sample.image, of_pixels[:2], (side, side), borderValue=(grey, grey, grey)
    )
    boxes, ignore = (_around(part, matrix) for part in (sample.boxes, sample.ignore))
    return clip_sample(Sample(np.asarray(image, np.uint8), boxes, sample.labels, ignore))


def mix_up(picture: Sample, other: Sample, input: Input, dice: NDArray[np.float64]) -> Sample:
    """The mean of both squares, the other scaled, perhaps flipped, then cut or filled up."""
    side, low, high = input.max_size, *MIX_SCALES
    size = max(1, int(side * (low + (high - low) * dice[0])))
    image = np.asarray(cv2.resize(other.image, (size, size)), np.uint8)
    scaled = Sample(image, other.boxes * (size / side), other.labels, other.ignore * (size / side))
    scaled = flip_sample(scaled) if dice[1] < 0.5 else scaled
    spare = max(size - side, 0)
    left, top = -int(dice[2] * (spare + 1)), -int(dice[3] * (spare + 1))
    beside = _paste(scaled.image, (left, top), side, _grey(input))
    mean = np.asarray(cv2.addWeighted(picture.image, 0.5, beside, 0.5, 0), np.uint8)
    return _joined(mean, [picture, _moved(scaled, (left, top))])


def change_hsv(image: Values, strength: float, dice: NDArray[np.float64]) -> Pixels:
    """The image (H, W, 3) RGB with another hue, saturation and value; `dice` (3,) in [−1, 1)."""
    change = np.rint(dice * HSV * strength).astype(np.int16)
    if not change.any():
        return np.asarray(image, np.uint8)
    hsv = cv2.cvtColor(np.asarray(image, np.uint8), cv2.COLOR_RGB2HSV).astype(np.int16) + change
    hsv[..., 0] %= 180
    hsv[..., 1:] = hsv[..., 1:].clip(0, 255)
    return np.asarray(cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)


def spare_slivers(sample: Sample) -> Sample:
    """The sample whose objects of less than a pixel's width or height are to be ignored."""
    sides = sample.boxes[:, 2:] - sample.boxes[:, :2]
    whole = (sides >= LEAST_SIDE).all(axis=1)
    ignore = np.concatenate([sample.ignore, sample.boxes[~whole]])
    return Sample(sample.image, sample.boxes[whole], sample.labels[whole], ignore)


def nothing_seen(grey: int) -> Sample:
    """A pixel without objects."""
    none = np.zeros((0, 4))
    return Sample(np.full((1, 1, 3), grey, np.uint8), none, np.zeros(0, np.int64), none)


def _around(boxes: Boxes, matrix: NDArray[np.float64]) -> Boxes:
    x1, y1, x2, y2 = boxes.T
    ones = np.ones_like(x1)
    corners = np.stack([[x1, y1, ones], [x2, y1, ones], [x1, y2, ones], [x2, y2, ones]])
    moved = np.einsum("ij,cjm->cmi", matrix[:2], corners)  # (4, M, 2)
    return np.concatenate([moved.min(axis=0), moved.max(axis=0)], axis=1)


def _joined(image: Pixels, parts: Sequence[Sample]) -> Sample:
    """All objects of `parts` on `image`, cut at its border."""
    boxes, labels, ignore = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "labels", "ignore")
    )
    return clip_sample(Sample(image, boxes, labels, ignore))


def _moved(sample: Sample, corner: tuple[int, int]) -> Sample:
    by = np.array(corner * 2)
    return replace(sample, boxes=sample.boxes + by, ignore=sample.ignore + by)


def _paste(image: Values, corner: tuple[int, int], side: int, grey: int) -> Pixels:
    """A grey square with `image` on it."""
    canvas = np.full((side, side, 3), grey, np.uint8)
    _lay(canvas, image, corner)
    return canvas


def _lay(canvas: Pixels, image: Values, corner: tuple[int, int]) -> None:
    """Put `image` on `canvas`, its top left corner at `corner` x, y; what lies outside is cut."""
    (left, top), (height, width) = corner, image.shape[:2]
    first_x, first_y = max(left, 0), max(top, 0)
    last_x, last_y = min(left + width, canvas.shape[1]), min(top + height, canvas.shape[0])
    canvas[first_y:last_y, first_x:last_x] = image[
        first_y - top : last_y - top, first_x - left : last_x - left
    ]


def _whole_pixels(input: Input) -> Input:
    """Pictures are made of bytes."""
    if input.interpolation != "float":
        return input
    return input.model_copy(update={"interpolation": "cv2"})


def _grey(input: Input) -> int:
    assert input.letterbox is not None  # the configuration sees to it
    return input.letterbox

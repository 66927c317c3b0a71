"""Resizing and augmentation, boxes carried along.

Geometry (crop, resize, flip) is done here, in exact arithmetic: albumentations keeps boxes as
float32 fractions, which moves them. It changes the colours, and is imported only for that.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dhcli.config.schema import Augment, Input
from dhcli.data.io.image import Pixels, Values
from dhcli.data.table import DetectionTable

Boxes = NDArray[np.float64]

SMALLEST_CROP = 0.5
"""Share of the image's side that a random crop has at least."""
SHIFTED = 0.5
"""Share of the images that are moved where `augment.shift` asks for it."""
WHOLE_ENOUGH = 0.5
"""Share of a box's area that must be left for it to stay an object; below, it is ignored."""


@dataclass(frozen=True)
class Sample:
    """An image and what is in it, in its own pixels.

    image   (H, W, 3) uint8 RGB; resized by `float`, float32
    boxes   (M, 4) float64 xyxy
    labels  (M,) int64 in 0…K-1
    ignore  (R, 4) float64 xyxy
    """

    image: Values
    boxes: Boxes
    labels: NDArray[np.int64]
    ignore: Boxes


def resized_size(
    width: int, height: int, input: Input, min_size: int | None = None
) -> tuple[int, int]:
    """Width and height that an image gets: shortest side `min_size`, longest at most max_size.

    scale = min(max_size / longest, min_size / shortest); side ← ⌊side · scale + ½⌋, or as
    `input.resize` says. `min_size` None is the configured one.
    """
    least = min_size or input.min_size
    if input.resize == "square":
        return least, least
    longest, shortest = max(width, height), min(width, height)
    if input.resize == "maskrcnn_benchmark":
        return _benchmark_size(width, height, least, input.max_size)
    scale = min(input.max_size / longest, least / shortest)
    half = 0.5 if input.resize in ("plain", "mmdet1") else 0.0
    return max(1, int(width * scale + half)), max(1, int(height * scale + half))


def padded_size(
    width: int, height: int, input: Input, min_size: int | None = None
) -> tuple[int, int]:
    """Width and height of an image that is alone in its batch: `resized_size`, padded."""
    multiple = input.pad_to()
    across, down = resized_size(width, height, input, min_size)
    return across + -across % multiple, down + -down % multiple


def resized_boxes(
    table: DetectionTable, input: Input, min_size: int | None = None
) -> tuple[Boxes, NDArray[np.int64]]:
    """Boxes (M, 4) in pixels of the resized images, and (M, 2) width, height of those, padded.

    Each image has a known size; `min_size` as in `resized_size`.
    """
    sizes, which = np.unique(table.sizes, axis=0, return_inverse=True)
    resized = np.array([resized_size(w, h, input, min_size) for w, h in sizes.tolist()], np.int64)
    resized = resized.reshape(-1, 2)
    scale = np.tile(resized / np.maximum(sizes, 1), 2)[which][table.image_of_box]
    padded = -(-resized // input.pad_to()) * input.pad_to()
    return table.boxes * scale, padded[which][table.image_of_box]


def _benchmark_size(width: int, height: int, min_size: int, max_size: int) -> tuple[int, int]:
    """The short side to the nearest pixel, halves to even, and the long one in proportion, cut."""
    longest, shortest = max(width, height), min(width, height)
    if longest / shortest * min_size > max_size:
        min_size = round(max_size * shortest / longest)
    if width < height:
        return min_size, int(min_size * height / width)
    return int(min_size * width / height), min_size


def resize(image: Values, size: tuple[int, int], interpolation: str) -> Values:
    """The image (H, W, 3) at `size` (width, height), bilinear.

    `interpolation` "pil" averages over what it shrinks; "cv2" and "float" read the four nearest
    pixels, and "float" does not round what it reads: float32.
    """
    if interpolation == "float":
        return _resize_float(image, size)
    if (image.shape[1], image.shape[0]) == size:
        return image
    if interpolation == "cv2":
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _resize_float(image: Values, size: tuple[int, int]) -> NDArray[np.float32]:
    """The bilinear resizing of torch itself: torchvision's arithmetic to the last bit."""
    import torch  # late: everything else here does without
    from torch.nn.functional import interpolate

    values = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)
    resized = interpolate(values[None], size[::-1], mode="bilinear", align_corners=False)[0]
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def resize_sample(sample: Sample, input: Input, min_size: int | None = None) -> Sample:
    """The sample at the size of `resized_size`; boxes are scaled by each axis' own factor."""
    height, width = sample.image.shape[:2]
    size = resized_size(width, height, input, min_size)
    scale = np.array([size[0] / width, size[1] / height] * 2)
    image = resize(sample.image, size, input.interpolation)
    return Sample(image, sample.boxes * scale, sample.labels, sample.ignore * scale)


def flip_sample(sample: Sample) -> Sample:
    """The sample mirrored left to right: x1, x2 ← W − x2, W − x1."""
    width = sample.image.shape[1]
    image = np.asarray(cv2.flip(sample.image, 1), sample.image.dtype)
    return Sample(image, _flip(sample.boxes, width), sample.labels, _flip(sample.ignore, width))


def crop_sample(sample: Sample, window: tuple[int, int, int, int]) -> Sample:
    """The part of the sample inside `window` (x1, y1, x2, y2), whole pixels within the image.

    Objects with less than half their area left become regions to ignore: they are still to be
    seen, and neither an object to learn nor background.
    """
    x1, y1, x2, y2 = window
    corner, size = np.array([x1, y1, x1, y1]), (x2 - x1, y2 - y1)
    boxes = _clip(sample.boxes - corner, size)
    left = _area(boxes) / np.maximum(_area(sample.boxes), np.finfo(np.float64).tiny)
    whole, seen = left >= WHOLE_ENOUGH, left > 0
    ignore = np.concatenate([_clip(sample.ignore - corner, size), boxes[seen & ~whole]])
    return Sample(
        np.ascontiguousarray(sample.image[y1:y2, x1:x2]),
        boxes[whole],
        sample.labels[whole],
        ignore[_area(ignore) > 0],
    )


def shift_sample(sample: Sample, across: int, down: int) -> Sample:
    """The sample moved by whole pixels, less than its sides, within its size; the rest is black.

    What leaves it is treated as in `crop_sample`. A sample that would lose all its objects stays.
    """
    height, width = sample.image.shape[:2]
    left, top = max(0, across), max(0, down)
    window = (left - across, top - down, width - left, height - top)
    seen = crop_sample(sample, window)
    if len(sample.boxes) and not len(seen.boxes):
        return sample
    image = np.zeros_like(sample.image)
    image[top : top + seen.image.shape[0], left : left + seen.image.shape[1]] = seen.image
    corner = np.array([left, top, left, top])
    return Sample(image, seen.boxes + corner, seen.labels, seen.ignore + corner)


def draw_shift(size: tuple[int, int], most: int, rng: np.random.Generator) -> tuple[int, int]:
    """Pixels to the right and down, `most` at most, for an image of width, height."""
    across, down = (min(most, side - 1) for side in size)
    return int(rng.integers(-across, across + 1)), int(rng.integers(-down, down + 1))


def clip_sample(sample: Sample) -> Sample:
    """The sample with its boxes cut at the image's border; what has no area left is dropped."""
    height, width = sample.image.shape[:2]
    boxes, ignore = (_clip(part, (width, height)) for part in (sample.boxes, sample.ignore))
    keep = _area(boxes) > 0
    return Sample(sample.image, boxes[keep], sample.labels[keep], ignore[_area(ignore) > 0])


def draw_window(
    width: int, height: int, boxes: Boxes, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A random window (x1, y1, x2, y2), at least half as wide and high as the image.

    One object, drawn at random, lies in it whole. Without objects it may lie anywhere.
    """
    wanted = rng.uniform(SMALLEST_CROP, 1, 2) * (width, height)
    place = rng.random(2)
    kept = boxes[rng.integers(len(boxes))] if len(boxes) else None
    spans = []
    for axis, side in enumerate((width, height)):
        length = max(1, int(wanted[axis]))
        first, last = 0, side - length
        if kept is not None:
            low, high = int(kept[axis]), int(np.ceil(kept[axis + 2]))
            length = max(length, high - low)
            first, last = max(0, high - length), min(low, side - length)
        start = first + int(place[axis] * (last - first + 1))
        spans.append((start, start + length))
    (x1, x2), (y1, y2) = spans
    return x1, y1, x2, y2


def augment_sample(
    sample: Sample, input: Input, augment: Augment, rng: np.random.Generator
) -> Sample:
    """The sample cropped, recoloured, resized, flipped and shifted as `augment` asks, by `rng`.

    The dice are thrown in one order whatever is asked, so that turning one augmentation on leaves
    the others as they were.
    """
    crop, flip, scale = rng.random(3)
    colour_seed = int(rng.integers(2**32))
    if crop < augment.crop:
        height, width = sample.image.shape[:2]
        sample = crop_sample(sample, draw_window(width, height, sample.boxes, rng))
    if augment.colour > 0:
        image = change_colour(sample.image, augment.colour, colour_seed)
        sample = replace(sample, image=image)
    sizes = augment.min_sizes or (input.min_size,)
    sample = resize_sample(sample, input, sizes[int(scale * len(sizes))])
    sample = flip_sample(sample) if flip < augment.flip else sample
    if augment.shift and rng.random() < SHIFTED:  # its dice are the last
        size = (sample.image.shape[1], sample.image.shape[0])
        sample = shift_sample(sample, *draw_shift(size, augment.shift, rng))
    return sample


def prepare_augmentation(augment: Augment) -> None:
    """Import and build what `augment` needs, so that forked workers share it."""
    if augment.colour > 0:
        _colour_jitter(augment.colour)


def change_colour(image: Values, strength: float, seed: int) -> Pixels:
    """The image with another brightness, contrast, saturation (up to ±50 %) and hue (±36°).

    These are the limits at `strength` 1, and shrink in proportion. The same for the same `seed`.
    """
    compose = _colour_jitter(strength)
    compose.set_random_seed(seed)  # albumentations ignores every other seed
    return np.asarray(compose(image=image)["image"], np.uint8)


@lru_cache(maxsize=8)
def _colour_jitter(strength: float) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import asks the network
    import albumentations

    factors = (1 - 0.5 * strength, 1 + 0.5 * strength)
    hue = (-0.1 * strength, 0.1 * strength)
    jitter = albumentations.ColorJitter(factors, factors, factors, hue, p=1)
    return albumentations.Compose([jitter])


def _flip(boxes: Boxes, width: int) -> Boxes:
    x1, y1, x2, y2 = boxes.T
    return np.stack([width - x2, y1, width - x1, y2], axis=1)


def _clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    return np.clip(boxes, 0, size * 2)


def _area(boxes: Boxes) -> NDArray[np.float64]:
    x1, y1, x2, y2 = boxes.T
    area: NDArray[np.float64] = np.maximum(x2 - x1, 0) * np.maximum(y2 - y1, 0)
    return area

"""Resized images in one array, as a detector takes them. No torch: any runtime starts from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.image import Values


@dataclass(frozen=True)
class Pictures:
    """B images of unequal size in one array, padded with zeros on the right and below.

    pixels     (B, H, W, 3) uint8 or float32 RGB 0–255
    sizes      (B, 2) int64 height, width of each image within the padding
    originals  (B, 2) int64 height, width before resizing: detections are given in these pixels
    """

    pixels: NDArray[Any]
    sizes: NDArray[np.int64]
    originals: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sizes)


def collate_pictures(
    images: Sequence[Values], originals: Sequence[tuple[int, int]], divisor: int
) -> Pictures:
    """Lay B resized images into one array, zeros to the right of and below each.

    in   images     each (H, W, 3) uint8 or float32 RGB
         originals  height, width of each before resizing
         divisor    the array's height and width are multiples of it
    """
    if not images:
        none = np.zeros((0, 2), np.int64)
        return Pictures(np.zeros((0, divisor, divisor, 3), np.uint8), none, none)
    sizes = [image.shape[:2] for image in images]
    height, width = (max(side) + -max(side) % divisor for side in zip(*sizes, strict=True))
    kind = np.float32 if images[0].dtype == np.float32 else np.uint8
    pixels = np.zeros((len(images), height, width, 3), kind)
    for place, image, (h, w) in zip(pixels, images, sizes, strict=True):
        place[:h, :w] = image
    return Pictures(pixels, np.array(sizes, np.int64), np.array(originals, np.int64))

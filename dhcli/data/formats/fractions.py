"""Boxes told in fractions of their images, in files of formats that tell them in pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.locate import missing_sizes
from dhcli.errors import DataError
from dhcli.ops.arrays import tidy
from dhcli.words import counted

_ROUNDED = 1e-3
"""What rounding adds to a fraction of 1."""
_SOME = 0.05
"""Share of the boxes that may lie within 0…1, at most a pixel large, where others are in pixels."""


class InPixels(NamedTuple):
    """Boxes (M, 4) that were told in fractions, and what is said of that."""

    boxes: NDArray[np.float64]
    notes: list[str]


def from_fractions(
    boxes: NDArray[np.float64],
    sizes: NDArray[np.int32],
    images: NDArray[np.int64],
    path: Path,
    named: Callable[[int], tuple[str, str | Path]],
) -> InPixels | None:
    """The boxes xyxy of `path` in pixels where all of them are told in fractions; else None.

    `boxes` (M, 4) are of `images` (M,), which have `sizes` (I, 2); `named` says what a row is
    called in an error, and where it is. Raises DataError where many boxes look like fractions and
    others do not, and where no image has a size.
    """
    with np.errstate(invalid="ignore"):
        if not (boxes[:, 2] <= 1 + _ROUNDED).any():  # most files; the rest takes its time
            return None
    if not _are_fractions(boxes, sizes[images], named):
        return None
    note = "boxes lie within 0…1: read as fractions of their images"
    return InPixels(scaled(boxes, sizes[images]), [note, *missing_sizes(sizes, images, path)])


def scaled(boxes: NDArray[np.float64], sizes: NDArray[np.int32]) -> NDArray[np.float64]:
    """(M, 4) `boxes` in fractions of images of `sizes` (M, 2), in pixels."""
    with np.errstate(over="ignore", invalid="ignore"):
        return tidy(boxes * np.tile(sizes, 2))


def _are_fractions(
    boxes: NDArray[np.float64],
    sizes: NDArray[np.int32],
    named: Callable[[int], tuple[str, str | Path]],
) -> bool:
    """Whether `boxes` (M, 4) are told in fractions of their images, of `sizes` (M, 2).

    Raises DataError where many of them look so, and others do not.
    """
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        within = ((boxes >= -_ROUNDED) & (boxes <= 1 + _ROUNDED)).all(axis=1) & sound
        alike = within & (boxes % 1 != 0).any(axis=1) & (sizes != 1).all(axis=1)
    if not alike.any() or within.sum() == sound.sum():
        return bool(alike.any())
    if alike.sum() < _SOME * sound.sum():  # boxes of less than a pixel, in the corner
        return False
    row = int(np.flatnonzero(alike)[0])
    what, where = named(row)
    box = ", ".join(f"{value:g}" for value in boxes[row])
    raise DataError(
        f"{what}: its corners {box} lie within 0…1, as fractions of an image do; "
        f"so do {int(alike.sum()):,} of {counted(int(sound.sum()), 'box')}, the others do not",
        where=where,
        hint="write all boxes in pixels",
    )

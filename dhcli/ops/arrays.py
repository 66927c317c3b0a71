"""What NumPy lacks for boxes and columns, in float64 and without torch: `ops/boxes.py` has that.

Boxes are xyxy pixels with an exclusive maximum, so a width is x2 - x1. The VOC devkit's inclusive
corners with their + 1 give the same widths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def box_areas(boxes: Boxes) -> NDArray[np.float64]:
    """Width x height of boxes (..., 4): (...), 0 where a side is not positive."""
    sides = np.clip(boxes[..., 2:] - boxes[..., :2], 0, None)
    areas: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return areas


def shared_areas(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Area that boxes `a` (..., 4) and `b` (..., 4), broadcast against them, share: (...)."""
    low = np.maximum(a[..., :2], b[..., :2])
    high = np.minimum(a[..., 2:], b[..., 2:])
    sides = np.clip(high - low, 0, None)
    shared: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return shared


def paired_iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of `a` and `b` as in `shared_areas`: (...), 0 if both are empty."""
    shared = shared_areas(a, b)
    union = box_areas(a) + box_areas(b) - shared
    return shared / np.where(union > 0, union, 1)


def intersections(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Area shared by each of `a` (N, 4) with each of `b` (M, 4): (N, M)."""
    return shared_areas(a[:, None], b[None])


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of each of `a` (N, 4) with each of `b` (M, 4): (N, M)."""
    return paired_iou(a[:, None], b[None])


def coverage(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Share of each of `a` (N, 4) that lies within each of `b` (M, 4): (N, M), 0 if `a` is empty.

    The rule of COCO's crowds and KITTI's DontCare: intersection over the detection's own area.
    """
    areas = box_areas(a)[:, None]
    return intersections(a, b) / np.where(areas > 0, areas, 1)


def tidy(values: NDArray[np.float64], decimals: int = 10) -> NDArray[np.float64]:
    """`values` to so many decimals, which bring back what a file said: 1.1 - 1 is not 0.1."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.round(values, decimals)
    # NumPy loses numbers that have no room for the decimals.
    return np.where(np.isfinite(rounded), rounded, values)


def is_first(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) bool: the rows of (n,) or (n, k) numbers that no earlier one equals."""
    first = np.zeros(len(rows), np.bool_)
    first[np.unique(rows, axis=0, return_index=True)[1]] = True
    return first


def expand_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers of every range [start, start + length), one after another: (sum,) int64."""
    ends = np.cumsum(lengths)
    shift = np.repeat(starts - (ends - lengths), lengths)
    total = int(ends[-1]) if len(ends) else 0
    rows: NDArray[np.int64] = np.arange(total, dtype=np.int64) + shift
    return rows

"""How much boxes cover each other, in NumPy and float64: metrics need no torch.

Boxes are xyxy pixels with an exclusive maximum, so a width is x2 - x1. The VOC devkit's inclusive
corners with their + 1 give the same widths.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def box_areas(boxes: Boxes) -> NDArray[np.float64]:
    """Width x height of boxes (N, 4): (N,), 0 where a side is not positive."""
    sides = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None)
    areas: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return areas


def intersections(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Area shared by each of `a` (N, 4) with each of `b` (M, 4): (N, M)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.clip(high - low, 0, None)  # (N, M, 2)
    shared: NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return shared


def iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of `a` (N, 4) and `b` (M, 4): (N, M), 0 where both are empty."""
    shared = intersections(a, b)
    union = box_areas(a)[:, None] + box_areas(b)[None, :] - shared
    return shared / np.where(union > 0, union, 1)


def coverage(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Share of each of `a` (N, 4) that lies within each of `b` (M, 4): (N, M), 0 if `a` is empty.

    The rule of COCO's crowds and KITTI's DontCare: intersection over the detection's own area.
    """
    areas = box_areas(a)[:, None]
    return intersections(a, b) / np.where(areas > 0, areas, 1)

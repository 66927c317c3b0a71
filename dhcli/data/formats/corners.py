"""Whether boxes that are told as a place and their sides may be two corners instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.boxes import columns_xywh
from dhcli.data.table import DetectionTable

_SLACK = 0.01
"""What boxes may reach over the edge, in fractions of the image, and be none too many."""
_MANY = 0.25
"""Share of the boxes that reach over the edge where they are not what they are taken for."""
_LOOK_AT = 200
"""Boxes that are looked at first: nearly always one of them cannot be corners."""
_NOTE = "boxes extend beyond the image, and would not if they were corners"


def notes_on_corners(
    told: NDArray[np.float64], boxes: NDArray[np.float64], sizes: NDArray[np.float64 | np.int32]
) -> list[str]:
    """A note where the numbers `told` (M, 4) may be corners, and not what they are read as; or [].

    So it is where many of the `boxes` (M, 4) xyxy that are made of them reach over the edges of
    their images, of `sizes` (M, 2), and each is a box within them as x1, y1, x2, y2. Boxes that are
    not finite, and of images of unknown size, 0, do not count.
    """
    for rows in (slice(_LOOK_AT), slice(None)):
        if not _may_be_corners(told[rows], boxes[rows], sizes[rows]):
            return []
    known = _known(boxes, sizes)
    boxes, sizes = boxes[known], sizes[known]
    over = ((boxes[:, :2] < -_SLACK * sizes) | (boxes[:, 2:] > (1 + _SLACK) * sizes)).any(axis=1)
    return [_NOTE] if over.sum() > _MANY * len(boxes) else []


def _known(boxes: NDArray[np.float64], sizes: NDArray[np.float64 | np.int32]) -> NDArray[np.bool_]:
    return np.asarray((sizes > 0).all(axis=1) & np.isfinite(boxes).all(axis=1))


def _may_be_corners(
    told: NDArray[np.float64], boxes: NDArray[np.float64], sizes: NDArray[np.float64 | np.int32]
) -> bool:
    """Whether all that are known lie in their images as x1, y1, x2, y2."""
    first, last = told[:, :2], told[:, 2:]
    fits = ((first >= 0) & (first <= last) & (last <= (1 + _SLACK) * sizes)).all(axis=1)
    return bool((fits | ~_known(boxes, sizes)).all())


def with_notes_on_corners(table: DetectionTable) -> DetectionTable:
    """The table of a file that tells boxes as x, y, width, height, with such a note if need be."""
    sizes = table.sizes[table.image_of_box]
    notes = notes_on_corners(columns_xywh(table.boxes), table.boxes, sizes)
    return replace(table, notes=(*table.notes, *notes)) if notes else table

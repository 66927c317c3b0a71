"""Which object a box answers for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dhcli.ops.boxes import covered_by, iou_matrix

BACKGROUND = -1
UNDECIDED = -2

IGNORE_COVER = 0.5
"""A box of which more than this share lies in an ignore region is not taught as background."""
PAIRS = 2**22
"""Overlaps that are worked out at a time, about 30 bytes each: those of 15 objects with the anchors
of 800 × 1333 pixels."""


def match_boxes(
    boxes: Tensor,
    objects: Tensor,
    ignore: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    best_for_each: bool = False,
) -> Tensor:
    """The object that each box answers for: (N,) int64 index, BACKGROUND or UNDECIDED.

    A box belongs to the object it overlaps most if that IoU is at least `positive_iou`, is
    background below `negative_iou`, and undecided between. With `best_for_each`, an object also
    gets the boxes that overlap it most, however little (Faster R-CNN §3.1.2). Background that lies
    mostly in a region of `ignore` is undecided: nothing there is known to be no object.

    in   boxes (N, 4), objects (M, 4), ignore (R, 4) float xyxy
    """
    matches = torch.full((len(boxes),), BACKGROUND, dtype=torch.int64, device=boxes.device)
    if len(objects) and len(boxes):  # the most of no boxes is none
        best, index, is_top = _overlaps(boxes, objects)
        matches = torch.where(best >= negative_iou, UNDECIDED, matches)
        matches = torch.where(best >= positive_iou, index, matches)
        if best_for_each:
            matches = torch.where(is_top, index, matches)
    for part in _parts(ignore, boxes):
        hidden = covered_by(boxes, part) > IGNORE_COVER
        matches = torch.where((matches == BACKGROUND) & hidden, UNDECIDED, matches)
    return matches


def _overlaps(boxes: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How each of `boxes` (N, 4) overlaps `objects` (M, 4), in memory that does not grow with M.

    out  best    (N,) its largest IoU
         index   (N,) int64, the first object of that IoU
         is_top  (N,) bool, whether no box overlaps some object more
    """
    best, index, is_top = None, None, None
    first = 0
    for part in _parts(objects, boxes):
        iou = iou_matrix(part, boxes)  # (m, N)
        most, which = iou.max(dim=0)
        top = iou.amax(dim=1, keepdim=True)
        tops = ((iou == top) & (top > 0)).any(dim=0)
        if best is None or index is None or is_top is None:
            best, index, is_top = most, which, tops
        else:
            index = torch.where(most > best, which + first, index)
            best = torch.maximum(best, most)
            is_top |= tops
        first += len(part)
    assert best is not None
    assert index is not None
    assert is_top is not None
    return best, index, is_top


def _parts(rows: Tensor, boxes: Tensor) -> Sequence[Tensor]:
    """`rows` in pieces small enough for a matrix with `boxes`."""
    return torch.split(rows, max(1, PAIRS // max(1, len(boxes)))) if len(rows) else ()


def sample_matches(matches: Tensor, count: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """A random choice of at most `count` boxes to carry a loss.

    Up to `positive_fraction` of them objects, the rest background; UNDECIDED ones never.

    in   matches  (N,) int64 as of `match_boxes`
    out  positive, negative  (P,), (Q,) int64 indices
    """
    positive = torch.nonzero(matches >= 0).flatten()
    negative = torch.nonzero(matches == BACKGROUND).flatten()
    positive = _choose(positive, int(count * positive_fraction))
    return positive, _choose(negative, count - len(positive))


def _choose(indices: Tensor, count: int) -> Tensor:
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]

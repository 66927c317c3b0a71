"""Which object a box answers for."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.ops.boxes import covered_by, iou_matrix

BACKGROUND = -1
UNDECIDED = -2

IGNORE_COVER = 0.5
"""A box of which more than this share lies in an ignore region is not taught as background."""


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
    if len(objects):
        iou = iou_matrix(objects, boxes)  # (M, N)
        best, index = iou.max(dim=0)
        matches = torch.where(best >= negative_iou, UNDECIDED, matches)
        matches = torch.where(best >= positive_iou, index, matches)
        if best_for_each:
            top = iou.amax(dim=1, keepdim=True)
            is_top = ((iou == top) & (top > 0)).any(dim=0)
            matches = torch.where(is_top, index, matches)
    if len(ignore):
        hidden = covered_by(boxes, ignore) > IGNORE_COVER
        matches = torch.where((matches == BACKGROUND) & hidden, UNDECIDED, matches)
    return matches


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

"""Non-maximum suppression within groups: pyramid levels, or classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, nms

FEW = 4000
"""Numbers (four a box) up to which torchvision's `batched_nms` moves the boxes on a CPU."""

MANY_ON_CPU, MANY_ELSEWHERE, MANY_IN_MMCV = 3000, 25_000, 10_000
"""Boxes from which each group has an NMS of its own: one for all compares across groups in vain."""

UNLIMITED = 2**31 - 1
"""More boxes than there are; NonMaxSuppression of ONNX takes it too."""


class Limits(NamedTuple):
    """How many boxes are kept.

    most       of all groups
    per_group  of one group, before `most` are counted; 0: all
    keep_ties  beside `most` also all that score as high as the last of them
    """

    most: int
    per_group: int = 0
    keep_ties: bool = False


def best_of_groups(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    iou_threshold: float,
    limits: Limits,
    *,
    count: int,
    how: str = "exact",
) -> Tensor:
    """Indices of the best boxes that no better box of their group overlaps, best score first.

    in   boxes  (N, 4) float xyxy;  scores  (N,) float;  groups  (N,) int64 in 0 … count − 1
         how    see `grouped_nms`
    out  (n,) int64
    """
    if torch.compiler.is_exporting():
        from dhcli.ops.nms_operator import exported_best  # registers an operator, for export alone

        moved = _as_moved(boxes, groups, how)
        kept: Tensor = exported_best(moved, scores, groups, count, iou_threshold, *limits)
        return kept
    keep = grouped_nms(boxes, scores, groups, iou_threshold, how)
    return take_best(keep, scores, groups, limits)


def take_best(keep: Tensor, scores: Tensor, groups: Tensor, limits: Limits) -> Tensor:
    """Of `keep` (n,), best first, what `limits` leave."""
    most, per_group, keep_ties = limits
    if per_group and len(keep):  # one_hot of nothing knows no classes
        keep = keep[_rank_in_group(groups[keep]) < per_group]
    if keep_ties and len(keep) > most:
        most = int((scores[keep] >= scores[keep[most - 1]]).sum())
    return keep[:most]


def grouped_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, how: str = "exact"
) -> Tensor:
    """Indices of the boxes that no better box of their group overlaps by more than the threshold.

    Every group is moved to a place of its own, so that one NMS serves all, unless boxes are so
    many that one for each group takes less time. `how`:

    exact        in float64, where the move leaves the overlaps as they were
    mmdet        in float32, where group 80 is rounded to 1/128 pixel (mmcv's `batched_nms`, which
                 also leaves one NMS for all at 10,000 boxes)
    torchvision  its `batched_nms`: the same in float32 for few boxes, a group at a time for many

    in   boxes  (N, 4) float xyxy;  scores  (N,) float;  groups  (N,) int64 ≥ 0
    out  (n,) int64, best score first
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    if how == "torchvision":
        return torch.as_tensor(batched_nms(boxes, scores, groups, iou_threshold))
    if how == "mmdet":
        moved, many = move_groups(boxes, groups), MANY_IN_MMCV
    else:
        exact = boxes.double()
        low = exact.min()
        step = exact.max() - low + 1
        moved, scores = exact - low + (groups * step)[:, None], scores.double()
        many = MANY_ON_CPU if boxes.device.type == "cpu" else MANY_ELSEWHERE
    if len(moved) < many:
        return torch.as_tensor(nms(moved, scores, iou_threshold))
    return _nms_of_each(moved, scores, groups, iou_threshold)


def _nms_of_each(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """What one NMS of boxes that were moved apart keeps, in the same order, a group at a time."""
    by_group = groups.argsort(stable=True)
    sizes = [size for size in torch.bincount(groups).tolist() if size]
    keep = torch.cat(
        [
            rows[nms(boxes[rows], scores[rows], iou_threshold)]
            for rows in torch.split(by_group, sizes)
        ]
    )
    keep = keep.sort().values  # equal scores stay in the order in which they came
    return keep[scores[keep].argsort(descending=True, stable=True)]


def move_groups(boxes: Tensor, groups: Tensor) -> Tensor:
    """Boxes (N, 4), each group (N,) in a place of its own, rounded as mmcv rounds them; N > 0."""
    return boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]


def _as_moved(boxes: Tensor, groups: Tensor, how: str) -> Tensor:
    """Boxes rounded as `how` rounds them by moving; a runtime's own NMS knows groups."""
    if how == "exact":
        return boxes
    # One box more, so that there is a largest coordinate where there are no boxes
    largest = torch.cat([boxes, boxes.new_zeros(1, 4)]).amax((0, 1))
    moved = boxes + (groups.to(boxes) * (largest + 1))[:, None]
    if how == "mmdet":
        return moved
    many = 4 * torch.ones_like(groups).sum() > FEW
    return torch.where(many, boxes, moved)


def _rank_in_group(groups: Tensor) -> Tensor:
    """How many of the same group stand before each of `groups` (N,): (N,) int64."""
    return F.one_hot(groups).cumsum(0).gather(1, groups[:, None])[:, 0] - 1

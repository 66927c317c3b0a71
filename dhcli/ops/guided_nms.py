"""IoU-guided NMS ("Acquisition of Localization Confidence …", Algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.ops.boxes import iou_matrix
from dhcli.ops.nms import Limits, grouped_nms, take_best


def guided_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    ranks: Tensor,
    iou_threshold: float,
    limits: Limits,
    how: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Indices of the boxes that no better ranked box of their group overlaps, and their scores.

    A box that stays has the best score of itself and of those that go because of it.

    in   boxes  (N, 4) float xyxy;  scores, ranks  (N,) float;  groups  (N,) int64
         how    see `grouped_nms`
    out  (n,) int64, best score first;  (N,) float scores of all boxes, of those that stay the best
    """
    keep = grouped_nms(boxes, ranks, groups, iou_threshold, how)
    best = scores.clone()
    for group in set(groups[keep].tolist()):
        mine = torch.nonzero(groups == group).flatten()
        kept = keep[groups[keep] == group]  # best rank first
        over = iou_matrix(boxes[mine], boxes[kept]) > iou_threshold
        gone = over.any(dim=1)
        because = kept[over.float().argmax(dim=1)]  # the first that overlaps it
        best.scatter_reduce_(0, because[gone], scores[mine][gone], "amax")
    keep = keep[best[keep].argsort(descending=True, stable=True)]
    return take_best(keep, best, groups, limits), best

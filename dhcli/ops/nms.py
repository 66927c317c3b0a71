"""Non-maximum suppression within groups: pyramid levels, or classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms


def grouped_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, how: str = "exact"
) -> Tensor:
    """Indices of the boxes that no better box of their group overlaps by more than the threshold.

    Every group is moved to a place of its own, so that one NMS serves all. `how`:

    exact        in float64, where the move leaves the overlaps as they were
    mmdet        in float32, where group 80 is rounded to 1/128 pixel (mmcv's `batched_nms`)
    torchvision  its `batched_nms`: the same in float32 for few boxes, a group at a time for many

    in   boxes  (N, 4) float xyxy;  scores  (N,) float;  groups  (N,) int64 ≥ 0
    out  (n,) int64, best score first
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    if how == "torchvision":
        return torch.as_tensor(batched_nms(boxes, scores, groups, iou_threshold))
    if how == "mmdet":
        moved = boxes + (groups.to(boxes) * (boxes.max() + 1))[:, None]
        return torch.as_tensor(nms(moved, scores, iou_threshold))
    exact = boxes.double()
    low = exact.min()
    step = exact.max() - low + 1
    moved = exact - low + (groups * step)[:, None]
    keep: Tensor = nms(moved, scores.double(), iou_threshold)
    return keep

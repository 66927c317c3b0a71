"""Non-maximum suppression within groups: pyramid levels, or classes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better box of their group overlaps by more than the threshold.

    Every group is moved to a place of its own, so that one NMS serves all. In float64, where the
    move leaves the overlaps as they were.

    in   boxes  (N, 4) float xyxy;  scores  (N,) float;  groups  (N,) int64 ≥ 0
    out  (n,) int64, best score first
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    exact = boxes.double()
    low = exact.min()
    step = exact.max() - low + 1
    moved = exact - low + (groups * step)[:, None]
    keep: Tensor = nms(moved, scores.double(), iou_threshold)
    return keep

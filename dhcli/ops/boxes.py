"""Boxes: xyxy pixels, 0-based, exclusive maximum, so that width = x2 − x1.

maskrcnn-benchmark counts an inclusive maximum (width = x2 − x1 + 1). Its boxes are ours with 1
taken from the maximum, so its widths, decoding and IoU are the formulas below; only RoIAlign and
clipping see the difference (`legacy_plus_one`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""Largest dw, dh: keeps exp() from overflowing on an untrained network."""

LEAST_AREA = 1e-6
"""Pixels by which a GIoU divides at least."""


def encode_boxes(boxes: Tensor, anchors: Tensor, std: tuple[float, ...]) -> Tensor:
    """Deltas that take `anchors` to `boxes` (R-CNN, appendix C): inverse of `decode_boxes`.

    dx = (x − x_a) / w_a, dw = ln(w / w_a), each divided by its deviation.

    in   boxes, anchors  (N, 4) float xyxy;  std  4 deviations
    out  (N, 4) float dx, dy, dw, dh
    """
    size = boxes[:, 2:] - boxes[:, :2]
    anchor_size = anchors[:, 2:] - anchors[:, :2]
    shift = (boxes[:, :2] + size / 2 - anchors[:, :2] - anchor_size / 2) / anchor_size
    deltas = torch.cat([shift, torch.log(size / anchor_size)], dim=1)
    return deltas / deltas.new_tensor(std)


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    std: tuple[float, ...],
    *,
    clamp_shrinking: bool = True,
    max_log_scale: float = MAX_LOG_SCALE,
    max_shift: float = 0.0,
) -> Tensor:
    """Boxes that `deltas` make of `anchors`; none grows, or (`clamp_shrinking`) shrinks, 62.5-fold.

    in   deltas     (..., 4) float;  anchors  (..., 4) float xyxy, broadcast against it
         max_shift  most pixels that a centre moves along an axis; 0: any
    out  (..., 4) float32 xyxy
    """
    deltas = deltas.float()
    deltas = deltas * deltas.new_tensor(std)
    size = anchors[..., 2:] - anchors[..., :2]
    shift = deltas[..., :2] * size
    if max_shift:
        shift = shift.clamp(-max_shift, max_shift)
    centre = anchors[..., :2] + size / 2 + shift
    least = -max_log_scale if clamp_shrinking else None
    half = size * deltas[..., 2:].clamp(least, max_log_scale).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def clip_boxes(boxes: Tensor, sizes: Tensor, *, legacy_plus_one: bool = False) -> Tensor:
    """Boxes within their images.

    in   boxes  (..., 4) float xyxy;  sizes  (..., 2) height, width, broadcast against it
    """
    limit = sizes.flip(-1).to(boxes.dtype)
    one = 1.0 if legacy_plus_one else 0.0
    low = torch.minimum(boxes[..., :2].clamp(min=0), limit - one)
    high = torch.minimum(boxes[..., 2:].clamp(min=one), limit)
    return torch.cat([low, high], dim=-1)


def enlarge_boxes(boxes: Tensor, scale: float) -> Tensor:
    """Boxes (N, 4) `scale` times as wide and high about their centres; not clipped."""
    if scale == 1:
        return boxes
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * (scale / 2)
    return torch.cat([centre - half, centre + half], dim=1)


def box_area(boxes: Tensor) -> Tensor:
    """Area (...,) of boxes (..., 4); 0 where inverted."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return size[..., 0] * size[..., 1]


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Common area (M, N) of each of `a` (M, 4) with each of `b` (N, 4)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    size = (high - low).clamp_(min=0)
    return size[..., 0] * size[..., 1]


def iou_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (M, N) of each of `a` (M, 4) with each of `b` (N, 4)."""
    common = intersection(a, b)
    union = box_area(a)[:, None] + box_area(b)[None, :] - common
    return common / union.clamp(min=1e-9)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (...,) of boxes `a` (..., 4) with boxes `b` (..., 4), broadcast against one another."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    return common / (box_area(a) + box_area(b) - common).clamp(min=LEAST_AREA)


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU (...,) of boxes `a` (..., 4) with boxes `b` (..., 4), broadcast against one another.

    IoU − (C − union) / C, C the smallest box around both ("Generalized Intersection over Union",
    Algorithm 1): in (−1, 1], with a gradient also where the boxes do not meet.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    union = (box_area(a) + box_area(b) - common).clamp(min=LEAST_AREA)
    first, last = torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])
    around = (last - first).clamp(min=0).prod(dim=-1).clamp(min=LEAST_AREA)
    return common / union - (around - union) / around


def covered_by(boxes: Tensor, regions: Tensor) -> Tensor:
    """Share (N,) of each of `boxes` (N, 4) that lies in the region (R, 4) covering most of it."""
    if not len(regions):
        return boxes.new_zeros(len(boxes))
    share = intersection(boxes, regions) / box_area(boxes).clamp(min=1e-9)[:, None]
    return share.amax(dim=1)

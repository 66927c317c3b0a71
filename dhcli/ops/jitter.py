"""Boxes around objects, as many of each tenth of IoU ("Acquisition of Localization Confidence")."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from dhcli.ops.boxes import iou_matrix, paired_iou

STEPS = 16
"""Values of each of the four shifts and factors, squared so that small ones are denser."""
MOST_SHIFT, MOST_FACTOR = 1.0, 3**0.5
"""In sides of the object; of its sides, or 1 over it."""


def jitter_boxes(objects: Tensor, count: int, least: float, size: Tensor) -> tuple[Tensor, Tensor]:
    """About `count` boxes around `objects` (M, 4), and the row of the object of each.

    Of each object as many in each tenth of IoU from `least` on, drawn at random; then clipped to
    the image of `size` (2,) height, width. Where that moves the IoU below `least`, a box goes.

    out  (n, 4) float xyxy;  (n,) int64
    """
    bins = [unit.to(objects) for unit in _unit_boxes(least)]
    each = max(1, round(count / max(1, len(objects) * len(bins))))
    parts = []
    for unit in bins:
        drawn = torch.randint(len(unit), (len(objects), each), device=objects.device)
        parts.append(unit[drawn])
    unit = torch.cat(parts, dim=1)  # (M, n, 4)
    sides = (objects[:, 2:] - objects[:, :2]).repeat(1, 2)[:, None]
    boxes = (objects[:, :2].repeat(1, 2)[:, None] + unit * sides).flatten(0, 1)
    rows = torch.arange(len(objects), device=objects.device).repeat_interleave(unit.shape[1])
    limit = size.flip(0).repeat(2).to(boxes)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    good = torch.nonzero(paired_iou(boxes, objects[rows]) >= least).flatten()
    return boxes[good], rows[good]


@cache
def _unit_boxes(least: float) -> list[Tensor]:
    """Boxes (n, 4) around the unit square, for each tenth of IoU with it from `least` on."""
    t = torch.linspace(-1, 1, STEPS)
    t = t * t.abs()
    shift, factor = MOST_SHIFT * t, MOST_FACTOR**t
    dx, dy, w, h = (
        x.flatten() for x in torch.meshgrid(shift, shift, factor, factor, indexing="ij")
    )
    corners = (0.5 + dx - w / 2, 0.5 + dy - h / 2, 0.5 + dx + w / 2, 0.5 + dy + h / 2)
    boxes = torch.stack(corners, dim=1)
    ious = iou_matrix(boxes, boxes.new_tensor([[0.0, 0, 1, 1]]))[:, 0]
    edges = [x / 10 for x in range(round(least * 10), 10)]
    return [boxes[(ious >= low) & (ious < low + 0.1)] for low in edges]

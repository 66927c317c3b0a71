"""The boxes that the RPN starts from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.config.schema import Anchors
from dhcli.ops.arrays import paired_iou


def cell_anchors(size: float, stride: int, ratios: Sequence[float], convention: str) -> Tensor:
    """The anchors of the cell at (0, 0): (A, 4) float32 xyxy.

    w = size / √ratio, h = size · √ratio. `plain` leaves them so, about (0, 0) (MMDetection);
    `torchvision` rounds the corners; `maskrcnn_benchmark` rounds width and height of the
    stride-sized anchor, scales it up, and centres it on (stride − 1) / 2 in inclusive pixels;
    `mmdet1` (MMDetection 1) centres it there and rounds the corners.
    """
    ratio = torch.tensor(ratios, dtype=torch.float64)
    width, height = size / ratio.sqrt(), size * ratio.sqrt()
    centre = 0.0
    if convention == "maskrcnn_benchmark":
        base = (stride**2 / ratio).sqrt().round()
        width, height = base * (size / stride), (base * ratio).round() * (size / stride)
        centre = stride / 2  # (stride − 1) / 2 of inclusive pixels, half a pixel on in ours
    anchors = torch.stack([-width, -height, width, height], dim=1) / 2 + centre
    if convention == "mmdet1":
        shift = anchors.new_tensor([0.0, 0.0, 1.0, 1.0])  # to inclusive pixels and back
        return ((anchors + stride / 2 - shift).round() + shift).float()
    return (anchors.round() if convention == "torchvision" else anchors).float()


def grid_anchors(
    cell: Tensor, height: int, width: int, stride: int, padded: tuple[int, int] | None = None
) -> Tensor:
    """The anchors of a whole level, in the order row, column, anchor: (height·width·A, 4).

    in   cell    (A, 4) float xyxy of the cell at (0, 0)
         padded  height and width of the batch: cells divide it in whole pixels, as torchvision has
                 it, which is less than `stride` where P6 has half a cell more; None: `stride` apart
    """
    down, across = (stride, stride) if padded is None else (padded[0] // height, padded[1] // width)
    y = torch.arange(height, device=cell.device, dtype=cell.dtype) * down
    x = torch.arange(width, device=cell.device, dtype=cell.dtype) * across
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    shift = torch.stack([columns, rows, columns, rows], dim=-1)  # (height, width, 4)
    return (shift[:, :, None] + cell).reshape(-1, 4)


def level_anchors(anchors: Anchors, strides: Sequence[int]) -> Tensor:
    """One size a level, or on a single level all sizes, ratio by ratio: (levels, A, 4) float32."""
    known = anchors.known_sizes()
    sizes = [[size] for size in known] if len(strides) > 1 else [list(known)]
    cells = [
        [cell_anchors(size, stride, anchors.ratios, anchors.convention) for size in level]
        for level, stride in zip(sizes, strides, strict=True)
    ]
    return torch.stack([torch.stack(level, dim=1).flatten(0, 1) for level in cells])


def best_ious(
    boxes: NDArray[np.float64],
    sizes: NDArray[np.int64],
    strides: Sequence[int],
    anchors: Tensor,
) -> NDArray[np.float64]:
    """(M, L) IoU of each box with the best anchor of each level.

    Anchors of a shape lie on a grid, and the overlap falls with the distance along either axis: of
    each shape the nearest cell is the best.

    in   boxes    (M, 4) xyxy in pixels of the resized images
         sizes    (M, 2) width, height of the padded image that each box is in
         strides  of the L levels, in pixels
         anchors  (L, A, 4) float of a cell, as of `level_anchors`
    """
    best = np.zeros((len(boxes), len(strides)))
    for level, (stride, cells) in enumerate(zip(strides, anchors, strict=True)):
        last = -(-sizes // stride) - 1
        for anchor in cells.double().numpy():
            middle = (boxes[:, :2] + boxes[:, 2:] - anchor[:2] - anchor[2:]) / 2
            cell = np.clip(np.round(middle / stride), 0, last)
            iou = paired_iou(boxes, np.tile(cell * stride, 2) + anchor)
            np.maximum(best[:, level], iou, out=best[:, level])
    return best

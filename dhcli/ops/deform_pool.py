"""Deformable RoI pooling: RoIAlign whose cells may each be moved, with a gradient to the moves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dhcli.ops.between import Axis, sum_between

GROUP = 2048
"""RoIs that are pooled at a time: 80 MB of places and weights at 4 × 4 samples a cell."""
LEAST_SIDE = 0.1
"""Cells of the map that a RoI of MMDetection 1 is wide and high at least."""


class Sampling(NamedTuple):
    """How cells are sampled.

    per_side  n: a cell has n × n samples
    legacy    as MMDetection 1 has it: corners of the RoI rounded to whole pixels, samples at the
              corners of a cell's n × n parts, those beyond the map left out of the mean. Else as
              RoIAlign (aligned): nothing rounded, samples in the middle of the parts, those more
              than a place beyond the map count as 0
    """

    per_side: int
    legacy: bool = False


def deform_pool(
    features: Tensor, rois: Tensor, moves: Tensor, stride: int, sampling: Sampling
) -> Tensor:
    """RoIs to S × S cells, each the mean of its samples, moved by the cell's own move.

    A sample is interpolated between four places of the map, and the weights of these are
    differentiable in `moves`; no gradient passes to `rois`.

    in   features  (B, C, h, w) float, fastest in channels_last memory
         rois      (N, 5) float: image, xyxy in pixels, exclusive maximum
         moves     (N, 2, S, S) float of the features' dtype: x, y of each cell, as shares of the
                   RoI's width and height
         stride    pixels per place of the map
    out  (N, C, S, S) float
    """
    groups = zip(torch.split(rois, GROUP), torch.split(moves, GROUP), strict=True)
    pooled = [_pool_group(features, *group, stride, sampling) for group in groups]
    return torch.cat(pooled)


def _pool_group(
    features: Tensor, rois: Tensor, moves: Tensor, stride: int, sampling: Sampling
) -> Tensor:
    size, (height, width) = moves.shape[-1], features.shape[-2:]
    start, side = _place(rois[:, 1:], stride, legacy=sampling.legacy)
    number = torch.arange(size, device=rois.device, dtype=moves.dtype)
    # (N, S, S) from the start of the RoI to that of each cell, in places of the map
    x = (number / size + moves[:, 0]) * side[:, 0, None, None]
    y = (number[:, None] / size + moves[:, 1]) * side[:, 1, None, None]
    part = side / (size * sampling.per_side)
    columns = _read(x + start[:, 0, None, None], part[:, 0], width, sampling)
    rows = _read(y + start[:, 1, None, None], part[:, 1], height, sampling)
    return sum_between(features, rois[:, 0].long(), rows, columns).permute(0, 3, 1, 2)


def _place(boxes: Tensor, stride: int, *, legacy: bool) -> tuple[Tensor, Tensor]:
    """Start and sides (N, 2) of `boxes` (N, 4) in places of the map."""
    low, high = boxes[:, :2], boxes[:, 2:]
    if legacy:
        low, high = _round(low), _round(high - 1) + 1
    side = (high - low) / stride
    return low / stride - 0.5, side.clamp(min=LEAST_SIDE) if legacy else side


def _round(x: Tensor) -> Tensor:
    """To whole numbers, halves away from zero."""
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def _read(first: Tensor, part: Tensor, length: int, sampling: Sampling) -> Axis:
    """The places of one axis that the n samples of each cell read, and the share of each.

    in   first  (N, S, S) float, where each cell starts;  part  (N,) float between samples
         length  places of the axis
    out  (N, S, S, 2n) int64 and float
    """
    number = torch.arange(sampling.per_side, device=part.device, dtype=part.dtype)
    shift = 0.0 if sampling.legacy else 0.5
    at = first[..., None] + ((number + shift) * part[:, None])[:, None, None]  # (N, S, S, n)
    slack = 0.5 if sampling.legacy else 1.0
    end = length - 0.5 if sampling.legacy else length
    inside = ((at >= -slack) & (at <= end)).to(at.dtype)
    counted = inside.sum(-1, keepdim=True).clamp(min=1) if sampling.legacy else sampling.per_side
    at = at.clamp(0, length - 1)
    low = at.detach().floor()
    share = at - low
    weights = torch.cat([1 - share, share], -1) * inside.repeat(1, 1, 1, 2) / counted
    low = low.long()
    return Axis(torch.cat([low, (low + 1).clamp(max=length - 1)], -1), weights)

"""Uniform matching: "You Only Look One-level Feature", §4.2."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.config.schema.dense import UniformAssign
from dhcli.ops.batch import Target
from dhcli.ops.boxes import iou_matrix
from dhcli.ops.match import UNDECIDED
from dhcli.ops.priors import Owned, Seen, nothing, owned


def assign_uniform(seen: Seen, target: Target, config: UniformAssign) -> Owned:
    """Each object gets its nearest predicted boxes and its nearest priors, as many of both.

    Near by the L1 distance of centre, width and height, in pixels. A prior whose IoU with its
    object is too low is not taught. Nor is one as background that predicts an object well. Where
    several objects take a prior, its scores are taught the last: nearest first, of each rank all
    by prediction, then all by prior. Its box is taught each of them.
    """
    owners, objects = nothing(seen.priors), target.boxes
    if not len(objects):
        return owned(owners)
    boxes, count = seen.priors.boxes, min(config.nearest, len(seen.boxes))
    wanted = _centre_size(objects)
    by_box, by_prior = (
        torch.cdist(_centre_size(some), wanted, p=1).topk(count, dim=0, largest=False).indices
        for some in (seen.boxes, boxes)
    )  # (count, M)
    rows = torch.cat([by_box, by_prior], dim=1).flatten()
    number = torch.arange(len(objects), device=boxes.device).repeat(2 * count)
    overlaps = iou_matrix(boxes, objects)[rows, number]
    well = iou_matrix(seen.boxes, objects).amax(dim=1) > config.ignore_iou
    owners = torch.where(well, UNDECIDED, owners)
    taken = torch.where(overlaps < config.positive_iou, UNDECIDED, number)
    order = torch.arange(len(rows), device=boxes.device)
    last = torch.full_like(owners, -1).scatter_reduce(0, rows, order, "amax")
    owners = torch.where(last >= 0, taken[last.clamp(min=0)], owners)
    sure = torch.nonzero(overlaps >= config.positive_iou).flatten()
    return Owned(owners, rows[sure], number[sure])


def _centre_size(boxes: Tensor) -> Tensor:
    size = boxes[:, 2:] - boxes[:, :2]
    return torch.cat([boxes[:, :2] + size / 2, size], dim=1)

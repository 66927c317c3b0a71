"""ATSS: "Bridging the Gap Between Anchor-based and Anchor-free Detection", Algorithm 1."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.ops.batch import Target
from dhcli.ops.boxes import iou_matrix
from dhcli.ops.priors import Priors, Seen, inside, nothing

LEAST_INSIDE = 0.01
"""Pixels that a centre lies within its object."""


def assign_atss(seen: Seen, target: Target, candidates: int) -> Tensor:
    """The object that each prior answers for: (N,) int64 index or BACKGROUND.

    Of each level the `candidates` priors whose centres are nearest to the object's; of all these,
    the ones whose IoU is at least its mean plus its standard deviation and whose centre is in the
    object. A prior of several goes to the one of the largest IoU, of equals to the first.
    """
    owners = nothing(seen.priors)
    objects = target.boxes
    if not len(objects):
        return owners
    near = nearest_of_levels(seen.priors, objects, candidates)  # (C, M)
    iou = iou_matrix(seen.priors.boxes, objects)
    own = iou.gather(0, near)
    # One candidate has no deviation
    spread = own.std(dim=0) if len(own) > 1 else torch.zeros_like(own[0])
    within = inside(seen.priors.centres(), objects).gather(0, near) > LEAST_INSIDE
    chosen = (own >= own.mean(dim=0) + spread) & within
    best = torch.full_like(iou, -1.0).scatter(0, near, torch.where(chosen, own, -1.0))
    most, index = best.max(dim=1)
    return torch.where(most >= 0, index, owners)


def nearest_of_levels(priors: Priors, objects: Tensor, count: int) -> Tensor:
    """Of each level the `count` priors nearest to each object by centre: (C, M) int64.

    in   objects  (M, 4) float xyxy
    """
    middle = (objects[:, :2] + objects[:, 2:]) / 2
    distance = (priors.centres()[:, None] - middle).pow(2).sum(dim=-1).sqrt()  # (N, M)
    found, first = [], 0
    for size in torch.bincount(priors.levels).tolist():
        own = distance[first : first + size]
        found.append(own.topk(min(count, size), dim=0, largest=False).indices + first)
        first += size
    return torch.cat(found)

"""SimOTA: "YOLOX: Exceeding YOLO Series in 2021", §2.1, and "OTA" for the number of priors."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.config.schema.dense import SimOtaAssign
from dhcli.ops.batch import Target
from dhcli.ops.boxes import iou_matrix
from dhcli.ops.priors import Seen, inside, nothing

APART = 1e5
"""Added to the cost of a prior that is not both within the object and near its centre."""
LEAST_IOU = 1e-7
"""Added to an IoU before its logarithm."""
LEAST_LOG = -100.0
"""Logarithms of scores end here, as torch's binary cross entropy has it."""


@torch.no_grad()
def assign_simota(seen: Seen, target: Target, config: SimOtaAssign) -> Tensor:
    """The object that each prior answers for: (N,) int64 index or BACKGROUND.

    A candidate has its centre within some object, or within `radius` strides of some object's
    centre along both axes. An object takes as many candidates as its largest IoUs sum up to,
    rounded down and at least one: those that cost least, of equals the first. A candidate that
    several take goes to the object, of all, that it costs least for.
    """
    owners, objects = nothing(seen.priors), target.boxes
    if not len(objects):
        return owners
    within, near = places(seen, objects, config.radius)
    rows = torch.nonzero((within | near).any(dim=1)).flatten()
    if not len(rows):
        return owners
    overlaps = iou_matrix(seen.boxes[rows], objects)  # (C, M)
    scores = seen.logits[rows].sigmoid()
    if seen.quality is not None:
        scores = scores * seen.quality[rows].sigmoid()[:, None]
    cost = score_cost(scores.sqrt(), target.labels)
    cost = cost - config.iou_weight * (overlaps + LEAST_IOU).log()
    cost = cost + APART * ~(within & near)[rows]
    taken = take_cheapest(cost, how_many(overlaps, config.candidates))
    owner = torch.where(taken.sum(dim=1) > 1, cost.argmin(dim=1), taken.int().argmax(dim=1))
    answers = taken.any(dim=1)
    owners[rows[answers]] = owner[answers]
    return owners


def places(seen: Seen, objects: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Which priors have their centre in which object, and which near its centre: (N, M) bool."""
    centres = seen.priors.centres()
    middle = (objects[:, :2] + objects[:, 2:]) / 2
    away = (centres[:, None] - middle).abs().amax(dim=-1)
    return inside(centres, objects) > 0, away < radius * seen.priors.strides


def score_cost(scores: Tensor, labels: Tensor) -> Tensor:
    """Binary cross entropy of all classes, if a prior answered for each object: (C, M).

    in   scores  (C, K) in [0, 1];  labels  (M,) int64
    """
    yes, no = scores.log().clamp(min=LEAST_LOG), (-scores).log1p().clamp(min=LEAST_LOG)
    return (no[:, labels] - yes[:, labels]) - no.sum(dim=1, keepdim=True)


def how_many(overlaps: Tensor, candidates: int) -> Tensor:
    """Priors that each object takes: (M,) int64. `overlaps` (C, M) as predicted."""
    most = overlaps.topk(min(candidates, len(overlaps)), dim=0).values
    return most.sum(dim=0).long().clamp(min=1)


def take_cheapest(cost: Tensor, counts: Tensor) -> Tensor:
    """Which of C priors each object takes: (C, M) bool; `counts` (M,) of the least `cost`."""
    ranks = cost.argsort(dim=0, stable=True).argsort(dim=0)
    return ranks < counts

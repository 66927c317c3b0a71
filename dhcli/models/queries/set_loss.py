"""What queries are taught: one of them finds each object, the others nothing.

"End-to-End Object Detection with Transformers", §3.1, with the focal loss of Deformable DETR and
Sparse R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from dhcli.config.schema import SetLoss
from dhcli.ops.batch import Target
from dhcli.ops.boxes import covered_by, generalized_iou
from dhcli.ops.hungarian import match_one_to_one
from dhcli.ops.match import BACKGROUND, IGNORE_COVER, UNDECIDED

LEAST = 1e-12
"""Added to a probability before its logarithm, in the cost."""


class Said(NamedTuple):
    """What a stage says of N queries in each of B images.

    logits  (B, N, K) float32, before a sigmoid each; no background
    boxes   (B, N, 4) float32 xyxy in pixels of the resized image, not clipped
    """

    logits: Tensor
    boxes: Tensor


class Goals(NamedTuple):
    """The objects of all images, one after another, and who answers for them in each of L stages.

    owners  (L, B, N) int64, the object of a query, BACKGROUND or UNDECIDED
    boxes   (M, 4) float32 xyxy;  labels  (M,) int64
    sides   (B, 4) float32, width, height, width, height of each image
    """

    owners: Tensor
    boxes: Tensor
    labels: Tensor
    sides: Tensor


def set_losses(
    stages: Sequence[Said], sizes: Tensor, targets: Sequence[Target], config: SetLoss
) -> dict[str, Tensor]:
    """Weighted loss_cls, loss_l1 and loss_giou, each a sum over the stages, () float32.

    Every stage is matched by what it says itself. Each part is divided by the number of objects
    that have a query. A query that answers for none and lies mostly in a region to ignore is not
    taught that nothing is there.

    in   sizes  (B, 2) int64 height, width of each image
    """
    goals = find_owners(stages, sizes, targets, config)
    every = [_losses(said, goals, stage, config) for stage, said in enumerate(stages)]
    names, columns = ("loss_cls", "loss_l1", "loss_giou"), zip(*every, strict=True)
    return {name: torch.stack(column).sum() for name, column in zip(names, columns, strict=True)}


@torch.no_grad()
def find_owners(
    stages: Sequence[Said], sizes: Tensor, targets: Sequence[Target], config: SetLoss
) -> Goals:
    """Who answers for which object, in each stage."""
    logits, boxes = (torch.stack(column) for column in zip(*stages, strict=True))
    sides = sizes.flip(1).repeat(1, 2).to(boxes)
    owners, before = [], 0
    for index, target in enumerate(targets):
        said = Said(logits[:, index], boxes[:, index])
        owner = match_one_to_one(match_costs(said, target, sides[index], config))
        flat = said.boxes.flatten(0, 1)
        hidden = (covered_by(flat, target.ignore) > IGNORE_COVER).view_as(owner)
        owner = torch.where((owner == BACKGROUND) & hidden, UNDECIDED, owner)
        owners.append(torch.where(owner >= 0, owner + before, owner))
        before += len(target.labels)
    everything = (
        torch.cat([one.boxes for one in targets]),
        torch.cat([one.labels for one in targets]),
    )
    return Goals(torch.stack(owners, dim=1), *everything, sides)


def match_costs(said: Said, target: Target, sides: Tensor, config: SetLoss) -> Tensor:
    """The cost of each query for each object of one image, (L, N, M) float32.

    in   said  logits (L, N, K) and boxes (L, N, 4) of L stages;  sides  (4,)
    """
    p = said.logits.sigmoid()
    alpha, gamma = config.focal_alpha, config.focal_gamma
    yes = -(p + LEAST).log() * alpha * (1 - p) ** gamma
    no = -(1 - p + LEAST).log() * (1 - alpha) * p**gamma
    cls = (yes - no)[..., target.labels]
    distance = torch.cdist(said.boxes / sides, target.boxes.to(sides) / sides, p=1)
    overlap = generalized_iou(said.boxes[..., None, :], target.boxes)
    return config.cls * cls + config.l1 * distance - config.giou * overlap


def _losses(said: Said, goals: Goals, stage: int, config: SetLoss) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted losses of one stage: of scores, sides and GIoU."""
    owner = goals.owners[stage]
    images, queries = torch.nonzero(owner >= 0, as_tuple=True)
    mine = owner[images, queries]
    count = max(len(mine), 1)
    right = torch.zeros_like(said.logits)
    right[images, queries, goals.labels[mine]] = 1
    taught = owner != UNDECIDED
    cls = sigmoid_focal_loss(
        said.logits[taught],
        right[taught],
        alpha=config.focal_alpha,
        gamma=config.focal_gamma,
        reduction="sum",
    )
    found, wanted, sides = said.boxes[images, queries], goals.boxes[mine], goals.sides[images]
    l1 = (found / sides - wanted / sides).abs().sum()
    giou = (1 - generalized_iou(found, wanted)).sum()
    return config.cls * cls / count, config.l1 * l1 / count, config.giou * giou / count

"""What queries are taught: one of them finds each object, the others nothing.

"End-to-End Object Detection with Transformers", §3.1: with its cross entropy, or the focal loss of
Deformable DETR and Sparse R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from dhcli.config.schema import SetLoss, SoftmaxSetLoss
from dhcli.ops.batch import Target
from dhcli.ops.boxes import covered_by, generalized_iou
from dhcli.ops.hungarian import match_one_to_one
from dhcli.ops.match import BACKGROUND, IGNORE_COVER, UNDECIDED

LEAST = 1e-12
"""Added to a probability before its logarithm, in the cost."""


AnySetLoss: TypeAlias = SetLoss | SoftmaxSetLoss


class Said(NamedTuple):
    """What a stage says of N queries in each of B images.

    logits  (B, N, K) float32, before a sigmoid each; no background. Before a softmax
            (B, N, 1 + K), background first
    boxes   (B, N, 4) float32 xyxy in pixels of the resized image, not clipped
    any_class  whether the first class stands here for objects of all
    """

    logits: Tensor
    boxes: Tensor
    any_class: bool = False


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
    stages: Sequence[Said], sizes: Tensor, targets: Sequence[Target], config: AnySetLoss
) -> dict[str, Tensor]:
    """Weighted loss_cls, loss_l1 and loss_giou, each a sum over the stages, () float32.

    Every stage is matched by what it says itself. Each part is divided by the number of objects
    that have a query. A query that answers for none and lies mostly in a region to ignore is not
    taught that nothing is there.

    in   sizes  (B, 2) int64 height, width of each image
    """
    every = []
    for any_class, some in groupby(stages, key=lambda said: said.any_class):
        group, wanted = list(some), [_of_any_class(one) if any_class else one for one in targets]
        goals = find_owners(group, sizes, wanted, config)
        every += [_losses(said, goals, stage, config) for stage, said in enumerate(group)]
    names, columns = ("loss_cls", "loss_l1", "loss_giou"), zip(*every, strict=True)
    return {name: torch.stack(column).sum() for name, column in zip(names, columns, strict=True)}


def _of_any_class(target: Target) -> Target:
    """Its objects as of the first class."""
    return replace(target, labels=torch.zeros_like(target.labels))


@torch.no_grad()
def find_owners(
    stages: Sequence[Said], sizes: Tensor, targets: Sequence[Target], config: AnySetLoss
) -> Goals:
    """Who answers for which object, in each of `stages`, which have the same number of queries."""
    logits, boxes = (
        torch.stack([getattr(said, name) for said in stages]) for name in ("logits", "boxes")
    )
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


def match_costs(said: Said, target: Target, sides: Tensor, config: AnySetLoss) -> Tensor:
    """The cost of each query for each object of one image, (L, N, M) float32.

    in   said  logits (L, N, K) and boxes (L, N, 4) of L stages;  sides  (4,)
    """
    cls = _class_costs(said.logits, target.labels, config)
    found, wanted = (x.to(sides) / sides for x in (said.boxes, target.boxes))
    distance = torch.cdist(_compared(found, config), _compared(wanted, config), p=1)
    overlap = generalized_iou(said.boxes[..., None, :], target.boxes)
    return config.cls * cls + config.l1 * distance - config.giou * overlap


def _class_costs(logits: Tensor, labels: Tensor, config: AnySetLoss) -> Tensor:
    """Of logits (L, N, K) or (L, N, 1 + K) for the objects' labels (M,): (L, N, M)."""
    if isinstance(config, SoftmaxSetLoss):
        return -logits.softmax(dim=-1)[..., labels + 1]
    p = logits.sigmoid()
    alpha, gamma = config.focal_alpha, config.focal_gamma
    yes = -(p + LEAST).log() * alpha * (1 - p) ** gamma
    no = -(1 - p + LEAST).log() * (1 - alpha) * p**gamma
    return (yes - no)[..., labels]


def _compared(boxes: Tensor, config: AnySetLoss) -> Tensor:
    """The four numbers of boxes (..., 4) xyxy that L1 is taken of."""
    if config.boxes == "corners":
        return boxes
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def _losses(
    said: Said, goals: Goals, stage: int, config: AnySetLoss
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted losses of one stage: of scores, sides and GIoU."""
    owner = goals.owners[stage]
    images, queries = torch.nonzero(owner >= 0, as_tuple=True)
    mine = owner[images, queries]
    count = max(len(mine), 1)
    cls = _class_loss(said.logits, owner, goals.labels, config)
    found, wanted, sides = said.boxes[images, queries], goals.boxes[mine], goals.sides[images]
    l1 = (_compared(found / sides, config) - _compared(wanted / sides, config)).abs().sum()
    giou = (1 - generalized_iou(found, wanted)).sum()
    return config.cls * cls, config.l1 * l1 / count, config.giou * giou / count


def _class_loss(logits: Tensor, owner: Tensor, labels: Tensor, config: AnySetLoss) -> Tensor:
    """The loss of scores, of queries that are not UNDECIDED.

    Focal: its sum by the number of objects that have a query. Softmax: the mean of the cross
    entropy, in which the background has a weight of its own; of weights of 1 at least.

    in   logits  (B, N, K), or (B, N, 1 + K) with a softmax;  owner  (B, N);  labels  (M,)
    """
    taught = owner != UNDECIDED
    images, queries = torch.nonzero(owner >= 0, as_tuple=True)
    right = labels[owner[images, queries]]
    if isinstance(config, SoftmaxSetLoss):
        wanted = torch.zeros_like(owner)
        wanted[images, queries] = right + 1
        weights = logits.new_full(owner.shape, config.background)
        weights[images, queries] = 1
        weights = weights[taught]
        every = F.cross_entropy(logits[taught], wanted[taught], reduction="none")
        return (every * weights).sum() / weights.sum().clamp(min=1)
    hot = torch.zeros_like(logits)
    hot[images, queries, right] = 1
    loss: Tensor = sigmoid_focal_loss(
        logits[taught],
        hot[taught],
        alpha=config.focal_alpha,
        gamma=config.focal_gamma,
        reduction="sum",
    )
    return loss / max(len(right), 1)

"""What the priors of a batch are taught: scores, boxes, quality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from dhcli.config.schema import Dense, DenseLoss
from dhcli.config.schema.dense import FocalLoss, OverlapLoss, Quality, VarifocalLoss
from dhcli.models.dense.assigners import assign
from dhcli.models.dense.coders import Coder
from dhcli.models.dense.head import Said
from dhcli.ops.batch import Target
from dhcli.ops.boxes import generalized_iou, paired_iou
from dhcli.ops.match import BACKGROUND, UNDECIDED
from dhcli.ops.priors import Priors, Seen, scattered

LEAST_IOU = 1e-6
"""Of an object: its score is taught as one where its box is far off."""


class Goals(NamedTuple):
    """What is wanted of the batch.

    owners   (B, N) int64, the object of each prior, counted over the batch, BACKGROUND or UNDECIDED
    images   (P,) int64 the image of each prior whose box is taught;  rows  (P,) int64 the prior
    boxes    (P, 4) float32 xyxy, its object
    labels   (M,) int64 of the objects of the batch
    """

    owners: Tensor
    images: Tensor
    rows: Tensor
    boxes: Tensor
    labels: Tensor


@torch.no_grad()
def find_goals(
    said: Said,
    boxes: Tensor,
    priors: Priors,
    targets: Sequence[Target],
    config: Dense,
    padded: Tensor | None = None,
) -> Goals:
    """Assign each image.

    in   boxes   (B, N, 4) float32 xyxy as predicted
         padded  (B, N) bool, the priors in the padding, as `loss.padding` asks for
    """
    others = UNDECIDED if config.loss.padding == "left_out" else BACKGROUND
    owners, images, rows, wanted, before = [], [], [], [], 0
    for number, target in enumerate(targets):
        quality = None if said.quality is None else said.quality[number]
        seen = Seen(priors, boxes[number], said.logits[number], quality)
        if padded is None:
            found = assign(seen, target, config.assign)
        else:
            rest = torch.nonzero(~padded[number]).flatten()
            beyond = torch.full_like(priors.levels, others)
            found = scattered(assign(seen.at(rest), target, config.assign), rest, beyond)
        owners.append(torch.where(found.owners >= 0, found.owners + before, found.owners))
        images.append(torch.full_like(found.rows, number))
        rows.append(found.rows)
        wanted.append(target.boxes[found.objects])
        before += len(target.labels)
    labels = torch.cat([target.labels for target in targets])
    taught = torch.cat(images), torch.cat(rows), torch.cat(wanted)
    return Goals(torch.stack(owners), *taught, labels)


def dense_losses(
    said: Said,
    priors: Priors,
    targets: Sequence[Target],
    coder: Coder,
    config: Dense,
    *,
    late: bool = False,
    padded: Tensor | None = None,
) -> dict[str, Tensor]:
    """Weighted loss_cls, loss_box and, where there are such, loss_refined, loss_quality, loss_l1.

    Each () float32. `late`: these are the epochs of `late_l1`. Scores of all priors that are not
    UNDECIDED; boxes and quality of objects. `padded`: see `find_goals`.
    """
    boxes = coder.decode(said.boxes.detach(), priors)
    goals = find_goals(said, boxes, priors, targets, config, padded)
    mine, own, loss = (goals.images, goals.rows), priors.at(goals.rows), config.loss
    final = said.boxes[mine]
    count = count_objects(goals.owners, loss.count)
    overlap = paired_iou(coder.decode(final.detach(), own), goals.boxes)
    losses = {"loss_cls": loss.cls.weight * score_loss(said.logits, goals, overlap, loss) / count}
    overlap = overlap.clamp(min=LEAST_IOU)
    if said.first is not None:
        refined = loss.refined_weight * box_loss(final, own, goals.boxes, coder, count, loss)
        losses["loss_refined"] = refined
        final = said.first[mine]
    losses["loss_box"] = loss.box_weight * box_loss(final, own, goals.boxes, coder, count, loss)
    if said.quality is not None:
        found = quality_loss(said.quality, goals, own, overlap, config.head.quality)
        objects = count_objects(goals.owners, "one") if loss.count == "images" else count
        losses["loss_quality"] = loss.quality_weight * found / objects
    if loss.late_l1:
        apart = (final - coder.encode(goals.boxes, own)).abs().sum()
        losses["loss_l1"] = (loss.late_l1 if late else 0.0) * apart / count
    return losses


def count_objects(owners: Tensor, least: str) -> Tensor:
    """How many of `owners` (B, N) have an object, () int64. `least`: see `DenseLoss.count`."""
    each = (owners >= 0).sum(dim=1)
    if least == "each":
        return each.clamp(min=1).sum()
    return each.sum().clamp(min=len(owners) if least == "images" else 1)


def score_loss(logits: Tensor, goals: Goals, overlap: Tensor, loss: DenseLoss) -> Tensor:
    """That of the kind `loss.cls`, summed: () float32.

    in   logits  (B, N, K) float32;  overlap  (P,) float32 IoU in the order of `goals.rows`
    """
    if isinstance(loss.cls, VarifocalLoss):
        return varifocal_loss(logits, goals, overlap.clamp(min=LEAST_IOU), loss.cls)
    if isinstance(loss.cls, OverlapLoss):
        return overlap_loss(logits, goals, overlap)
    return focal_loss(logits, goals, loss.cls)


def focal_loss(logits: Tensor, goals: Goals, config: FocalLoss) -> Tensor:
    """The sum over priors and classes, () float32 ("Focal Loss for Dense Object Detection").

    in   logits  (B, N, K) float32
    """
    taught = goals.owners != UNDECIDED
    right = _one_hot(logits, goals)
    total: Tensor = sigmoid_focal_loss(
        logits[taught], right[taught], alpha=config.alpha, gamma=config.gamma, reduction="sum"
    )
    return total


def varifocal_loss(logits: Tensor, goals: Goals, overlap: Tensor, config: VarifocalLoss) -> Tensor:
    """Q · BCE(p, q) of an object's class, α pᵞ · BCE(p, 0) of others, summed: () float32.

    "VarifocalNet: An IoU-aware Dense Object Detector", Eq. 2; q is the IoU of the prior's box.

    in   logits  (B, N, K) float32;  overlap  (P,) float32 in the order of `goals.rows`
    """
    quality = torch.zeros_like(logits[..., 0])
    quality[goals.images, goals.rows] = overlap.to(quality)
    taught = goals.owners != UNDECIDED
    q, x = (_one_hot(logits, goals) * quality[..., None])[taught], logits[taught]
    weight = torch.where(q > 0, q, config.alpha * x.sigmoid() ** config.gamma)
    return (weight * F.binary_cross_entropy_with_logits(x, q, reduction="none")).sum()


def overlap_loss(logits: Tensor, goals: Goals, overlap: Tensor) -> Tensor:
    """BCE to the IoU for the object's class and to 0 for others, of objects alone: () float32."""
    said = logits[goals.images, goals.rows]
    owner = goals.owners[goals.images, goals.rows]
    right = torch.zeros_like(said)
    right[torch.arange(len(said), device=said.device), goals.labels[owner]] = overlap.to(said)
    return F.binary_cross_entropy_with_logits(said, right, reduction="sum")


def box_loss(
    said: Tensor, own: Priors, wanted: Tensor, coder: Coder, count: Tensor, config: DenseLoss
) -> Tensor:
    """The loss of the boxes of P objects, () float32, weighted and divided as configured.

    in   said  (P, 4) float32 of the priors `own`;  wanted  (P, 4) float32 xyxy
    """
    found = coder.decode(said, own)
    if config.box == "l1":
        each = (said - coder.encode(wanted, own)).abs().sum(dim=1)
    elif config.box == "log_iou":
        each = -paired_iou(found, wanted).clamp(min=LEAST_IOU).log()
    elif config.box == "iou2":
        each = 1 - paired_iou(found, wanted) ** 2
    else:
        each = 1 - generalized_iou(found, wanted)
    if config.weigh_by == "none":
        return each.sum() / count
    if config.weigh_by == "iou":
        weight = paired_iou(found.detach(), wanted).clamp(min=LEAST_IOU)
    else:
        weight = centerness(own.centres(), wanted)
    least = max(config.least_weight, LEAST_IOU)  # where nothing has an object
    return (each * weight).sum() / weight.sum().clamp(min=least)


def quality_loss(
    logits: Tensor, goals: Goals, own: Priors, overlap: Tensor, quality: Quality
) -> Tensor:
    """Binary cross entropy of the quality, summed: () float32.

    in   logits  (B, N) float32;  own, overlap  of the P objects
    """
    if quality == "objectness":
        taught = goals.owners != UNDECIDED
        said, right = logits[taught], (goals.owners[taught] >= 0).to(logits)
    else:
        said = logits[goals.images, goals.rows]
        right = overlap if quality == "iou" else centerness(own.centres(), goals.boxes)
    return F.binary_cross_entropy_with_logits(said, right.to(said), reduction="sum")


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """√(min(l, r) / max(l, r) · min(t, b) / max(t, b)) of points (P, 2) in boxes (P, 4): (P,).

    "FCOS", Eq. 3; 0 outside.
    """
    low, high = points - boxes[:, :2], boxes[:, 2:] - points
    ratio = torch.minimum(low, high).clamp(min=0) / torch.maximum(low, high)
    return ratio.prod(dim=1).sqrt()


def _one_hot(logits: Tensor, goals: Goals) -> Tensor:
    """1 for the class of each prior's object, else 0: as `logits` (B, N, K)."""
    right = torch.zeros_like(logits)
    images, rows = torch.nonzero(goals.owners >= 0, as_tuple=True)
    right[images, rows, goals.labels[goals.owners[images, rows]]] = 1
    return right

"""PAA: "Probabilistic Anchor Assignment with IoU Prediction", Algorithm 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from dhcli.config.schema.dense import MixtureAssign
from dhcli.ops.batch import Target
from dhcli.ops.boxes import generalized_iou, iou_matrix
from dhcli.ops.priors import Seen, nothing

STEPS = 100
"""Most steps of expectation and maximisation."""
TOLERANCE = 1e-3
"""Gain of the mean log-likelihood below which they end."""
LEAST_VARIANCE = 1e-6
"""Added to each variance."""


def assign_mixture(seen: Seen, target: Target, config: MixtureAssign) -> Tensor:
    """The object that each prior answers for: (N,) int64 index or BACKGROUND.

    An object's candidates overlap it most of all objects, enough; or are those that overlap it
    most, however little. Of the best of each level by their losses, those of the lower Gaussian
    have it, up to and with the likeliest of them.
    """
    owners = nothing(seen.priors)
    if not len(target.boxes):
        return owners
    candidates = _candidates(iou_matrix(seen.priors.boxes, target.boxes), config.positive_iou)
    rows = torch.nonzero(candidates >= 0).flatten()
    objects = candidates[rows]
    losses = _losses(seen, target, rows, objects, config)
    for number in range(len(target.boxes)):
        mine = objects == number
        own, loss = rows[mine], losses[mine]
        best = _best_of_levels(seen.priors.levels[own], loss, config.candidates)
        order = best[loss[best].argsort(stable=True)]
        owners[own[order[split_losses(loss[order])]]] = number
    return owners


def _candidates(iou: Tensor, positive_iou: float) -> Tensor:
    """The object that each prior may answer for, (N,) int64, of `iou` (N, M); −1: none."""
    most, index = iou.max(dim=1)
    found = torch.where(most >= positive_iou, index, -1)
    tops = (iou == iou.amax(dim=0)) & (iou > 0)
    numbers = torch.arange(iou.shape[1], device=iou.device)
    last = torch.where(tops, numbers, -1).amax(dim=1)
    return torch.where(last >= 0, last, found)


def _losses(
    seen: Seen, target: Target, rows: Tensor, objects: Tensor, config: MixtureAssign
) -> Tensor:
    """What each candidate would be taught by, (C,) float32: focal and GIoU."""
    logits, boxes = seen.logits[rows], seen.boxes[rows]
    right = torch.zeros_like(logits).scatter(1, target.labels[objects][:, None], 1.0)
    cls = sigmoid_focal_loss(logits, right, alpha=0.25, gamma=2.0).sum(dim=1)
    giou = generalized_iou(boxes, target.boxes[objects].to(boxes))
    losses: Tensor = cls + config.giou * (1 - giou)
    return losses


def _best_of_levels(levels: Tensor, losses: Tensor, count: int) -> Tensor:
    """Of each level the `count` lowest, all (n,) int64 numbers of `losses` (C,)."""
    found = []
    for level in range(int(levels.max()) + 1 if len(levels) else 0):
        own = torch.nonzero(levels == level).flatten()
        best = losses[own].topk(min(count, len(own)), largest=False).indices
        found.append(own[best])
    return torch.cat(found) if found else torch.zeros_like(levels)


def split_losses(losses: Tensor) -> Tensor:
    """Which of `losses` (n,), lowest first, have the object, (p,) int64; none of fewer than two.

    Two Gaussians in one dimension are fitted to them, from the lowest and the highest, with equal
    weights and variance 1.
    """
    if len(losses) < 2:
        return torch.zeros(0, dtype=torch.int64, device=losses.device)
    x = losses.detach().cpu().double()[:, None]
    means, variances = torch.stack([x.min(), x.max()]), torch.ones(2).to(x)
    weights, before = torch.full((2,), 0.5).to(x), -math.inf
    for _ in range(STEPS):
        joint = _joint(x, weights, means, variances)
        total = joint.logsumexp(dim=1)
        share = (joint - total[:, None]).exp()  # (n, 2)
        counts = share.sum(dim=0) + 10 * torch.finfo(x.dtype).eps
        means = (share * x).sum(dim=0) / counts
        variances = (share * (x - means) ** 2).sum(dim=0) / counts + LEAST_VARIANCE
        weights = counts / counts.sum()
        likelihood = float(total.mean())
        if abs(likelihood - before) < TOLERANCE:
            break
        before = likelihood
    joint = _joint(x, weights, means, variances)
    low = torch.nonzero(joint.argmax(dim=1) == 0).flatten()
    if len(low):
        low = low[: int(joint.logsumexp(dim=1)[low].argmax()) + 1]
    return low.to(losses.device)


def _joint(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """Logarithm of weight and density of each Gaussian, (n, 2), at `x` (n, 1)."""
    density = -0.5 * ((x - means) ** 2 / variances + variances.log() + math.log(2 * math.pi))
    return weights.log() + density

"""The losses, in float32 whatever the network computes in."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dhcli.ops.buckets import BucketGoals


def classification_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy, the mean over N RoIs: () float32; 0 if N is 0.

    in   logits  (N, K+1) float, background first;  classes  (N,) int64, 0 for background
    """
    return F.cross_entropy(logits.float(), classes, reduction="sum") / max(len(classes), 1)


def binary_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross entropy, the mean over N boxes: () float32; 0 if N is 0.

    in   logits  (N,) float;  wanted  (N,) float in [0, 1], such as 1 for an object, or an IoU
    """
    total = F.binary_cross_entropy_with_logits(logits.float(), wanted, reduction="sum")
    return total / max(len(wanted), 1)


def iou_loss(said: Tensor, ious: Tensor) -> Tensor:
    """Smooth L1 of t = (IoU − 0.5) / 0.5, the mean over N boxes: () float32; 0 if N is 0.

    As in "Acquisition of Localization Confidence"; |d|² / 2 below 1, |d| − 1/2 above.

    in   said  (N,) float, predictions of t;  ious  (N,) float in [0, 1]
    """
    total = F.smooth_l1_loss(said.float(), (ious - 0.5) / 0.5, reduction="sum")
    return total / max(len(ious), 1)


def regression_loss(deltas: Tensor, goals: Tensor, beta: float, sampled: int) -> Tensor:
    """Smooth L1 of P objects, summed and divided by all `sampled` boxes: () float32.

    |d|² / 2β below β, |d| − β/2 above; β = 0 is plain L1.

    in   deltas, goals  (P, 4) float
    """
    return F.smooth_l1_loss(deltas.float(), goals, beta=beta, reduction="sum") / max(sampled, 1)


def bucket_loss(said: Tensor, goals: BucketGoals, beta: float, sampled: int) -> Tensor:
    """What the sides of P objects cost ("Side-Aware Boundary Localization", §3.4): () float32.

    Binary cross entropy of the buckets, per side of all `sampled` RoIs, and smooth L1 of the
    offsets, per sampled RoI.

    in   said  (P, 4, b, 2) float, logits and offsets of b buckets of a side
    """
    logits, offsets = said.float().unbind(-1)
    count = max(sampled, 1)
    one_hot = goals.nearest.to(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none")
    off = F.smooth_l1_loss(offsets, goals.offsets, beta=beta, reduction="none")
    return (entropy * goals.judged).sum() / (4 * count) + (off * goals.placed).sum() / count

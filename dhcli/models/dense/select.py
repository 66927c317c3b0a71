"""From what a dense head says of one image to its detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhcli.config.schema import DetectDense
from dhcli.models.dense.coders import Coder
from dhcli.models.select import Nms
from dhcli.ops.batch import Detections
from dhcli.ops.box_rules import PLAIN
from dhcli.ops.boxes import iou_matrix
from dhcli.ops.largest import places_of_largest
from dhcli.ops.nms import Limits
from dhcli.ops.priors import Priors

VOTING_SIGMA = 0.025
VOTING_IOU = 0.01
"""Below which a box has no vote."""


class SelectDense(nn.Module):
    """Of the best pairs of a prior and a class of each level, the best of each overlapping group.

    in   logits (N, K), boxes (N, 4), quality (N,) or None, as of `Said`, of one image
         counts  priors of each level, summing to N
         size, original  (2,) int64 height, width of the resized and of the original image
    out  Detections in pixels of the original image
    """

    def __init__(self, coder: Coder, nms: Nms, classes: int) -> None:
        super().__init__()
        self.coder = coder
        self.nms = nms
        self.classes = classes

    def forward(
        self,
        said: tuple[Tensor, Tensor, Tensor | None],
        priors: Priors,
        counts: Sequence[int],
        size: Tensor,
        original: Tensor,
        rule: DetectDense,
    ) -> Detections:
        logits, deltas, quality = said
        scores, rows, labels = best_pairs(logits, quality, counts, rule)
        boxes = self.coder.decode(deltas[rows], priors.at(rows))
        boxes = PLAIN.clip(boxes, size) if rule.clip else boxes
        boxes = PLAIN.rescale(boxes, (original / size).flip(0).to(boxes.dtype))
        real = torch.nonzero(PLAIN.has_area(boxes) & (scores >= rule.min_score)).flatten()
        boxes, scores, labels = boxes[real], scores[real], labels[real]
        limits = Limits(rule.max_detections)
        keep = self.nms(boxes, scores, labels, rule.nms_threshold, limits, self.classes)
        found = Detections(boxes[keep], scores[keep], labels[keep])
        return vote(found, boxes, scores, labels) if rule.voting else found


def best_pairs(
    logits: Tensor, quality: Tensor | None, counts: Sequence[int], rule: DetectDense
) -> tuple[Tensor, Tensor, Tensor]:
    """Score, prior and class of the candidates of all levels, (C,) each."""
    if not rule.candidates:  # levels make no difference
        return _of_level(logits, quality, rule)
    parts = torch.split(logits, list(counts))
    others = [None] * len(parts) if quality is None else torch.split(quality, list(counts))
    found, first = [], 0
    for own, other, count in zip(parts, others, counts, strict=True):
        scores, rows, labels = _of_level(own, other, rule)
        found.append((scores, rows + first, labels))
        first += count
    scores, rows, labels = (torch.cat(column) for column in zip(*found, strict=True))
    return scores, rows, labels


def _of_level(
    logits: Tensor, quality: Tensor | None, rule: DetectDense
) -> tuple[Tensor, Tensor, Tensor]:
    cls = logits.sigmoid()
    scores = cls if quality is None else _with_quality(cls, quality, rule)
    asked = cls if rule.threshold_on == "class" else scores
    # No `len` of a level here: in a graph for export it is that of the one image that was traced
    cells = None
    if rule.candidates and rule.candidates_of == "cells":
        cells = places_of_largest(scores.amax(dim=1), rule.candidates)
        cls, asked = cls[cells], asked[cells]
    passing = asked > rule.score_threshold
    if rule.classes == "best":
        best = torch.zeros_like(passing).scatter_(1, cls.argmax(dim=1, keepdim=True), True)
        passing = best & (asked >= rule.score_threshold)
    pairs = torch.nonzero(passing.flatten()).flatten()
    if rule.candidates and rule.candidates_of == "pairs":
        pairs = pairs[places_of_largest(asked.flatten()[pairs], rule.candidates)]
    rows, labels = pairs // cls.shape[1], pairs % cls.shape[1]
    rows = rows if cells is None else cells[rows]
    return scores[rows, labels], rows, labels


def _with_quality(cls: Tensor, quality: Tensor, rule: DetectDense) -> Tensor:
    product = cls * quality.sigmoid()[:, None]
    return product.sqrt() if rule.quality == "root" else product


def vote(found: Detections, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detections:
    """Each detection at the mean of the boxes of its class around it ("PAA", §3.3).

    Weighted by score · exp(−(1 − IoU)² / 0.025).

    in   boxes (C, 4), scores (C,), labels (C,)  all candidates, those that NMS dropped too
    """
    overlap = iou_matrix(found.boxes, boxes)
    weight = (-((1 - overlap) ** 2) / VOTING_SIGMA).exp() * scores
    counted = (overlap > VOTING_IOU) & (found.labels[:, None] == labels)
    weight = torch.where(counted, weight, 0.0)
    mean = weight @ boxes / weight.sum(dim=1, keepdim=True)
    return Detections(mean, found.scores, found.labels)

"""From scored boxes to detections."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dhcli.config.schema import Detect, DetectBest, DetectClipped
from dhcli.config.schema.detect import GuidedNms, SoftNms
from dhcli.ops.batch import Detections
from dhcli.ops.box_rules import BoxRules
from dhcli.ops.boxes import clip_boxes
from dhcli.ops.guided_nms import guided_nms
from dhcli.ops.nms import UNLIMITED, Limits, best_of_groups
from dhcli.ops.soft_nms import Decay, soft_nms


class Nms(nn.Module):
    """Non-maximum suppression as a module, so that its time can be measured on its own.

    See `best_of_groups`; `how` is the arithmetic of `grouped_nms`.
    """

    def __init__(self, how: str = "exact") -> None:
        super().__init__()
        self.how = how

    def forward(
        self,
        boxes: Tensor,
        scores: Tensor,
        groups: Tensor,
        iou_threshold: float,
        limits: Limits,
        count: int,
    ) -> Tensor:
        return best_of_groups(
            boxes, scores, groups, iou_threshold, limits, count=count, how=self.how
        )


class Soften(nn.Module):
    """Soft-NMS as a module, beside `Nms`. See `soft_nms`."""

    def __init__(self, how: str = "exact") -> None:
        super().__init__()
        self.how = how

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor, decay: Decay, limits: Limits
    ) -> tuple[Tensor, Tensor]:
        return soft_nms(boxes, scores, groups, decay, limits, how=self.how)


class Guide(nn.Module):
    """IoU-guided NMS as a module, beside `Nms`. See `guided_nms`."""

    def __init__(self, how: str = "exact") -> None:
        super().__init__()
        self.how = how

    def forward(
        self,
        boxes: Tensor,
        scores: Tensor,
        groups: Tensor,
        ranks: Tensor,
        iou_threshold: float,
        limits: Limits,
    ) -> tuple[Tensor, Tensor]:
        return guided_nms(boxes, scores, groups, ranks, iou_threshold, limits, self.how)


class Select(nn.Module):
    """Of the scored boxes of one image, the best of each overlapping group.

    NMS within each class, hard or soft; with `across_classes`, then NMS over what all classes kept,
    so that the limits count what is left.

    in   boxes (D, 4) float32 xyxy in resized pixels, scores (D,), labels (D,) int64
         size, original  (2,) int64 height, width of the resized and of the original image
         ious  (D,) float32, the predicted ones, for IoU-guided NMS
    out  Detections in pixels of the original image
    """

    def __init__(self, rules: BoxRules, nms: Nms, classes: int) -> None:
        super().__init__()
        self.rules = rules
        self.nms = nms
        self.soft_nms = Soften(nms.how)
        self.guided_nms = Guide(nms.how)
        self.classes = classes

    def forward(
        self,
        boxes: Tensor,
        scores: Tensor,
        labels: Tensor,
        size: Tensor,
        original: Tensor,
        rule: Detect,
        ious: Tensor | None = None,
    ) -> Detections:
        boxes = self.rules.clip(boxes, size)
        if rule.min_size:
            large = torch.nonzero(self.rules.has_area(boxes, rule.min_size)).flatten()
            boxes, scores, labels = boxes[large], scores[large], labels[large]
            ious = None if ious is None else ious[large]
        rescaled = self.rules.rescale(boxes, self.rules.scale(size, original).to(boxes.dtype))
        measured = rescaled if rule.nms_on == "original" else boxes
        limits = Limits(rule.max_detections, keep_ties=rule.keep_ties)
        of_classes = Limits(UNLIMITED) if rule.across_classes else limits
        if isinstance(rule.nms, SoftNms):
            decay = Decay(rule.nms.method, rule.nms_threshold, rule.nms.sigma, rule.nms.min_score)
            keep, scores = self.soft_nms(measured, scores, labels, decay, of_classes)
        elif isinstance(rule.nms, GuidedNms):
            assert ious is not None  # the configuration was checked: a branch predicts them
            ranks = ious if rule.nms.rank == "iou" else ious * scores
            iou = rule.nms_threshold
            keep, scores = self.guided_nms(measured, scores, labels, ranks, iou, of_classes)
            if rule.nms.multiply and not rule.nms.refine:
                scores = scores * ious.clamp(0, 1)
            keep = keep[scores[keep].argsort(descending=True, stable=True)]
        else:
            keep = self.nms(measured, scores, labels, rule.nms_threshold, of_classes, self.classes)
        if rule.across_classes:
            as_one = torch.zeros_like(keep)
            iou = rule.across_classes
            keep = keep[self.nms(measured[keep], scores[keep], as_one, iou, limits, 1)]
        return Detections(rescaled[keep], scores[keep], labels[keep])

    def suppressor(self, rule: Detect) -> nn.Module:
        """What runs NMS within classes by `rule`."""
        others = {SoftNms: self.soft_nms, GuidedNms: self.guided_nms}
        return others.get(type(rule.nms), self.nms)


class SelectBest(nn.Module):
    """The best pairs of a box and a class: no NMS, and nothing is clipped unless the rule says so.

    in   boxes   (N, 4) float32 xyxy in resized pixels;  scores  (N, K) float32
         size, original  (2,) int64 height, width of the resized and of the original image
    out  Detections in pixels of the original image; a box may be there for several classes
    """

    def forward(
        self, boxes: Tensor, scores: Tensor, size: Tensor, original: Tensor, rule: DetectBest
    ) -> Detections:
        classes = scores.shape[1]
        best, order = scores.flatten().topk(min(rule.max_detections, scores.numel()))
        above = torch.nonzero(best > rule.score_threshold).flatten()
        best, order = best[above], order[above]
        if isinstance(rule, DetectClipped) and rule.clip:
            boxes = clip_boxes(boxes, size)
        scale = (original / size).flip(0).to(boxes.dtype).repeat(2)
        return Detections(boxes[order // classes] * scale, best, order % classes)

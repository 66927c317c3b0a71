"""`model.detect`: from scored boxes to detections."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from dhcli.config.schema.base import (
    AtLeastOne,
    ByKind,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Section,
)


class DetectBest(Section):
    """From scored boxes to detections: the best, without NMS."""

    score_threshold: Fraction = 0.0
    """Lowest score of a detection."""
    max_detections: AtLeastOne = 100
    """Most detections per image; the best are kept."""

    def lowest(self) -> float:
        """The lowest score that a detection can have."""
        return self.score_threshold


class DetectBase(DetectBest):
    """From scored boxes to detections."""

    score_threshold: Fraction = 0.05
    """Lowest score of a detection."""
    nms_threshold: Fraction = 0.5
    """Of two boxes of a class with an IoU above this, NMS drops the one with the lower score."""


class HardNms(Section):
    """What NMS does to the lower-scored of two boxes that overlap too much."""

    kind: Literal["hard"] = "hard"
    """hard: drops it."""


class SoftNms(Section):
    """What NMS does to the lower-scored of two boxes that overlap too much."""

    kind: Literal["soft"]
    """soft: lowers its score (Soft-NMS). `score_threshold` is asked before, so that a detection may
    score below it."""
    method: Literal["linear", "gaussian"] = "linear"
    """Factor of the score. linear: 1 − IoU from an IoU of `nms_threshold` on; gaussian: exp(−IoU² /
    sigma) at any IoU."""
    sigma: Positive = 0.5
    """Width of the gaussian."""
    min_score: NonNegative = 1e-3
    """Drop a box when its score falls below this."""


class GuidedNms(Section):
    """What NMS does to the lower-scored of two boxes that overlap too much."""

    kind: Literal["guided"]
    """guided: the box with the higher predicted IoU stays, with the best score of those that it
    drops (IoU-Net). It needs a branch with `focus: iou`."""
    rank: Literal["iou", "product"] = "iou"
    """What decides which box stays: the predicted IoU, or it times the score."""
    multiply: bool = False
    """Multiply the score by the predicted IoU at the end."""
    refine: Count = 0
    """Most steps by which a box that stayed climbs the gradient of its predicted IoU (the paper: 5;
    0: none)."""
    step: Positive = 0.5
    """Length of a step, in sides of the box times the gradient."""


Suppression: TypeAlias = HardNms | SoftNms | GuidedNms
"""Every kind of NMS."""


class Detect(DetectBase):
    """From scored boxes to detections."""

    nms: Annotated[Suppression, ByKind("hard")] = HardNms()
    gate: Fraction = 0.0
    """Run the second branch only on proposals to which the first gives some class at least this
    score. Faster, but it can lower AP (docs/performance.md). Only with fused scores. 0: off."""
    across_classes: Fraction = 0.0
    """After NMS per class: of two boxes with an IoU above this, whatever their classes, drop the
    one with the lower score (0: off)."""
    keep_ties: bool = False
    """Also keep detections with the same score as the last one kept (maskrcnn-benchmark)."""
    min_size: NonNegative = 0.0
    """Drop detections with a side shorter than this many pixels of the resized image (torchvision:
    0.01; 0 drops only empty ones)."""
    nms_on: Literal["original", "resized"] = "original"
    """Whether NMS works in pixels of the original image or of the resized one."""

    def lowest(self) -> float:
        """See `DetectBest`; Soft-NMS lowers scores after the threshold was asked."""
        if isinstance(self.nms, SoftNms):
            return min(self.score_threshold, self.nms.min_score)
        return self.score_threshold

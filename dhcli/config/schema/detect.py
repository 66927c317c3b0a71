"""`model.detect`: from scored boxes to detections."""

from __future__ import annotations

from typing import Literal

from dhcli.config.schema.base import AtLeastOne, Fraction, NonNegative, Section


class DetectBase(Section):
    """From scored boxes to detections."""

    score_threshold: Fraction = 0.05
    """Lowest score of a detection."""
    nms_threshold: Fraction = 0.5
    """Of two boxes of a class with an IoU above this, NMS drops the one with the lower score."""
    max_detections: AtLeastOne = 100
    """Most detections per image; the best are kept."""


class Detect(DetectBase):
    """From scored boxes to detections."""

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

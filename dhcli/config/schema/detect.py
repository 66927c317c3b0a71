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
    """With fused scores: a proposal that the first branch gives no class this score is dropped
    before the second branch runs. 0 is exact (docs/performance.md)."""
    keep_ties: bool = False
    """Also keep all that score as high as the last one kept (maskrcnn-benchmark)."""
    min_size: NonNegative = 0.0
    """Drop detections with a side shorter than this many pixels of the resized image (torchvision:
    0.01; 0 drops only empty ones)."""
    nms_on: Literal["original", "resized"] = "original"
    """Pixels that NMS measures in: the original image's, or the resized one's."""

"""`input`: how an image becomes a tensor."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dhcli.config.schema.base import Positive, Section, Side


class Input(Section):
    """How an image becomes a tensor."""

    min_size: Side = 800
    """Shortest side after resizing, in pixels."""
    max_size: Side = 1333
    """Longest side after resizing, in pixels; takes precedence over min_size."""
    divisor: Annotated[int, Field(ge=1, le=1024)] = 32
    """Height and width of a batch are padded to multiples of this."""
    resize: Literal["plain", "mmdet1", "torchvision", "maskrcnn_benchmark", "square"] = "plain"
    """Rounding of the new sides. plain: to the nearest (MMDetection, detectron2); mmdet1: the same,
    but boxes are scaled back by the one factor of both sides before they were rounded
    (MMDetection 1); torchvision: down; maskrcnn_benchmark: the short side to the nearest, the long
    side down. square: both sides become min_size, whatever the image's shape (SSD)."""
    interpolation: Literal["pil", "cv2", "float"] = "pil"
    """Bilinear resizing: Pillow's (antialiased), OpenCV's, or torch's without rounding."""
    exif: bool = True
    """Turn an image as its EXIF orientation says."""
    depth: Literal["auto", "full", "percentile"] = "auto"
    """How images of more than 8 bits per channel become 8-bit. full: take the high byte;
    percentile: stretch the image so that its 0.5th to 99.5th percentiles fill 0–255; auto: full if
    an image reaches a quarter of its format's range, else percentile."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """Order of the colour channels in the network's input."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of each channel on the 0–255 scale, in the order of `channels`."""
    std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)
    """Standard deviation of each channel on the 0–255 scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_size < self.min_size:
            raise ValueError(f"max_size {self.max_size} is below min_size {self.min_size}")
        return self

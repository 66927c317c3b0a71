"""What passes between the loader, the detector and whoever wants its detections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass
class ImageBatch:
    """B images of unequal size in one tensor, padded with zeros on the right and below.

    pixels     (B, 3, H, W) uint8 or float32 RGB 0–255, channels_last in memory
    sizes      (B, 2) int64 height, width of each image within the padding
    originals  (B, 2) int64 height, width before resizing: detections are given in these pixels
    """

    pixels: Tensor
    sizes: Tensor
    originals: Tensor

    def __len__(self) -> int:
        return len(self.sizes)

    def inside(self) -> Tensor:
        """(B, 1, H, W) bool: which pixels of the batch are within an image, not its padding."""
        height, width = self.pixels.shape[2:]
        rows = torch.arange(height, device=self.sizes.device) < self.sizes[:, :1]  # (B, H)
        columns = torch.arange(width, device=self.sizes.device) < self.sizes[:, 1:]  # (B, W)
        return rows[:, None, :, None] & columns[:, None, None, :]

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""
        parts = (self.pixels, self.sizes, self.originals)
        return type(self)(*(part.to(device, non_blocking=True) for part in parts))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; called by DataLoader."""
        parts = (self.pixels, self.sizes, self.originals)
        return type(self)(*(part.pin_memory() for part in parts))


@dataclass
class Target:
    """What is to be found in one image, in pixels of the resized image.

    boxes   (M, 4) float32 xyxy
    labels  (M,) int64 in 0…K-1
    ignore  (R, 4) float32 xyxy: regions that must not be taught as background
    """

    boxes: Tensor
    labels: Tensor
    ignore: Tensor

    def to(self, device: torch.device) -> Self:
        """The target on `device`."""
        parts = (self.boxes, self.labels, self.ignore)
        return type(self)(*(part.to(device, non_blocking=True) for part in parts))

    def pin_memory(self) -> Self:
        """The target in page-locked memory; called by DataLoader."""
        return type(self)(*(part.pin_memory() for part in (self.boxes, self.labels, self.ignore)))


@dataclass
class Detections:
    """What was found in one image, best first, in pixels of the original image.

    boxes   (D, 4) float32 xyxy
    scores  (D,) float32 in [0, 1]
    labels  (D,) int64 in 0…K-1
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, threshold: float) -> Detections:
        """Those that score above `threshold`."""
        kept = torch.nonzero(self.scores > threshold).flatten()
        return Detections(self.boxes[kept], self.scores[kept], self.labels[kept])

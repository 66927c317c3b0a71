"""The RoIs that a head learns from."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Rois(NamedTuple):
    """Sampled proposals of a batch and what they should become.

    boxes    (N, 4) float32 xyxy
    images   (N,) int64, the image each lies in
    classes  (N,) int64, 0 for background, else label + 1
    goals    (N, 4) float32, the object's box; the proposal's own for background
    added    (N,) bool, whether it is the box of an object, which no one proposed
    """

    boxes: Tensor
    images: Tensor
    classes: Tensor
    goals: Tensor
    added: Tensor

    def take(self, rows: Tensor | slice) -> Rois:
        """The RoIs of `rows` (n,)."""
        return Rois(*(column[rows] for column in self))

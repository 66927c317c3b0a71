"""The rules on boxes in which detectors differ, in one value that their parts share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dhcli.ops.boxes import clip_boxes, decode_boxes


class BoxRules(NamedTuple):
    """How boxes are decoded, clipped and scaled back. See `config.schema.Model`.

    one_scale  min_size and max_size, if boxes are scaled back as MMDetection 1 does; see `scale`
    """

    legacy_plus_one: bool = False
    clamp_shrinking: bool = True
    one_scale: tuple[int, int] | None = None

    def decode(self, deltas: Tensor, anchors: Tensor, std: tuple[float, ...]) -> Tensor:
        """See `decode_boxes`."""
        return decode_boxes(deltas, anchors, std, clamp_shrinking=self.clamp_shrinking)

    def clip(self, boxes: Tensor, sizes: Tensor) -> Tensor:
        """See `clip_boxes`."""
        return clip_boxes(boxes, sizes, legacy_plus_one=self.legacy_plus_one)

    def has_area(self, boxes: Tensor, least: float = 0.0) -> Tensor:
        """Whether each of `boxes` (N, 4) has sides of `least` pixels or, at 0, any: (N,) bool.

        An inclusive box always has a pixel, so that with `legacy_plus_one` 0 keeps all.
        """
        sides = boxes[:, 2:] - boxes[:, :2]
        enough = sides >= least if least or self.legacy_plus_one else sides > 0
        return enough.all(dim=1)

    def scale(self, size: Tensor, original: Tensor) -> Tensor:
        """What takes boxes of the resized image to the original: (2,) float x, y.

        With `one_scale`, the factor that the image was resized by, before its sides were rounded;
        but each side's own where the image has not the size that this gives.

        in   size, original  (2,) int64 height, width
        """
        scale = (original / size).flip(0)
        if self.one_scale is None:
            return scale
        least, most = self.one_scale
        factor = torch.maximum(original.max() / most, original.min() / least)
        fits = ((original / factor - size).abs() < 1).all()
        return torch.where(fits, factor, scale)

    def rescale(self, boxes: Tensor, scale: Tensor) -> Tensor:
        """Boxes (N, 4) in pixels `scale` (2,) x, y times as small.

        maskrcnn-benchmark scales its inclusive maximum, which is 1 below ours before and after.
        """
        scaled = boxes * scale.repeat(2)
        if not self.legacy_plus_one:
            return scaled
        return torch.cat([scaled[:, :2], scaled[:, 2:] + (1 - scale)], dim=1)


PLAIN = BoxRules()
"""What a detector has that no other program trained."""

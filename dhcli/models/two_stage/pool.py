"""RoIAlign from the pyramid level that suits a box."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from dhcli.ops.boxes import box_area, enlarge_boxes


def choose_levels(boxes: Tensor, strides: Sequence[int], epsilon: float = 1e-6) -> Tensor:
    """The pyramid level of each box, 0 for the finest: (N,) int64 (FPN, Eq. 1).

    A box of 224² pixels belongs to the level of stride 16: with P2 of stride 4 as level 0,
    level = ⌊2 + log2(√area / 224)⌋ = ⌊log2(√area / 56)⌋.

    in   boxes    (N, 4) float xyxy, before any enlarging
         strides  of the levels, each twice the one before
         epsilon  added to √area / 56, against rounding on the border of two levels
    """
    least = 14 * strides[0]  # the side of a box that belongs to the finest level
    level = torch.floor(torch.log2(box_area(boxes).sqrt() / least + epsilon))
    return level.clamp(0, len(strides) - 1).long()


class Pool(nn.Module):
    """RoIs to size × size cells.

    in   levels  P2 … P5, or what else has the `strides` (B, C, h, w) float; more are not read
         boxes   (N, 4) float32 xyxy in pixels of the resized image
         images  (N,) int64, the image in the batch that a box lies in
         scale   enlarges the box about its centre; the level is that of the box as it was
    out  (N, C, size, size) float
    """

    def __init__(
        self,
        size: int,
        sampling_ratio: int,
        aligned: bool,
        strides: Sequence[int],
        *,
        legacy_plus_one: bool = False,
        level_epsilon: float = 1e-6,
        convention: str = "plain",
    ) -> None:
        super().__init__()
        self.size = size
        self.sampling_ratio = sampling_ratio
        self.legacy = convention == "mmdet1"
        # RoIAlign that is not aligned gives RoIs a least side, which MMDetection 1's does not: it
        # is one that is, with RoIs half a place further on
        self.shifted = self.legacy and not aligned
        self.aligned = aligned or self.shifted
        self.strides = strides
        # maskrcnn-benchmark leaves the last pixel out, MMDetection 1 pools it too
        self.legacy_plus_one = legacy_plus_one and not self.legacy
        self.level_epsilon = level_epsilon

    def forward(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, scale: float = 1.0
    ) -> Tensor:
        level_of = choose_levels(boxes, self.strides, self.level_epsilon)
        rois = torch.cat([images[:, None].to(boxes.dtype), enlarge_boxes(boxes, scale)], dim=1)
        if self.legacy_plus_one:
            rois = rois - rois.new_tensor([0, 0, 0, 1, 1])
        if self.shifted:
            half = level_of.new_tensor(self.strides)[level_of, None] / 2
            rois = rois + half * rois.new_tensor([0, 1, 1, 1, 1])
        return self.align(levels[: len(self.strides)], level_of, rois)

    def integrate(
        self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor, scale: float = 1.0
    ) -> Tensor:
        """As `forward`, by the exact mean of the bilinear surface: it has a gradient to `boxes`.

        Precise RoI pooling ("Acquisition of Localization Confidence", §3.3).
        """
        level_of = choose_levels(boxes.detach(), self.strides, self.level_epsilon)
        rois = enlarge_boxes(boxes, scale)
        if self.legacy_plus_one:
            rois = rois - rois.new_tensor([0, 0, 1, 1])
        half = 0.5 if self.aligned else 0.0
        cells = [  # in float32, as in `align`
            precise_pool(levels[level][image].float(), roi / self.strides[level] - half, self.size)
            for level, image, roi in zip(level_of.tolist(), images.tolist(), rois, strict=True)
        ]
        empty = levels[0].new_zeros(0, levels[0].shape[1], self.size, self.size)
        return torch.stack(cells).to(empty.dtype) if cells else empty

    def align(self, levels: Sequence[Tensor], level_of: Tensor, rois: Tensor) -> Tensor:
        """The cells (N, C, size, size) of `rois` (N, 5: image, xyxy), each from its level (N,)."""
        # `len` of a number that only the data tell is refused by export
        shape = (rois.shape[0], levels[0].shape[1], self.size, self.size)
        out = levels[0].new_zeros(shape)
        for index, stride in enumerate(self.strides):
            rows = torch.nonzero(level_of == index).flatten()
            # In float32, as autocast would have it: bf16 holds no pixel above 256 exactly
            features = levels[index].float()
            ratio = self.sampling_ratio or -1
            pooled = roi_align(features, rois[rows], self.size, 1 / stride, ratio, self.aligned)
            out = out.index_put((rows,), pooled.to(out.dtype))
        return out


def precise_pool(features: Tensor, box: Tensor, size: int) -> Tensor:
    """Means (C, size, size) over the cells of one box of the bilinear surface through a map.

    The surface is Σ F_ij hat(y − i) hat(x − j), 0 beyond the map. So the mean over a cell is a
    product of one integral of hats along each axis and the map.

    in   features  (C, h, w) float;  box  (4,) float xyxy in cells of the map, 0 the first's centre
    """
    low, side = box[:2], (box[2:] - box[:2]) / size
    steps = torch.arange(size + 1, device=box.device, dtype=box.dtype)
    along = []
    for axis, count in ((0, features.shape[2]), (1, features.shape[1])):
        edges = low[axis] + steps * side[axis]
        places = torch.arange(count, device=box.device, dtype=box.dtype)
        risen = _integrate_hat(edges[:, None] - places)  # (size + 1, count)
        along.append((risen[1:] - risen[:-1]) / side[axis].clamp(min=1e-6))
    x, y = along
    return torch.einsum("sh,chw,tw->cst", y, features, x)


def _integrate_hat(t: Tensor) -> Tensor:
    """∫ max(0, 1 − |u|) du from −1 to `t`."""
    t = t.clamp(-1, 1)
    return torch.where(t < 0, (t + 1) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

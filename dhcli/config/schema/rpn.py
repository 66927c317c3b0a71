"""`model.anchors` and `model.rpn`: where objects may be."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from dhcli.config.schema.base import (
    AtLeastOne,
    Count,
    Fraction,
    NonNegative,
    OrWord,
    Positive,
    Section,
)
from dhcli.errors import ConfigError

Sizes: TypeAlias = Annotated[
    Annotated[tuple[Positive, ...], Field(min_length=1)] | Literal["auto"], OrWord("auto")
]


class Anchors(Section):
    """The boxes that the RPN starts from: one size per level of the pyramid, all sizes on C4."""

    sizes: Sizes = (32, 64, 128, 256, 512)
    """Sides of the square anchors in pixels of the resized image: one per level of the pyramid, or
    all on C4. auto: found from the boxes that are trained on, and stored in the model."""
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Height / width, at the same area."""
    convention: Literal["plain", "torchvision", "maskrcnn_benchmark", "mmdet1"] = "plain"
    """plain: exact, centred on the cell's corner (MMDetection). The others round as those programs
    do (mmdet1: MMDetection 1). torchvision also divides the padded image into cells (on P6 of 800
    pixels, a cell is 61 pixels, not 64)."""

    def known_sizes(self) -> tuple[float, ...]:
        """The sizes. Raises ConfigError where they are still to be found from data."""
        if self.sizes == "auto":
            what = "is `auto`, which only `dh train` and `dh finetune` turn into sizes"
            hint = "give sizes: `--set model.anchors.sizes=[…]`"
            raise ConfigError(what, where="model.anchors.sizes", hint=hint)
        return self.sizes


class Rpn(Section):
    """The region proposal network."""

    pre_nms_train: AtLeastOne = 2000
    """Best anchors per level that enter NMS in training."""
    pre_nms_test: AtLeastOne = 1000
    """Best anchors per level that enter NMS at test time."""
    proposals_train: AtLeastOne = 1000
    """Proposals kept in training; see proposals_per."""
    proposals_test: AtLeastOne = 1000
    """Proposals kept per image at test time."""
    proposals_per: Literal["image", "batch"] = "image"
    """Whether `proposals_train` counts per image or per batch (maskrcnn-benchmark)."""
    min_size: NonNegative = 0.0
    """Drop proposals with a side shorter than this many pixels (torchvision: 0.001; 0 drops only
    empty ones)."""
    nms_threshold: Fraction = 0.7
    """Of two proposals with an IoU above this, NMS drops the one with the lower score."""
    level_proposals: Count = 0
    """Most proposals per level after NMS, before the best of all levels are kept (0: no limit)."""
    positive_iou: Fraction = 0.7
    """An anchor with at least this IoU is an object."""
    negative_iou: Fraction = 0.3
    """An anchor with an IoU below this is background."""
    allowed_border: Annotated[float, Field(ge=-1)] = -1
    """An anchor that is outside its image by this many pixels or more is not trained (Cascade R-CNN
    of MMDetection: 0; -1: all are)."""
    samples: AtLeastOne = 256
    """Anchors per image used in the loss."""
    positive_fraction: Fraction = 0.5
    """Largest share of objects among `samples`."""
    smooth_l1_beta: NonNegative = 0.0
    """Where the regression loss turns from quadratic to linear (0: plain L1)."""

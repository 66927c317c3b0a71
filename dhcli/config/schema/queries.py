"""`model` of kind `queries`: a fixed number of learned queries, each of which finds one object."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.backbone import Backbone, ResNet
from dhcli.config.schema.base import (
    ByKind,
    Channels,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Section,
)
from dhcli.config.schema.detect import DetectBest
from dhcli.config.schema.neck import Pyramid
from dhcli.config.schema.pool import Pool
from dhcli.words import counted


class SparseHead(Section):
    """From the pyramid to what each query says: learned proposals, refined stage by stage."""

    kind: Literal["sparse"] = "sparse"
    """sparse: Sparse R-CNN's dynamic heads."""
    proposals: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Learned boxes, each with a learned feature; no image has more detections of one class."""
    stages: Annotated[int, Field(ge=1, le=20)] = 6
    """How often each box is refined; every stage has weights of its own."""
    attention_heads: Annotated[int, Field(ge=1, le=64)] = 8
    """Heads of the attention among the proposals of an image."""
    dynamic_width: Channels = 64
    """Inner channels of the two layers that each proposal makes for its own RoI."""
    ffn_width: Annotated[int, Field(ge=1, le=16_384)] = 2048
    """Inner channels of the feed-forward network."""
    cls_layers: Count = 1
    """Fully connected layers before the scores."""
    reg_layers: Count = 3
    """Fully connected layers before the deltas of the box."""
    box_std: tuple[Positive, Positive, Positive, Positive] = (0.5, 0.5, 1.0, 1.0)
    """Deviations of the deltas dx, dy, dw, dh."""


class SetLoss(Section):
    """One query per object (Hungarian matching) and what it is taught.

    The weights hold for the cost of a match and for the loss alike.
    """

    cls: NonNegative = 2.0
    """Weight of the scores: focal."""
    l1: NonNegative = 5.0
    """Weight of the distance of the boxes' sides, as parts of the image: L1."""
    giou: NonNegative = 2.0
    """Weight of the generalised IoU."""
    boxes: Literal["corners", "centre"] = "corners"
    """What L1 is taken of. corners: x1, y1, x2, y2; centre: centre, width and height."""
    focal_alpha: Fraction = 0.25
    """Weight of the objects in the focal loss; the others have 1 minus this."""
    focal_gamma: NonNegative = 2.0
    """How little of the focal loss is left to what is already right."""


QueryHead: TypeAlias = SparseHead
"""Every kind of head of queries."""


class Queries(Section):
    """A detector of learned queries: no anchors, no NMS."""

    kind: Literal["queries"]
    """queries: Sparse R-CNN."""
    backbone: Annotated[Backbone, ByKind("resnet")] = ResNet()
    neck: Annotated[Pyramid, ByKind("fpn")] = Pyramid(finest=2, coarsest=5)
    pool: Pool = Pool(sampling_ratio=2)
    head: Annotated[QueryHead, ByKind("sparse")] = SparseHead()
    loss: SetLoss = SetLoss()
    detect: DetectBest = DetectBest()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.neck.channels % self.head.attention_heads:
            raise ValueError("`neck.channels` is no multiple of `head.attention_heads`")
        return self

    def describe(self) -> list[tuple[str, str]]:
        """Its backbone, proposals and stages."""
        said = f"{self.head.proposals} learned proposals, {counted(self.head.stages, 'stage')}"
        return [*self.backbone.describe(), ("head", said)]

"""`model` of kind `detr`: a transformer reads the whole image, and learned queries ask it."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.backbone import Backbone, ResNet
from dhcli.config.schema.base import ByKind, Fraction, NonNegative, Section
from dhcli.config.schema.detect import DetectBest
from dhcli.config.schema.neck import MapNeck
from dhcli.config.schema.queries import SetLoss
from dhcli.words import counted

Layers = Annotated[int, Field(ge=1, le=50)]


class DetrHead(Section):
    """From one level to what each query says: layers of transformers' DETR."""

    kind: Literal["detr"] = "detr"
    """detr: every cell and every query looks at all cells (DETR)."""
    queries: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Learned queries; no image has more objects that are found."""
    encoder_layers: Layers = 6
    """Layers in which the cells of an image look at each other."""
    decoder_layers: Layers = 6
    """Layers in which the queries look at each other, and at the cells."""
    attention_heads: Annotated[int, Field(ge=1, le=64)] = 8
    """Heads of every attention."""
    ffn_width: Annotated[int, Field(ge=1, le=16_384)] = 2048
    """Inner channels of the feed-forward networks."""
    dropout: Fraction = 0.1
    """Share that is dropped in training: of attention weights, and after every part of a layer."""


class DeformableHead(Section):
    """From several levels to what each query says: layers of transformers' Deformable DETR."""

    kind: Literal["deformable"]
    """deformable: each looks at a few points about its own place (Deformable DETR)."""
    queries: Annotated[int, Field(ge=1, le=10_000)] = 300
    """Learned queries; one may answer with several classes."""
    encoder_layers: Layers = 6
    """Layers in which the cells of an image look at each other."""
    decoder_layers: Layers = 6
    """Layers in which the queries look at each other, and at the cells."""
    attention_heads: Annotated[int, Field(ge=1, le=64)] = 8
    """Heads of every attention."""
    points: Annotated[int, Field(ge=1, le=64)] = 4
    """Points that a head looks at in each level."""
    ffn_width: Annotated[int, Field(ge=1, le=16_384)] = 1024
    """Inner channels of the feed-forward networks."""
    dropout: Fraction = 0.1
    """Share that is dropped in training: of the queries' attention weights, and after every part of
    a layer."""
    refine: bool = False
    """Each layer of the decoder moves the box of the one before, with predictors of its own."""
    two_stage: bool = False
    """Queries are not learned: they begin at the encoder's best boxes. Needs `refine`."""

    @model_validator(mode="after")
    def _refining(self) -> Self:
        if self.two_stage and not self.refine:
            raise ValueError("`two_stage: true` needs `refine: true`")
        return self


class FocalSetLoss(SetLoss):
    """One query per object (Hungarian matching) and what it is taught.

    The weights hold for the cost of a match and for the loss alike.
    """

    kind: Literal["focal"]
    """focal: each class by itself, no background (Deformable DETR)."""
    boxes: Literal["corners", "centre"] = "centre"
    """What L1 is taken of. corners: x1, y1, x2, y2; centre: centre, width and height."""


class SoftmaxSetLoss(Section):
    """One query per object (Hungarian matching) and what it is taught.

    The weights hold for the cost of a match and for the loss alike.
    """

    kind: Literal["softmax"] = "softmax"
    """softmax: one class or the background (DETR)."""
    cls: NonNegative = 1.0
    """Weight of the scores: cross entropy."""
    l1: NonNegative = 5.0
    """Weight of the distance of the boxes, as parts of the image: L1."""
    giou: NonNegative = 2.0
    """Weight of the generalised IoU."""
    boxes: Literal["corners", "centre"] = "centre"
    """What L1 is taken of. corners: x1, y1, x2, y2; centre: centre, width and height."""
    background: NonNegative = 0.1
    """Weight of a query without an object in the cross entropy."""


class DetectClipped(DetectBest):
    """From scored boxes to detections: the best, without NMS."""

    clip: bool = True
    """Cut boxes at the edges of the image."""


TransformerHead: TypeAlias = DetrHead | DeformableHead
"""Every kind of head of a transformer."""


class Detr(Section):
    """A detector of learned queries that see the whole image: no anchors, no RoIs, no NMS."""

    kind: Literal["detr"]
    """detr: DETR and Deformable DETR, of transformers' layers (`pip install 'dhcli[detr]'`)."""
    backbone: Annotated[Backbone, ByKind("resnet")] = ResNet()
    neck: Annotated[MapNeck, ByKind("map")] = MapNeck()
    head: Annotated[TransformerHead, ByKind("detr")] = DetrHead()
    loss: Annotated[SoftmaxSetLoss | FocalSetLoss, ByKind("softmax")] = SoftmaxSetLoss()
    detect: DetectClipped = DetectClipped()

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.neck.channels % self.head.attention_heads or self.neck.channels % 4:
            raise ValueError("`neck.channels` is no multiple of `head.attention_heads` and of 4")
        if self.head.kind == "detr" and self.neck.finest != self.neck.coarsest:
            raise ValueError("`head.kind: detr` sees one level: `neck.finest` is `neck.coarsest`")
        return self

    def describe(self) -> list[tuple[str, str]]:
        """Its backbone, queries and layers."""
        head, levels = self.head, len(self.neck.strides())
        layers = f"{head.encoder_layers} + {counted(head.decoder_layers, 'layer')}"
        said = f"{head.kind}: {head.queries} queries, {layers}, {counted(levels, 'level')}"
        return [*self.backbone.describe(), ("head", said)]

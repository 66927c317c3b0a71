"""`model` of kind `dense`: a score and a box of every prior, in one pass over the levels."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from dhcli.config.schema.backbone import Backbone, ResNet
from dhcli.config.schema.base import (
    AtLeastOne,
    ByKind,
    Channels,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Section,
    require_epsilon,
)
from dhcli.config.schema.detect import DetectBase
from dhcli.config.schema.neck import LevelNeck, Pyramid
from dhcli.words import counted

Quality: TypeAlias = Literal["none", "centerness", "iou", "objectness", "implicit"]


class DenseHead(Section):
    """From a level to a score of each class, a box and a quality for every prior."""

    cls_layers: Annotated[int, Field(ge=0, le=64)] = 4
    """3×3 convolutions before the scores."""
    reg_layers: Annotated[int, Field(ge=0, le=64)] = 4
    """3×3 convolutions before the boxes and the quality."""
    width: Channels = 256
    """Channels of these convolutions."""
    norm: Literal["none", "bn", "gn"] = "gn"
    """Norm after each of them. none: they have a bias instead."""
    bn_epsilon: NonNegative = 1e-5
    """Added to the variance in batch norm (YOLOX: 0.001)."""
    bn_momentum: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of a batch's statistics in the running ones (YOLOX: 0.03)."""
    depthwise: bool = False
    """Depthwise and 1×1 convolutions in place of 3×3 ones (YOLOX-Nano)."""
    init: Literal["normal", "uniform"] = "normal"
    """First weights. normal: of deviation 0.01; uniform: by the number of inputs (YOLOX)."""
    activation: Literal["relu", "silu"] = "relu"
    """What follows each norm."""
    shared: bool = True
    """Whether all levels share these convolutions and those that predict, or each has its own."""
    kernel: Literal[1, 3] = 3
    """Side of the convolutions that predict."""
    level_scales: bool = False
    """Multiply what is predicted of boxes by a number that each level learns."""
    quality: Quality = "none"
    """What else is predicted of a prior. centerness: how central it lies in its object; iou: the
    IoU of its box; objectness: whether it has an object at all; implicit: the same, without a loss
    of its own, as a factor of each class (YOLOF)."""
    quality_tower: Literal["reg", "cls"] = "reg"
    """Whether quality is predicted beside the boxes or beside the scores (MMDetection's FCOS)."""
    refine: Literal["none", "star"] = "none"
    """star: look at nine points of the box first found, refine it and score it there
    (VarifocalNet)."""

    @model_validator(mode="after")
    def _has_epsilon(self) -> Self:
        require_epsilon(self.norm, self.bn_epsilon)
        return self


class Priors(Section):
    """The boxes that lie around every cell, and their centres: points."""

    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8.0,)
    """Sides of the square priors of a cell, in strides of its level."""
    ratios: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    """Height / width, at the same area."""
    offset: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Where in its cell a prior has its centre, in strides (0: the corner; 0.5: the middle)."""

    def per_cell(self) -> int:
        """Priors of a cell."""
        return len(self.sizes) * len(self.ratios)


class DeltaBoxes(Section):
    """A box as shift and growth of its prior."""

    kind: Literal["deltas"] = "deltas"
    """deltas: dx, dy by the prior's sides, and the logarithms of how it grows."""
    std: tuple[Positive, Positive, Positive, Positive] = (0.1, 0.1, 0.2, 0.2)
    """Deviations of the deltas dx, dy, dw, dh."""
    clamp: Literal["both", "growth", "none"] = "both"
    """Whether growth, and shrinking too, is limited to 62.5-fold."""
    max_shift: NonNegative = 0.0
    """Most pixels that a centre may move (YOLOF: 32; 0: no limit)."""


class DistanceBoxes(Section):
    """A box as the distances of its four sides from the prior's centre."""

    kind: Literal["distances"]
    """distances: left, top, right, bottom."""
    unit: NonNegative = 1.0
    """What distances are measured in, in strides of the level (VarifocalNet: 8; 0: in pixels)."""
    positive_by: Literal["exp", "relu"] = "exp"
    """How a distance becomes positive: the exponential, or what is above 0."""


class CentreBoxes(Section):
    """A box as its centre and its size, in strides."""

    kind: Literal["centre"]
    """centre: the shift of the centre and the logarithms of width and height, in strides of the
    level, without a limit (YOLOX)."""


DenseBoxes: TypeAlias = DeltaBoxes | DistanceBoxes | CentreBoxes
"""Every way to say a box."""


class IouAssign(Section):
    """Which prior answers for which object."""

    kind: Literal["iou"]
    """iou: by the overlap of the prior (RetinaNet)."""
    positive_iou: Fraction = 0.5
    """A prior with at least this IoU is an object."""
    negative_iou: Fraction = 0.4
    """A prior with an IoU below this is background."""
    best_for_each: bool = True
    """Give each object the priors that overlap it most, however little."""


class AtssAssign(Section):
    """Which prior answers for which object."""

    kind: Literal["atss"] = "atss"
    """atss: of those nearest by centre, the ones whose IoU is above mean and deviation of these."""
    candidates: AtLeastOne = 9
    """Nearest priors on each level."""


class UniformAssign(Section):
    """Which prior answers for which object."""

    kind: Literal["uniform"]
    """uniform: the same number for every object (YOLOF)."""
    nearest: AtLeastOne = 4
    """Nearest priors, and as many nearest predicted boxes, for each object."""
    positive_iou: Fraction = 0.15
    """Of these, a prior with a lower IoU is not taught."""
    ignore_iou: Fraction = 0.7
    """A prior whose predicted box has a higher IoU with an object is not taught as background."""


class MixtureAssign(Section):
    """Which prior answers for which object."""

    kind: Literal["mixture"]
    """mixture: the better of two Gaussians over the losses of each object's candidates (PAA)."""
    positive_iou: Fraction = 0.1
    """A prior with at least this IoU is a candidate; so are the best for each object."""
    candidates: AtLeastOne = 9
    """Best candidates on each level."""
    giou: NonNegative = 1.3
    """Weight of the generalised IoU beside the focal loss, in what candidates are compared by."""


class RangeAssign(Section):
    """Which prior answers for which object."""

    kind: Literal["ranges"]
    """ranges: centres within the object's middle, on the level of its size (FCOS)."""
    radius: NonNegative = 1.5
    """How far from the object's centre, in strides, along each axis (0: anywhere in it)."""
    smallest: Positive = 4.0
    """The farthest side of an object lies beyond this, in strides; on the finest level, any."""
    largest: Positive = 8.0
    """… and within this; on the coarsest level, any."""


class SimOtaAssign(Section):
    """Which prior answers for which object."""

    kind: Literal["simota"]
    """simota: the cheapest by scores and IoU as predicted, as many as the IoUs say (YOLOX)."""
    radius: Positive = 2.5
    """Cells this near to an object's centre, in strides along each axis, can answer for it; so can
    those within an object."""
    candidates: AtLeastOne = 10
    """An object gets as many priors as its largest IoUs sum up to: of so many, rounded down."""
    iou_weight: NonNegative = 3.0
    """Weight of −ln IoU beside the cross entropy of the scores, in what priors cost."""


Assign: TypeAlias = (
    IouAssign | AtssAssign | UniformAssign | MixtureAssign | RangeAssign | SimOtaAssign
)
"""Every kind of assigner."""


class FocalLoss(Section):
    """What scores are taught."""

    kind: Literal["focal"] = "focal"
    """focal: 1 for the object's class, else 0."""
    weight: NonNegative = 1.0
    """Weight among the losses."""
    alpha: Fraction = 0.25
    """Weight of the objects; the others have 1 minus this."""
    gamma: NonNegative = 2.0
    """How little is left to what is already right."""


class VarifocalLoss(Section):
    """What scores are taught."""

    kind: Literal["varifocal"]
    """varifocal: the IoU of the box for the object's class, else 0."""
    weight: NonNegative = 1.0
    """Weight among the losses."""
    alpha: NonNegative = 0.75
    """Weight of what is no object."""
    gamma: NonNegative = 2.0
    """How little of that is left to what is already right."""


class OverlapLoss(Section):
    """What scores are taught."""

    kind: Literal["overlap"]
    """overlap: the IoU of the box for the object's class, else 0, by cross entropy; only priors
    with an object are taught (YOLOX)."""
    weight: NonNegative = 1.0
    """Weight among the losses."""


ScoreLoss: TypeAlias = FocalLoss | VarifocalLoss | OverlapLoss
"""Every kind of loss of the scores."""


class DenseLoss(Section):
    """What is taught, and by how much."""

    cls: Annotated[ScoreLoss, ByKind("focal")] = FocalLoss()
    box: Literal["giou", "iou2", "log_iou", "l1"] = "giou"
    """giou: 1 minus the generalised IoU; iou2: 1 minus the square of the IoU; log_iou: minus the
    logarithm of the IoU; l1: the distance of the deltas."""
    box_weight: NonNegative = 2.0
    """Weight of the box loss."""
    refined_weight: NonNegative = 2.0
    """Weight of the box loss of refined boxes."""
    weigh_by: Literal["none", "centerness", "iou"] = "none"
    """What each object's box loss is weighted by, and divided by the sum of. none: it is divided by
    the number of objects."""
    least_weight: NonNegative = 1.0
    """That sum counts as at least this."""
    quality_weight: NonNegative = 1.0
    """Weight of the loss of the quality."""
    padding: Literal["seen", "background", "left_out"] = "seen"
    """Priors whose cells lie in what a batch pads beyond an image's own multiple of
    `input.divisor`. seen: like all others (FCOS, YOLOX); background: no object gets them
    (VarifocalNet); left_out: nor are they taught as background (ATSS, PAA, YOLOF)."""
    late_l1: NonNegative = 0.0
    """Weight of a loss by the distance of the deltas in the epochs of `augment.plain_epochs`
    (YOLOX: 1; 0: none)."""
    count: Literal["each", "images", "one"] = "each"
    """Priors with an object, which losses are divided by. each: in each image at least 1; images:
    at least the number of images; one: at least 1."""


class DetectDense(DetectBase):
    """From scored boxes to detections."""

    nms_threshold: Fraction = 0.6
    """Of two boxes of a class with an IoU above this, NMS drops the one with the lower score."""
    candidates: Count = 1000
    """Best that enter NMS from each level (0: all)."""
    candidates_of: Literal["pairs", "cells"] = "pairs"
    """Whether these are pairs of a prior and a class, or priors with all their classes."""
    quality: Literal["times", "root"] = "times"
    """How quality enters the score: as a factor, or as the root of the product."""
    threshold_on: Literal["class", "score"] = "score"
    """What `score_threshold` and `candidates` look at: the score of the class alone, or with the
    quality. class: a detection may score below the threshold."""
    min_score: Fraction = 0.0
    """Lowest score of a detection with `threshold_on: class`."""
    clip: bool = True
    """Whether boxes end at the borders of the image."""
    classes: Literal["all", "best"] = "all"
    """Whether a prior can answer with several classes, or only with its best, which may then equal
    `score_threshold` (YOLOX)."""
    voting: bool = False
    """Move each detection to the mean of the boxes around it, weighted by score and IoU (PAA)."""

    def lowest(self) -> float:
        """See `DetectBest`."""
        return self.min_score if self.threshold_on == "class" else self.score_threshold


class Dense(Section):
    """A detector of one stage: a score and a box of every prior."""

    kind: Literal["dense"]
    """dense: RetinaNet, FCOS, ATSS, PAA, VarifocalNet, YOLOF and YOLOX."""
    backbone: Annotated[Backbone, ByKind("resnet")] = ResNet()
    neck: Annotated[LevelNeck, ByKind("fpn")] = Pyramid(finest=3, coarsest=7, extra="on_output")
    head: DenseHead = DenseHead()
    priors: Priors = Priors()
    boxes: Annotated[DenseBoxes, ByKind("deltas")] = DeltaBoxes()
    assign: Annotated[Assign, ByKind("atss")] = AtssAssign()
    loss: DenseLoss = DenseLoss()
    detect: DetectDense = DetectDense()
    nms: Literal["exact", "mmdet", "torchvision"] = "exact"
    """Arithmetic of NMS over classes: exact, or rounded as in that program."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.head.refine == "star":
            boxes = self.boxes
            if boxes.kind != "distances" or boxes.positive_by != "exp" or not boxes.unit:
                what = "`boxes.kind: distances` of exp, with a `unit` of strides"
                raise ValueError(f"`head.refine: star` needs {what}")
            if self.priors.per_cell() != 1:
                raise ValueError("`head.refine: star` needs one prior a cell in `priors`")
        return self

    def describe(self) -> list[tuple[str, str]]:
        """Its backbone, priors and assigner."""
        head = self.head
        said = [f"{counted(self.priors.per_cell(), 'prior')} a cell"]
        said += [
            f"{head.cls_layers} + {head.reg_layers} convolutions",
            f"assigned by {self.assign.kind}",
        ]
        said += [f"quality: {head.quality}"] if head.quality != "none" else []
        return [*self.backbone.describe(), ("head", ", ".join(said))]

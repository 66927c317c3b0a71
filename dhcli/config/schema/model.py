"""`model`: the detector."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import model_validator

from dhcli.config.schema.backbone import Backbone, ResNet
from dhcli.config.schema.base import ByKind, Section
from dhcli.config.schema.dense import Dense
from dhcli.config.schema.detect import Detect
from dhcli.config.schema.detr import Detr
from dhcli.config.schema.head import Head, Res5Branch, SideBranch
from dhcli.config.schema.neck import Neck, NoNeck, Pyramid
from dhcli.config.schema.pool import Pool
from dhcli.config.schema.queries import Queries
from dhcli.config.schema.rpn import Anchors, Rpn
from dhcli.config.schema.torchvision import TorchVision


class TwoStage(Section):
    """The detector: proposals, then a head on each of them."""

    kind: Literal["two_stage"] = "two_stage"
    """two_stage: Faster R-CNN, Double-Head and their relatives."""
    backbone: Annotated[Backbone, ByKind("resnet")] = ResNet()
    neck: Annotated[Neck, ByKind("fpn")] = Pyramid()
    anchors: Anchors = Anchors()
    rpn: Rpn = Rpn()
    pool: Pool = Pool()
    head: Head = Head()
    detect: Detect = Detect()
    legacy_plus_one: bool = False
    """Count pixels as maskrcnn-benchmark does: a box's width is x2 − x1 + 1."""
    clip: Literal["size", "last_pixel"] = "size"
    """Where the head's boxes end at most: at the image's width and height W and H, or at W − 1 and
    H − 1 (MMDetection's boxes by buckets)."""
    clamp_shrinking: bool = True
    """Limit how far a box may shrink (to 1/62.5, as MMDetection does). Growth is always limited."""
    nms: Literal["exact", "mmdet", "torchvision"] = "exact"
    """Arithmetic of NMS over classes and levels: exact, or rounded as in that program."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        last_stages = sum(isinstance(branch, Res5Branch) for branch in self.head.branches)
        if last_stages != (self.neck.kind == "none"):
            raise ValueError("`neck.kind: none` and one branch of kind `res5` belong together")
        if self.neck.kind == "none" and self.backbone.frozen_stages > 4:
            raise ValueError("`backbone.frozen_stages` is at most 4 beside a `res5` branch")
        if self.neck.kind == "none" and self.backbone.kind != "resnet":
            raise ValueError("a `res5` branch takes its last stage from `backbone.kind: resnet`")
        sizes = self.anchors.sizes
        if self.neck.kind == "none" and sizes == "auto":
            raise ValueError("`anchors.sizes: auto` needs a pyramid, not `neck.kind: none`")
        if (
            not isinstance(self.neck, NoNeck)
            and sizes != "auto"
            and len(sizes) != len(self.neck.levels())
        ):
            got, levels = len(sizes), self.neck.levels()
            each = f"{levels[0]} … {levels[-1]}" if len(levels) > 1 else levels[0]
            raise ValueError(f"`anchors.sizes` needs one for each of {each}, got {got}")
        return self

    @model_validator(mode="after")
    def _fitting_branches(self) -> Self:
        judged = any(branch.focus == "iou" for branch in self.head.branches)
        if self.detect.nms.kind == "guided" and not judged:
            raise ValueError("`detect.nms.kind: guided` needs a branch with `focus: iou`")
        for branch in self.head.branches:
            if isinstance(branch, SideBranch) and branch.reg.count % self.pool.size:
                what = f"{branch.reg.count} buckets are no multiple of `pool.size` {self.pool.size}"
                raise ValueError(f"`{branch.name}`: {what}")
        return self

    def describe(self) -> list[tuple[str, str]]:
        """Its backbone, and each branch of its head."""
        branches = [row for branch in self.head.branches for row in branch.describe()]
        return self.backbone.describe() + branches + self.head.describe()


Model: TypeAlias = TwoStage | TorchVision | Queries | Detr | Dense
"""Every kind of detector. Each has a section `detect`: what it detects when nothing is asked."""

"""From a configuration to a detector. Modules take their own section of it and plain arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dhcli.config.heads import stage_heads
from dhcli.config.schema import (
    Backbone,
    Config,
    Detr,
    MapNeck,
    Neck,
    Pyramid,
    Queries,
    ResNet,
    TimmNet,
    TorchVision,
    TwoStage,
)
from dhcli.config.schema import DeformableHead as DeformableConfig
from dhcli.errors import ConfigError
from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.backbones.timm_net import TimmFeatures
from dhcli.models.contract import Detector, Features
from dhcli.models.detector import Pixels
from dhcli.models.necks import Fpn, LastFeatures, Maps
from dhcli.models.queries.deformable import DeformableHead
from dhcli.models.queries.detector import QueryDetector
from dhcli.models.queries.detr import DetrHead
from dhcli.models.queries.sparse import SparseHead
from dhcli.models.select import Nms, Select
from dhcli.models.torchvision import TorchVisionDetector
from dhcli.models.two_stage.branches import Res5Trunk
from dhcli.models.two_stage.cascade import Cascade
from dhcli.models.two_stage.detector import TwoStageDetector
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.models.two_stage.rpn import Rpn
from dhcli.ops.anchors import level_anchors
from dhcli.ops.box_rules import BoxRules


def build_detector(config: Config, classes: int) -> Detector:
    """The detector that `config` describes, for K = `classes`, with random weights.

    In channels_last memory, which convolutions on current CPUs and GPUs run fastest in.
    """
    detector = BUILDERS[type(config.model)](config, classes)
    return detector.to(memory_format=torch.channels_last)


def anchors_of(config: Config) -> list[tuple[int, Tensor]]:
    """Of each level that anchors lie on its stride in pixels, and those of a cell (A, 4) xyxy.

    Raises ConfigError for a detector of another program, which has its own.
    """
    model = _two_stage(config)
    with torch.device("meta"):
        neck, _, _ = _build_neck(_build_backbone(model.backbone), model.neck)
    return list(zip(neck.strides, level_anchors(model.anchors, neck.strides), strict=True))


def build_two_stage(config: Config, classes: int) -> TwoStageDetector:
    """Double-Head, and every other head of branches on proposals."""
    model = _two_stage(config)
    backbone = _build_backbone(model.backbone)
    neck, pooled, res5 = _build_neck(backbone, model.neck)
    sides = (config.input.min_size, config.input.max_size)
    one_scale = sides if config.input.resize == "mmdet1" else None
    rules = BoxRules(model.legacy_plus_one, model.clamp_shrinking, one_scale)
    nms = Nms(model.nms)
    pool = Pool(
        model.pool.size,
        model.pool.sampling_ratio,
        model.pool.aligned,
        pooled,
        legacy_plus_one=model.legacy_plus_one,
        level_epsilon=model.pool.level_epsilon,
        convention=model.pool.convention,
    )
    return TwoStageDetector(
        Pixels(config.input),
        backbone,
        neck,
        Rpn(neck.channels, neck.strides, model.anchors, model.rpn, rules, nms),
        _build_head(model, pool, neck.channels, classes, rules, res5),
        Select(rules, nms, classes),
        model.detect,
    )


def build_queries(config: Config, classes: int) -> QueryDetector:
    """Sparse R-CNN."""
    model = config.model
    assert isinstance(model, Queries)
    backbone = _build_backbone(model.backbone)
    neck, pooled = _build_pyramid(backbone, model.neck)
    pool = Pool(
        model.pool.size,
        model.pool.sampling_ratio,
        model.pool.aligned,
        pooled,
        level_epsilon=model.pool.level_epsilon,
    )
    head = SparseHead(model.head, pool, neck.channels, classes)
    return QueryDetector(Pixels(config.input), backbone, neck, head, model.loss, model.detect)


def build_detr(config: Config, classes: int) -> QueryDetector:
    """DETR and Deformable DETR."""
    model = config.model
    assert isinstance(model, Detr)
    backbone = _build_backbone(model.backbone)
    channels, strides, first = _used_levels(backbone, model.neck)
    extra = len(model.neck.strides()) - len(strides)
    neck = Maps(channels, strides, model.neck, extra, first)
    scores = classes + (model.loss.kind == "softmax")  # and the background
    head: nn.Module
    if isinstance(model.head, DeformableConfig):
        head = DeformableHead(model.head, neck.channels, len(neck.strides), scores)
    else:
        head = DetrHead(model.head, neck.channels, scores)
    return QueryDetector(Pixels(config.input), backbone, neck, head, model.loss, model.detect)


def _two_stage(config: Config) -> TwoStage:
    if isinstance(config.model, TwoStage):
        return config.model
    what = f"the anchors of a detector of kind `{config.model.kind}` are not measured"
    raise ConfigError(what, where="model.kind")


def _build_backbone(config: Backbone) -> Features:
    return BACKBONES[type(config)](config)


def _build_resnet(config: ResNet) -> Features:
    return ResNetFeatures(
        config.name,
        config.norm,
        config.frozen_stages,
        config.stride_in_1x1,
        config.bn_epsilon,
    )


def _build_timm(config: TimmNet) -> Features:
    return TimmFeatures(config.name, config.norm, config.frozen_stages)


def _build_head(model: TwoStage, *others: Any) -> Head | Cascade:
    """The head, or one for each stage of a cascade, which share the pool; `others` as of `Head`."""
    if not model.head.cascade:
        return Head(model.head, *others)
    return Cascade(model.head, [Head(stage, *others) for stage in stage_heads(model.head)])


def _build_neck(
    backbone: Features, config: Neck
) -> tuple[Fpn | LastFeatures, Sequence[int], Res5Trunk | None]:
    """The neck, the strides of the levels that RoIs are pooled from, the last stage if taken."""
    if isinstance(config, Pyramid):
        return *_build_pyramid(backbone, config), None
    assert isinstance(backbone, ResNetFeatures)  # the configuration sees to it
    width = backbone.channels[-1]
    res5 = Res5Trunk(backbone.take_last_stage(), width)
    return LastFeatures(backbone.channels, backbone.strides), backbone.strides[-1:], res5


def _build_pyramid(backbone: Features, config: Pyramid) -> tuple[Fpn, Sequence[int]]:
    """The pyramid of the levels asked for, and the strides of those that the backbone has."""
    channels, used, first = _used_levels(backbone, config)
    extra = len(config.strides()) - len(used)
    return Fpn(channels, used, config.channels, extra, first), used


def _used_levels(backbone: Features, config: Pyramid | MapNeck) -> tuple[list[int], list[int], int]:
    """Channels and strides of the backbone's levels that a neck sees, the number of the first."""
    wanted = config.strides()
    used = [stride for stride in wanted if stride in backbone.strides]
    if not used or wanted[: len(used)] != used:
        has = ", ".join(map(str, backbone.strides))
        what = f"starts at stride {wanted[0]}, but the backbone has strides {has}"
        raise ConfigError(what, where="model.neck.finest")
    channels = [backbone.channels[backbone.strides.index(stride)] for stride in used]
    return channels, used, backbone.strides.index(used[0])


BACKBONES: dict[type[Any], Callable[[Any], Features]] = {
    ResNet: _build_resnet,
    TimmNet: _build_timm,
}
"""What builds a backbone, by the class of its section `backbone`."""
BUILDERS: dict[type[Any], Callable[[Config, int], Detector]] = {
    TwoStage: build_two_stage,
    TorchVision: TorchVisionDetector,
    Queries: build_queries,
    Detr: build_detr,
}
"""What builds a detector, by the class of its section `model`."""

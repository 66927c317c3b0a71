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
    Csp,
    Dense,
    Detr,
    Dilated,
    LevelNeck,
    MapNeck,
    Neck,
    NoNeck,
    PathPyramid,
    Pvt,
    Pyramid,
    Queries,
    ResNet,
    TimmNet,
    TorchVision,
    TwoStage,
)
from dhcli.config.schema import DeformableHead as DeformableConfig
from dhcli.config.schema import Pool as PoolConfig
from dhcli.config.schema.dense import DistanceBoxes
from dhcli.errors import ConfigError
from dhcli.models.backbones.csp import CspFeatures
from dhcli.models.backbones.pvt import PvtFeatures
from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.backbones.timm_net import TimmFeatures
from dhcli.models.contract import Detector, Features
from dhcli.models.dense.coders import CODERS
from dhcli.models.dense.detector import DenseDetector
from dhcli.models.dense.head import DenseHead, Towers
from dhcli.models.dense.select import SelectDense
from dhcli.models.dense.star import StarTowers
from dhcli.models.detector import Pixels
from dhcli.models.init import Undrawn
from dhcli.models.necks import DilatedEncoder, Fpn, LastFeatures, Maps, PaFpn
from dhcli.models.norms import norm_layer
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


def describe_detector(config: Config, classes: int) -> Detector:
    """The detector without values or memory for them (on `meta`): names and shapes."""
    with torch.device("meta"), Undrawn():
        return build_detector(config, classes)


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
    ends = rules._replace(last_pixel=model.clip == "last_pixel")
    pool = _build_pool(model.pool, pooled, legacy_plus_one=model.legacy_plus_one)
    return TwoStageDetector(
        Pixels(config.input),
        backbone,
        neck,
        Rpn(neck.channels, neck.strides, model.anchors, model.rpn, rules, nms),
        _build_head(model, pool, neck.channels, classes, ends, res5),
        Select(ends, nms, classes),
        model.detect,
    )


def build_queries(config: Config, classes: int) -> QueryDetector:
    """Sparse R-CNN."""
    model = config.model
    assert isinstance(model, Queries)
    backbone = _build_backbone(model.backbone)
    neck, pooled = build_levels(backbone, model.neck)
    pool = _build_pool(model.pool, pooled)
    head = SparseHead(model.head, pool, neck.channels, classes)
    return QueryDetector(Pixels(config.input), backbone, neck, head, model.loss, model.detect)


def build_dense(config: Config, classes: int) -> DenseDetector:
    """RetinaNet, FCOS, ATSS, PAA, VarifocalNet, YOLOF, YOLOX."""
    model = config.model
    assert isinstance(model, Dense)
    backbone = _build_backbone(model.backbone)
    neck, _ = build_levels(backbone, model.neck)
    count = 1 if model.head.shared else len(neck.strides)
    towers = [_build_towers(model, neck.channels, classes) for _ in range(count)]
    coder = CODERS[type(model.boxes)](model.boxes)
    return DenseDetector(
        Pixels(config.input),
        backbone,
        neck,
        DenseHead(model.head, towers, neck.strides, classes),
        coder,
        SelectDense(coder, Nms(model.nms), classes),
        model,
        config.input.pad_to(),
    )


def _build_towers(model: Dense, channels: int, classes: int) -> Towers:
    """The towers that levels share, or those of one."""
    if isinstance(model.boxes, DistanceBoxes) and model.head.refine == "star":
        return StarTowers(model.head, channels, classes, model.boxes.unit)
    return Towers(model.head, channels, model.priors.per_cell(), classes)


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


def _build_pool(
    config: PoolConfig, strides: Sequence[int], *, legacy_plus_one: bool = False
) -> Pool:
    return Pool(
        config.size,
        config.sampling_ratio,
        config.aligned,
        strides,
        legacy_plus_one=legacy_plus_one,
        level_epsilon=config.level_epsilon,
        convention=config.convention,
    )


def _build_neck(backbone: Features, config: Neck) -> tuple[Any, Sequence[int], Res5Trunk | None]:
    """The neck, the strides of the levels that RoIs are pooled from, the last stage if taken."""
    if not isinstance(config, NoNeck):
        return *build_levels(backbone, config), None
    assert isinstance(backbone, ResNetFeatures)  # the configuration sees to it
    width = backbone.channels[-1]
    res5 = Res5Trunk(backbone.take_last_stage(), width)
    return LastFeatures(backbone.channels, backbone.strides), backbone.strides[-1:], res5


def build_levels(backbone: Features, config: LevelNeck) -> tuple[Any, Sequence[int]]:
    """The neck, with its `channels` and `strides`, and the strides of the maps that it takes.

    Raises ConfigError where the backbone does not have these.
    """
    return NECKS[type(config)](backbone, config)


def _build_dilated(backbone: Features, config: Dilated) -> tuple[DilatedEncoder, list[int]]:
    [inputs] = _channels_at(backbone, config.strides())
    shape = config.channels, config.width, config.dilations
    return DilatedEncoder(inputs, norm_layer(config.norm), *shape), config.strides()


def _build_pafpn(backbone: Features, config: PathPyramid) -> tuple[PaFpn, list[int]]:
    norm = norm_layer("bn", config.bn_epsilon, config.bn_momentum)
    inputs = _channels_at(backbone, config.strides())
    neck = PaFpn(inputs, norm, config.channels, config.blocks, config.depthwise)
    return neck, config.strides()


def _channels_at(backbone: Features, strides: Sequence[int]) -> list[int]:
    """The channels of the last features of `backbone`, which have these strides."""
    if list(strides) != backbone.strides[-len(strides) :]:
        wanted, has = (", ".join(map(str, some)) for some in (strides, backbone.strides))
        what = f"takes features of strides {wanted}, but the backbone has strides {has}"
        raise ConfigError(what, where="model.neck.kind")
    return backbone.channels[-len(strides) :]


def _build_pyramid(backbone: Features, config: Pyramid) -> tuple[Fpn, Sequence[int]]:
    """The pyramid of the levels asked for, and the strides of those that the backbone has."""
    channels, used, first = _used_levels(backbone, config)
    extra = len(config.strides()) - len(used)
    beyond = config.extra, config.extra_relu
    return Fpn(channels, used, config.channels, extra, first, *beyond), used


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
    Csp: CspFeatures,
    Pvt: PvtFeatures.of,
}
"""What builds a backbone, by the class of its section `backbone`."""
NECKS: dict[type[Any], Callable[[Features, Any], tuple[Any, Sequence[int]]]] = {
    Pyramid: _build_pyramid,
    Dilated: _build_dilated,
    PathPyramid: _build_pafpn,
}
"""What builds a neck, by the class of its section `neck`."""
BUILDERS: dict[type[Any], Callable[[Config, int], Detector]] = {
    TwoStage: build_two_stage,
    TorchVision: TorchVisionDetector,
    Queries: build_queries,
    Dense: build_dense,
    Detr: build_detr,
}
"""What builds a detector, by the class of its section `model`."""

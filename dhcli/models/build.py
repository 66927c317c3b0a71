"""From configuration to modules: the only place that knows both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from dhcli.config.schema import Config, Neck
from dhcli.models.backbones.resnet import Backbone
from dhcli.models.detector import Detector
from dhcli.models.necks import Fpn, LastFeatures
from dhcli.models.two_stage.branches import Res5Trunk
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.models.two_stage.rpn import Rpn
from dhcli.ops.anchors import C4_STRIDES, STRIDES
from dhcli.ops.box_rules import BoxRules


def build_detector(config: Config, classes: int) -> Detector:
    """The detector that `config` describes, for K = `classes`, with random weights.

    In channels_last memory, which convolutions on current CPUs and GPUs run fastest in.
    """
    model = config.model
    backbone = Backbone(
        model.backbone.name,
        model.backbone.norm,
        model.backbone.frozen_stages,
        model.backbone.stride_in_1x1,
        model.backbone.bn_epsilon,
    )
    neck, channels, strides, res5 = _features(backbone, model.neck)
    rules = BoxRules(model.legacy_plus_one, model.clamp_shrinking, model.nms)
    pool = Pool(
        model.pool.size,
        model.pool.sampling_ratio,
        model.pool.aligned,
        model.legacy_plus_one,
        model.pool.level_epsilon,
        strides[:4],
    )
    detector = Detector(
        backbone,
        neck,
        Rpn(channels, model.anchors, model.rpn, rules, strides),
        Head(model.head, pool, channels, classes, rules, res5),
        config.input,
        model.detect,
    )
    return detector.to(memory_format=torch.channels_last)


def _features(
    backbone: Backbone, config: Neck
) -> tuple[nn.Module, int, Sequence[int], Res5Trunk | None]:
    """The neck, the channels and strides of its features, and the last stage if the head has it."""
    if config.kind == "fpn":
        return Fpn(backbone.channels, config.channels), config.channels, STRIDES, None
    width = backbone.channels[-1]
    res5 = Res5Trunk(backbone.take_last_stage(), width)
    return LastFeatures(), backbone.channels[-1], C4_STRIDES, res5

"""From configuration to modules: the only place that knows both."""

from __future__ import annotations

import torch

from dhcli.config.schema import Config
from dhcli.model.backbone import Backbone
from dhcli.model.detector import Detector
from dhcli.model.head import Head
from dhcli.model.neck import Fpn
from dhcli.model.pool import Pool
from dhcli.model.rpn import Rpn
from dhcli.ops.conventions import BoxRules


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
    channels = model.neck.channels
    rules = BoxRules(model.legacy_plus_one, model.clamp_shrinking, model.nms)
    pool = Pool(
        model.pool.size,
        model.pool.sampling_ratio,
        model.pool.aligned,
        model.legacy_plus_one,
        model.pool.level_epsilon,
    )
    detector = Detector(
        backbone,
        Fpn(backbone.channels, channels),
        Rpn(channels, model.anchors, model.rpn, rules),
        Head(model.head, pool, channels, classes, rules),
        config.input,
        model.detect,
    )
    return detector.to(memory_format=torch.channels_last)

"""Megvii's YOLOX: MMDetection's under other names, and sides of resized images rounded down."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, Dense
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet import yolox

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "YOLOX (Megvii)"
CLASSIFIER = "head.cls_preds.0.weight"
CLASSIFIERS: tuple[str, ...] = (CLASSIFIER,)
ANCHORS = ""
LEFT: dict[str, str] = {}
COCO_CLASSES = 80

LAYER = r"(?:backbone\.stage\d\.\d|neck\.\w+_blocks\.\d)"
NAMES: tuple[tuple[str, str], ...] = (
    (rf"^({LAYER})\.main_conv\.", r"\1.conv1."),
    (rf"^({LAYER})\.short_conv\.", r"\1.conv2."),
    (rf"^({LAYER})\.final_conv\.", r"\1.conv3."),
    (rf"^({LAYER})\.blocks\.", r"\1.m."),
    (r"\.depthwise_conv\.", ".dconv."),
    (r"\.pointwise_conv\.", ".pconv."),
    (r"^backbone\.stem\.", "backbone.backbone.stem."),
    (r"^backbone\.stage1\.", "backbone.backbone.dark2."),
    (r"^backbone\.stage2\.", "backbone.backbone.dark3."),
    (r"^backbone\.stage3\.", "backbone.backbone.dark4."),
    (r"^backbone\.stage4\.", "backbone.backbone.dark5."),
    (r"^neck\.reduce_layers\.0\.", "backbone.lateral_conv0."),
    (r"^neck\.reduce_layers\.1\.", "backbone.reduce_conv1."),
    (r"^neck\.top_down_blocks\.0\.", "backbone.C3_p4."),
    (r"^neck\.top_down_blocks\.1\.", "backbone.C3_p3."),
    (r"^neck\.downsamples\.0\.", "backbone.bu_conv2."),
    (r"^neck\.downsamples\.1\.", "backbone.bu_conv1."),
    (r"^neck\.bottom_up_blocks\.0\.", "backbone.C3_n3."),
    (r"^neck\.bottom_up_blocks\.1\.", "backbone.C3_n4."),
    (r"^neck\.out_convs\.", "head.stems."),
    (r"^bbox_head\.multi_level_(cls|reg)_convs\.", r"head.\1_convs."),
    (r"^bbox_head\.multi_level_conv_(cls|reg|obj)\.", r"head.\1_preds."),
)
"""What MMDetection's name has → what Megvii's has, one after another."""


def rename(name: str) -> str:
    """Megvii's name of a tensor, from MMDetection's."""
    for pattern, other in NAMES:
        name = re.sub(pattern, other, name)
    return name


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are Megvii's."""
    return CLASSIFIER in state and "backbone.backbone.stem.conv.conv.weight" in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: there is no background."""
    return len(state[CLASSIFIER])


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """Those of MMDetection, from the same shapes."""
    found = yolox.settings(state, file, rename)
    own = {"name": found["name"].replace("mmdet", "megvii")}
    own["about"] = found["about"].replace("MMDetection's", "Megvii's")
    return {**found, **own, "input": {**found["input"], "resize": "torchvision"}}


def text(config: Config) -> str:
    """Nothing stands in its files but tensors."""
    return ""


def misfit(config: Config) -> str | None:
    """Why Megvii has no such detector; None if it has."""
    return yolox.misfit(config) if isinstance(config.model, Dense) else "it is not YOLOX"


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's."""
    for pair in yolox.pairs(config):
        yield replace(pair, theirs=rename(pair.theirs))

"""torchvision's Faster R-CNN with FPN (`fasterrcnn_resnet50_fpn`, or another ResNet).

Boxes have a slot for the background. `_v2` does not fit: its RPN has two convolutions, its pyramid
batch norm, and its head four convolutions of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, says_buckets
from dhcli.errors import ModelError
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "torchvision"
CLASSIFIERS: tuple[str, ...] = ("roi_heads.box_predictor.cls_score.weight",)
ANCHORS = ""
LEFT: dict[str, str] = {}
COCO_CLASSES = 90
"""Slots of COCO's ids 1 … 90, ten of which name nothing."""

INPUT = {"resize": "torchvision", "interpolation": "float"}
BACKBONE = {"frozen_stages": 2}
RPN = {"proposals_train": 2000, "smooth_l1_beta": 1 / 9, "min_size": 1e-3}
MODEL = {
    "anchors": {"convention": "torchvision"},
    "pool": {"sampling_ratio": 2, "aligned": False, "level_epsilon": 2e-6},
    "detect": {"nms_on": "resized", "min_size": 1e-2},
    "clamp_shrinking": False,
    "nms": "torchvision",
}

HEAD = "roi_heads"
OLD = r"^backbone\.fpn\.(inner|layer)_blocks\.\d"
OLD_CONV = r"^rpn\.head\.conv"
PUBLISHED = "258fb6c6"
"""In the name of the file that torchvision publishes."""


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's detectors. Raises ModelError for a `_v2`."""
    if CLASSIFIERS[0] not in state or not any(name.startswith("backbone.fpn.") for name in state):
        return False
    if "rpn.head.conv.1.0.weight" in state:
        what = "is torchvision's `fasterrcnn_resnet50_fpn_v2`, whose RPN, pyramid and head have "
        hint = "`--weights torchvision:fasterrcnn_resnet50_fpn_v2` takes it as it is"
        raise ModelError(f"{what}layers that dh does not have", hint=hint)
    return True


def modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under present names, where torchvision before 0.13 named them."""
    if "backbone.fpn.inner_blocks.0.weight" not in state:
        return dict(state)
    return {re.sub(OLD, r"\g<0>.0", re.sub(OLD_CONV, r"\g<0>.0.0", k)): x for k, x in state.items()}


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: one row is the background's."""
    return len(state[CLASSIFIERS[0]]) - 1


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions.

    A backbone without batch norm's counters was frozen, with an epsilon that the file does not
    hold: 1e-5, but 0 in the published file.
    """
    channels = state["rpn.head.conv.0.0.weight"].shape[0]
    first = state[f"{HEAD}.box_head.fc6.weight"]
    frozen = f"backbone.body.bn1.{p.COUNTER}" not in state
    name = p.read_depth(state, "backbone.body.layer{stage}")
    epsilon = {"bn_epsilon": 0.0} if PUBLISHED in file else {}
    norm = "frozen_bn" if frozen else "bn"
    backbone = {**BACKBONE, **epsilon, "name": name, "norm": norm}
    pool = {**MODEL["pool"], "size": p.side_of(first, channels)}  # type: ignore[dict-item]
    head = p.single_fc(2, first.shape[0], background_box=True, smooth_l1_beta=1 / 9)
    neck = {"channels": channels}
    model = {**MODEL, "backbone": backbone, "neck": neck, "rpn": RPN, "pool": pool, "head": head}
    return {"about": "Faster R-CNN", "input": INPUT, "model": model}


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of torchvision's state dict."""
    yield from p.resnet(p.depth_of(config), lambda name: f"backbone.body.{name}")
    for kind, ours in (("inner_blocks", "lateral"), ("layer_blocks", "output")):
        for level in range(4):
            yield from p.layer(f"backbone.fpn.{kind}.{level}.0", f"neck.{ours}.{level}")
    for theirs, ours in (("conv.0.0", "conv"), ("cls_logits", "cls"), ("bbox_pred", "reg")):
        yield from p.layer(f"rpn.head.{theirs}", f"rpn.{ours}")
    fc = p.fc_branch(config)
    assert fc is not None
    yield from p.fc_layers(fc, (f"{HEAD}.box_head.fc6", f"{HEAD}.box_head.fc7"))
    for theirs, ours in (("cls_score", "cls"), ("bbox_pred", "reg")):
        yield from p.layer(f"{HEAD}.box_predictor.{theirs}", f"head.branches.{fc.name}.{ours}")


def text(config: Config) -> str:
    """Its files hold no configuration."""
    return ""


def misfit(config: Config) -> str | None:
    """Why torchvision has no such detector; None if it has."""
    if reason := p.misfit(config):
        return reason
    fc = p.fc_branch(config)
    if fc is None or len(p.model_of(config).head.branches) > 1:
        return "its head is not a single fc branch"
    if says_buckets(fc):
        return "its boxes are said by buckets"
    if p.model_of(config).head.cascade:
        return "its head is a cascade"
    if not p.model_of(config).head.background_box:
        return "it has no box regression for the background (model.head.background_box)"
    if p.model_of(config).head.class_agnostic:
        return "all classes share its boxes (model.head.class_agnostic)"
    return None if fc.layers == 2 else f"its branch has {fc.layers} layers, not 2"

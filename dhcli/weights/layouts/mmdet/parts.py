"""What several families of MMDetection have: backbone, pyramid, RPN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, Pvt
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

INPUT = {"interpolation": "cv2"}
BACKBONE = {"norm": "eval_bn", "frozen_stages": 2}
PYRAMID = "neck.lateral_convs.0.conv.weight"


def backbone_settings(
    state: Mapping[str, Tensor], conventions: Mapping[str, Any] = BACKBONE
) -> dict[str, Any]:
    """The section `model.backbone` of a ResNet, with its `conventions`, or of a PVT."""
    if pvt := p.read_pvt(state):
        return {"kind": "pvt", "name": pvt, "weights": "none"}
    named = {"name": p.read_depth(state, "backbone.layer{stage}")}
    return {**conventions, **named}


def backbone(config: Config) -> p.Pairs:
    """A ResNet, or a PVT."""
    if isinstance(config.model.backbone, Pvt):
        yield from p.pvt(config.model.backbone.name)
    else:
        yield from p.resnet(p.depth_of(config), lambda name: f"backbone.{name}")


def pyramid() -> p.Pairs:
    """P2 … P5."""
    for kind, ours in (("lateral_convs", "lateral"), ("fpn_convs", "output")):
        for level in range(4):
            yield from p.layer(f"neck.{kind}.{level}.conv", f"neck.{ours}.{level}")


def body(config: Config) -> p.Pairs:
    """Backbone, pyramid and RPN."""
    yield from backbone(config)
    yield from pyramid()
    for part in ("conv", "cls", "reg"):
        yield from p.layer(f"rpn_head.rpn_{part}", f"rpn.{part}")

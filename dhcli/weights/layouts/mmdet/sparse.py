"""Sparse R-CNN (`sparse_rcnn_r50_fpn_1x_coco` and its relatives).

No background, boxes that all classes share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, Queries, ResNet
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet import parts

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIERS: tuple[str, ...] = ("roi_head.bbox_head.0.fc_cls.weight",)
BOXES = "rpn_head.init_proposal_bboxes.weight"
FEATURES = "rpn_head.init_proposal_features.weight"
HEAD = "roi_head.bbox_head"
DYNAMIC = "instance_interactive_conv"


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the file is Sparse R-CNN's."""
    return BOXES in state and CLASSIFIERS[0] in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K."""
    return len(state[CLASSIFIERS[0]])


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    count, channels = state[FEATURES].shape
    first = f"{HEAD}.0"
    cells = state[f"{first}.{DYNAMIC}.fc_layer.weight"]
    head = {
        "kind": "sparse",
        "proposals": count,
        "stages": sum(f"{HEAD}.{stage}.fc_cls.weight" in state for stage in range(99)),
        "dynamic_width": state[f"{first}.{DYNAMIC}.norm_in.weight"].shape[0],
        "ffn_width": state[f"{first}.ffn.layers.0.0.weight"].shape[0],
        **{
            f"{task}_layers": sum(f"{first}.{task}_fcs.{3 * i}.weight" in state for i in range(99))
            for task in ("cls", "reg")
        },
    }
    model = {
        "kind": "queries",
        "backbone": parts.backbone_settings(state),
        "neck": {"finest": 2, "coarsest": 5, "channels": channels},
        "pool": {
            "size": p.side_of(cells, channels),
            "sampling_ratio": 2,
            "aligned": True,
            "level_epsilon": 1e-6,
        },
        "head": head,
        "detect": {"score_threshold": 0.0, "max_detections": count},
    }
    return {"about": "Sparse R-CNN", "input": parts.INPUT, "model": model}


def is_kin(config: Config) -> bool:
    """Whether it learns its proposals."""
    return isinstance(config.model, Queries)


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    model = config.model
    assert isinstance(model, Queries)
    yield from parts.backbone(config)
    yield from parts.pyramid()
    yield p.Pair(BOXES, "head.boxes")
    yield p.Pair(FEATURES, "head.features")
    for stage in range(model.head.stages):
        theirs, ours = f"{HEAD}.{stage}", f"head.stages.{stage}"
        for task in ("cls", "reg"):
            yield from p.layer(f"{theirs}.fc_{task}", f"{ours}.{task}")
        for part in ("weight", "bias"):
            name = f"{theirs}.attention.attn.in_proj_{part}"
            yield p.Pair(name, f"{ours}.attention.inputs.{part}")
        for name, own in PARTS.items():
            yield from p.layer(f"{theirs}.{name}", f"{ours}.{own}")
        for task, layers in (("cls", model.head.cls_layers), ("reg", model.head.reg_layers)):
            for first in range(0, 3 * layers, 3):
                names = f"{theirs}.{task}_fcs", f"{ours}.{task}_tower"
                yield p.Pair(f"{names[0]}.{first}.weight", f"{names[1]}.{first}.weight")
                yield from p.layer(*(f"{one}.{first + 1}" for one in names))


PARTS = {
    "attention.attn.out_proj": "attention.output",
    "attention_norm": "attention_norm",
    f"{DYNAMIC}.dynamic_layer": "dynamic.weights",
    f"{DYNAMIC}.norm_in": "dynamic.norm_in",
    f"{DYNAMIC}.norm_out": "dynamic.norm_out",
    f"{DYNAMIC}.fc_layer": "dynamic.fc",
    f"{DYNAMIC}.fc_norm": "dynamic.fc_norm",
    f"{DYNAMIC}_norm": "dynamic_norm",
    "ffn.layers.0.0": "ffn.0",
    "ffn.layers.1": "ffn.2",
    "ffn_norm": "ffn_norm",
}
"""Layers of a stage under both names, in their order."""


def text(config: Config) -> str:
    """Its tensors say what it is."""
    return ""


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    model = config.model
    assert isinstance(model, Queries)
    if not isinstance(model.backbone, ResNet) or model.backbone.norm == "gn":
        return "its backbone is not a ResNet with batch norm"
    if model.neck.levels() != ["P2", "P3", "P4", "P5"]:
        return "its pyramid is not P2 … P5"
    return None

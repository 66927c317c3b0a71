"""RetinaNet, FCOS, ATSS, PAA, VarifocalNet and YOLOF.

No background. ATSS and PAA have the same tensors: what tells them apart is the configuration in the
file, or its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, Dense, Dilated, Pvt, Pyramid, ResNet
from dhcli.errors import ModelError
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet import parts

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "bbox_head"
OURS = "head.towers.0"
CAFFE = {"channels": "bgr", "mean": [103.53, 116.28, 123.675], "std": [1.0, 1.0, 1.0]}
DETECTRON = {**CAFFE, "mean": [102.9801, 115.9465, 122.7717]}
"""Caffe's, with the mean that Detectron had."""


@dataclass(frozen=True)
class Kind:
    """One of the detectors.

    classifier  its tensor that scores classes
    title       what it is called;  head  its class there
    input       what of the section `input` is not the layout's
    model       its conventions, beside what the shapes say
    """

    classifier: str
    title: str
    head: str
    model: Mapping[str, Any]
    input: Mapping[str, Any]


FOCAL = {"kind": "focal"}
LEFT_OUT = {"padding": "left_out"}
DELTAS = {"kind": "deltas", "std": [0.1, 0.1, 0.2, 0.2]}
ANCHOR = {"sizes": [8.0], "ratios": [1.0]}
COMMON: dict[str, Any] = {
    "kind": "dense",
    "backbone": parts.BACKBONE,
    "priors": ANCHOR,
    "nms": "mmdet",
}
RETINANET: dict[str, Any] = {
    **COMMON,
    "priors": {"sizes": [4 * 2 ** (n / 3) for n in range(3)], "ratios": [0.5, 1.0, 2.0]},
    "boxes": {"kind": "deltas", "std": [1.0] * 4},
    "assign": {"kind": "iou"},
    "head": {"norm": "none"},
    "loss": {"cls": FOCAL, "box": "l1", "box_weight": 1.0, **LEFT_OUT},
    "detect": {"nms_threshold": 0.5},
}
FCOS: dict[str, Any] = {
    **COMMON,
    "backbone": {"norm": "frozen_bn", "frozen_stages": 2, "stride_in_1x1": True},
    "priors": {"sizes": [1.0], "offset": 0.5},
    "boxes": {"kind": "distances", "unit": 0.0},
    "assign": {"kind": "ranges", "radius": 0.0},
    "head": {"level_scales": True, "quality": "centerness", "quality_tower": "cls"},
    "loss": {
        "cls": FOCAL,
        "box": "log_iou",
        "box_weight": 1.0,
        "weigh_by": "centerness",
        "least_weight": 0.0,
        "count": "one",
    },
    "detect": {"threshold_on": "class", "nms_threshold": 0.5},
}
ATSS: dict[str, Any] = {
    **COMMON,
    "boxes": DELTAS,
    "assign": {"kind": "atss"},
    "head": {"level_scales": True, "quality": "centerness"},
    "loss": {"cls": FOCAL, "box_weight": 2.0, "weigh_by": "centerness", **LEFT_OUT},
    "detect": {"threshold_on": "class"},
}
PAA: dict[str, Any] = {
    **COMMON,
    "boxes": DELTAS,
    "assign": {"kind": "mixture"},
    "head": {"level_scales": True, "quality": "iou"},
    "loss": {
        "cls": FOCAL,
        "box_weight": 1.3,
        "weigh_by": "iou",
        "least_weight": 0.0,
        "quality_weight": 0.5,
        "count": "images",
        **LEFT_OUT,
    },
    "detect": {"quality": "root", "candidates_of": "cells", "voting": True},
}
VARIFOCAL: dict[str, Any] = {
    **COMMON,
    "boxes": {"kind": "distances", "unit": 8.0},
    "assign": {"kind": "atss"},
    "head": {"level_scales": True, "refine": "star"},
    "loss": {
        "cls": {"kind": "varifocal"},
        "box_weight": 1.5,
        "refined_weight": 2.0,
        "weigh_by": "iou",
        "count": "one",
        "padding": "background",
    },
    "detect": {},
}
YOLOF: dict[str, Any] = {
    **COMMON,
    "backbone": {"norm": "frozen_bn", "frozen_stages": 2, "stride_in_1x1": True},
    "boxes": {"kind": "deltas", "std": [1.0] * 4, "clamp": "growth", "max_shift": 32.0},
    "assign": {"kind": "uniform"},
    "head": {"norm": "bn", "quality": "implicit"},
    "loss": {"cls": FOCAL, "box_weight": 1.0, **LEFT_OUT},
    "detect": {},
}

KINDS = {
    kind.title: kind
    for kind in (
        Kind(f"{HEAD}.retina_cls.weight", "RetinaNet", "RetinaHead", RETINANET, {}),
        Kind(f"{HEAD}.conv_cls.weight", "FCOS", "FCOSHead", FCOS, DETECTRON),
        Kind(f"{HEAD}.atss_cls.weight", "ATSS", "ATSSHead", ATSS, {}),
        Kind(f"{HEAD}.atss_cls.weight", "PAA", "PAAHead", PAA, {}),
        Kind(f"{HEAD}.vfnet_cls.weight", "VarifocalNet", "VFNetHead", VARIFOCAL, {}),
        Kind(f"{HEAD}.cls_score.weight", "YOLOF", "YOLOFHead", YOLOF, CAFFE),
    )
}
CLASSIFIERS = tuple(dict.fromkeys(kind.classifier for kind in KINDS.values()))


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the file is one of theirs."""
    if CLASSIFIERS[-1] in state:
        return f"{HEAD}.object_pred.weight" in state
    return any(name in state for name in CLASSIFIERS)


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: RetinaNet and YOLOF have a row for each prior of a cell and class."""
    rows = len(next(state[name] for name in CLASSIFIERS if name in state))
    if (boxes := state.get(f"{HEAD}.retina_reg.weight")) is not None:
        return rows * 4 // len(boxes)
    priors = state.get(f"{HEAD}.object_pred.weight")
    return rows if priors is None else rows // len(priors)


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What shapes, names and conventions say.

    `file` is the configuration that the file holds, if any, and its name. Raises ModelError where
    neither tells ATSS from PAA, and for an FCOS that says its boxes otherwise.
    """
    kind = _which(state, file)
    if kind.title == "FCOS":
        _assert_plain_fcos(state, file)
    head = {
        f"{task}_layers": sum(f"{HEAD}.{tower}.{i}.conv.weight" in state for i in range(99))
        for task, tower in zip(("cls", "reg"), _towers(kind.title), strict=True)
    }
    head["width"] = state[f"{HEAD}.{_towers(kind.title)[0]}.0.conv.weight"].shape[0]
    model = {**kind.model, "head": {**kind.model["head"], **head}, "neck": _neck(state, kind)}
    if kind.title == "YOLOF":
        count = len(state[f"{HEAD}.object_pred.weight"])
        model["priors"] = {"sizes": [float(1 << n) for n in range(count)], "ratios": [1.0]}
    model["backbone"] = parts.backbone_settings(state, kind.model["backbone"])
    return {"about": kind.title, "input": {**parts.INPUT, **kind.input}, "model": model}


def _which(state: Mapping[str, Tensor], file: str) -> Kind:
    possible = [kind for kind in KINDS.values() if kind.classifier in state]
    if len(possible) == 1:
        return possible[0]
    for found in (
        [kind for kind in possible if kind.head in file],
        [kind for kind in possible if re.search(kind.title, file, re.IGNORECASE)],
    ):
        if len(found) == 1:
            return found[0]
    titles = " and ".join(kind.title for kind in possible)
    what = f"{titles} have the same tensors, and neither the configuration in the file nor its name"
    hint = "name the file after its detector: atss_….pth or paa_….pth"
    raise ModelError(f"{what} says which it is", where=_name(file), hint=hint)


def _name(file: str) -> str:
    """The name of the file, without its configuration."""
    return file.rsplit("\n", 1)[-1]


def _assert_plain_fcos(state: Mapping[str, Tensor], file: str) -> None:
    """Later configurations (`center-normbbox-…`) have the same shapes, and biases that tell."""
    told = re.search(r"(norm_on_bbox|centerness_on_reg)\W+True", file)
    if told is None and f"{HEAD}.cls_convs.0.conv.bias" not in state:
        return
    what = "FCOS with `norm_on_bbox` and `centerness_on_reg` is not read, the plain one is"
    hint = "fcos_r50_caffe_fpn_gn-head_1x_coco-….pth, or torchvision:fcos_resnet50_fpn"
    raise ModelError(what, where=_name(file), hint=hint)


def _neck(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Any]:
    lateral = state.get("neck.lateral_convs.0.conv.weight")
    if lateral is not None and kind.title == "YOLOF":
        return {"kind": "fpn", "finest": 5, "coarsest": 5, "channels": lateral.shape[0]}
    if lateral is not None:
        pyramid = {"kind": "fpn", "finest": 3, "coarsest": 7, "channels": lateral.shape[0]}
        extra = "on_input" if kind.title == "RetinaNet" else "on_output"
        return {**pyramid, "extra": extra, "extra_relu": kind.title in ("VarifocalNet", "FCOS")}
    blocks = sum(f"{ENCODER}.{i}.conv1.conv.weight" in state for i in range(99))
    return {
        "kind": "dilated",
        "channels": state["neck.lateral_conv.weight"].shape[0],
        "width": state[f"{ENCODER}.0.conv1.conv.weight"].shape[0],
        "dilations": [2 * (block + 1) for block in range(blocks)],
    }


ENCODER = "neck.dilated_encoder_blocks"


def _towers(title: str) -> tuple[str, str]:
    return ("cls_subnet", "bbox_subnet") if title == "YOLOF" else ("cls_convs", "reg_convs")


def title_of(model: Dense) -> str | None:
    """Which of theirs `model` is by its parts; None: of none."""
    head, assigner = model.head, model.assign.kind
    told = (assigner, head.quality, head.refine, head.norm, model.neck.kind, head.level_scales)
    return {
        ("iou", "none", "none", "none", "fpn", False): "RetinaNet",
        ("ranges", "centerness", "none", "gn", "fpn", True): "FCOS",
        ("atss", "centerness", "none", "gn", "fpn", True): "ATSS",
        ("mixture", "iou", "none", "gn", "fpn", True): "PAA",
        ("atss", "none", "star", "gn", "fpn", True): "VarifocalNet",
        ("uniform", "implicit", "none", "bn", "dilated", False): "YOLOF",
        ("uniform", "implicit", "none", "bn", "fpn", False): "YOLOF",
    }.get(told)


def text(config: Config) -> str:
    """What a configuration of MMDetection would say of it, for what the tensors do not."""
    assert isinstance(config.model, Dense)
    title = title_of(config.model)
    return f"model = dict(bbox_head=dict(type='{KINDS[title].head}'))" if title else ""


def is_kin(config: Config) -> bool:
    """Whether it is of one stage."""
    return isinstance(config.model, Dense)


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    model = config.model
    assert isinstance(model, Dense)
    yield from parts.backbone(config)
    if isinstance(model.neck, Dilated):
        yield from _dilated(model.neck)
    else:
        levels = len(model.neck.strides())
        lateral = sum(stride <= 32 for stride in model.neck.strides())
        for level in range(lateral):
            yield from p.layer(f"neck.lateral_convs.{level}.conv", f"neck.lateral.{level}")
        for level in range(levels):
            further = f"neck.further.{level - lateral}"
            ours = f"neck.output.{level}" if level < lateral else further
            yield from p.layer(f"neck.fpn_convs.{level}.conv", ours)
    towers, norm = _towers(title_of(model) or ""), model.head.norm
    for task, theirs, count in zip(
        ("cls_convs", "reg_convs"), towers, (model.head.cls_layers, model.head.reg_layers),
        strict=True,
    ):  # fmt: skip
        for number in range(count):
            place, modules = f"{HEAD}.{theirs}.{number}", 2 if norm == "none" else 3
            yield from _unit(place, f"{OURS}.{task}", modules * number, norm)
    yield from ENDS[title_of(model) or ""](len(model.neck.strides()))


def _unit(theirs: str, ours: str, first: int, norm: str) -> p.Pairs:
    """A convolution and its norm, or its bias."""
    if norm == "none":
        yield from p.layer(f"{theirs}.conv", f"{ours}.{first}")
        return
    yield p.Pair(f"{theirs}.conv.weight", f"{ours}.{first}.weight")
    if norm == "bn":
        yield from p.norm(f"{theirs}.bn", f"{ours}.{first + 1}")
    else:
        yield from p.layer(f"{theirs}.gn", f"{ours}.{first + 1}")


def _dilated(neck: Dilated) -> p.Pairs:
    for name in ("lateral", "fpn"):
        yield from p.layer(f"neck.{name}_conv", f"neck.{name}_conv")
        yield from p.norm(f"neck.{name}_norm", f"neck.{name}_norm")
    for block in range(len(neck.dilations)):
        for number in (1, 2, 3):
            place = f"{ENCODER}.{block}.conv{number}"
            yield from p.conv_norm(
                (f"{place}.conv", f"{place}.bn"), (f"{place}.conv", f"{place}.bn")
            )


def _scales(theirs: str, ours: str, levels: int) -> p.Pairs:
    for level in range(levels):
        yield p.Pair(f"{HEAD}.{theirs}.{level}.scale", f"head.{ours}.{level}")


def _retina_ends(levels: int) -> p.Pairs:
    yield from p.layer(f"{HEAD}.retina_cls", f"{OURS}.cls")
    yield from p.layer(f"{HEAD}.retina_reg", f"{OURS}.reg")


def _fcos_ends(levels: int) -> p.Pairs:
    for theirs, ours in (("cls", "cls"), ("reg", "reg"), ("centerness", "quality")):
        yield from p.layer(f"{HEAD}.conv_{theirs}", f"{OURS}.{ours}")
    yield from _scales("scales", "scales", levels)


def _atss_ends(levels: int) -> p.Pairs:
    for theirs, ours in (("atss_cls", "cls"), ("atss_reg", "reg"), ("atss_centerness", "quality")):
        yield from p.layer(f"{HEAD}.{theirs}", f"{OURS}.{ours}")
    yield from _scales("scales", "scales", levels)


def _varifocal_ends(levels: int) -> p.Pairs:
    yield from _unit(f"{HEAD}.vfnet_reg_conv", f"{OURS}.reg_conv", 0, "gn")
    yield from p.layer(f"{HEAD}.vfnet_reg", f"{OURS}.reg")
    yield from _scales("scales", "scales", levels)
    yield p.Pair(f"{HEAD}.vfnet_reg_refine_dconv.weight", f"{OURS}.reg_star.weight")
    yield from p.layer(f"{HEAD}.vfnet_reg_refine", f"{OURS}.refine")
    yield from _scales("scales_refine", "refined_scales", levels)
    yield p.Pair(f"{HEAD}.vfnet_cls_dconv.weight", f"{OURS}.cls_star.weight")
    yield from p.layer(f"{HEAD}.vfnet_cls", f"{OURS}.cls")


def _yolof_ends(levels: int) -> p.Pairs:
    for theirs, ours in (("cls_score", "cls"), ("bbox_pred", "reg"), ("object_pred", "quality")):
        yield from p.layer(f"{HEAD}.{theirs}", f"{OURS}.{ours}")


ENDS: dict[str, Callable[[int], p.Pairs]] = {
    "RetinaNet": _retina_ends,
    "FCOS": _fcos_ends,
    "ATSS": _atss_ends,
    "PAA": _atss_ends,
    "VarifocalNet": _varifocal_ends,
    "YOLOF": _yolof_ends,
}
"""What follows the towers, of so many levels."""


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    model = config.model
    assert isinstance(model, Dense)
    backbone = model.backbone
    if not isinstance(backbone, ResNet | Pvt) or backbone.norm == "gn":
        return "its backbone is not a ResNet with batch norm or a PVT"
    neck = model.neck
    if title_of(model) is None:
        return f"its parts are those of none of {', '.join(KINDS)}"
    if isinstance(neck, Pyramid) and title_of(model) == "YOLOF":
        return None if neck.levels() == ["P5"] else "its pyramid is not P5 alone"
    last, extra = ("C5", "on_input") if title_of(model) == "RetinaNet" else ("P5", "on_output")
    if isinstance(neck, Pyramid) and (neck.levels()[0::4] != ["P3", "P7"] or neck.extra != extra):
        return f"its pyramid is not P3 … P7 with convolutions of {last}"
    if not model.head.shared or model.head.kernel != 3 or model.head.activation != "relu":
        return "its towers are not those of MMDetection"
    return None

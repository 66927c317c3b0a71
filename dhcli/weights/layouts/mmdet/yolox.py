"""YOLOX. Backbone and neck have MMDetection's names here.

The size of images and the thresholds are in the configuration that a file may hold; without one,
narrow networks (tiny, nano) see 416 pixels, the others 640.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, Csp, Dense, DetectDense, PathPyramid
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "bbox_head"
CLASSIFIERS: tuple[str, ...] = (f"{HEAD}.multi_level_conv_cls.0.weight",)
LEVELS = 3
DEPTHS = {1: 0.33, 2: 0.67, 3: 1.0, 4: 1.33}
"""Blocks of the first stage → depth."""
SIZES = {
    (0.33, 0.25): "nano",
    (0.33, 0.375): "tiny",
    (0.33, 0.5): "s",
    (0.67, 0.75): "m",
    (1.0, 1.0): "l",
    (1.33, 1.25): "x",
}
"""Depth and width → name."""
NARROW, SMALL, LARGE = 0.375, 416, 640
"""Up to this width images are small."""
TESTED = (
    r"MultiScaleFlipAug['\"]?,\s*img_scale=\((\d+),",
    r"test_pipeline\b.*?Resize.*?scale=\((\d+),",
)
"""The side of tested images, in a configuration of version 2, of version 3."""


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the file is YOLOX's."""
    return CLASSIFIERS[0] in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K."""
    return len(state[CLASSIFIERS[0]])


def settings(
    state: Mapping[str, Tensor], file: str, named: Callable[[str], str] = str
) -> dict[str, Any]:
    """What the shapes and the configuration in the file say, the conventions, and a name.

    `named` gives what a tensor of MMDetection is called in the file.
    """

    def shape(name: str) -> Sequence[int]:
        return state[named(name)].shape

    def count(name: str) -> int:
        return sum(named(name.format(i)) in state for i in range(99))

    width = shape("backbone.stem.conv.conv.weight")[0] / 64
    first = count("backbone.stage1.1.blocks.{}.conv1.conv.weight")
    depth = DEPTHS.get(first, first / 3)
    deep = named("backbone.stage1.0.depthwise_conv.conv.weight") in state
    size = SIZES.get((depth, width), f"{depth:g}-{width:g}")
    backbone = {"kind": "csp", "depth": depth, "width": width, "depthwise": deep}
    neck = {
        "kind": "pafpn",
        "channels": shape("neck.out_convs.0.conv.weight")[0],
        "blocks": count("neck.top_down_blocks.0.blocks.{}.conv1.conv.weight"),
        "depthwise": deep,
    }
    unit = "depthwise_conv.conv" if deep else "conv"
    layers = count(f"{HEAD}.multi_level_cls_convs.0.{{}}.{unit}.weight")
    model = conventions(layers, shape(CLASSIFIERS[0])[1], deep=deep)
    model["detect"] = {**model["detect"], **_thresholds(file)}
    model |= {"backbone": backbone, "neck": neck}
    side = _side(file) or (SMALL if width <= NARROW else LARGE)
    return {
        "name": f"mmdet-yolox-{size}",
        "about": f"MMDetection's YOLOX-{size}",
        "input": {**INPUT, "min_size": side, "max_size": side},
        "model": model,
    }


INPUT: dict[str, Any] = {
    "letterbox": 114,
    "channels": "bgr",
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "interpolation": "cv2",
}


def conventions(layers: int, width: int, *, deep: bool) -> dict[str, Any]:
    """The section `model` but for backbone and neck."""
    head = {
        "cls_layers": layers,
        "reg_layers": layers,
        "width": width,
        "depthwise": deep,
        "norm": "bn",
        "bn_epsilon": 1e-3,
        "bn_momentum": 0.03,
        "activation": "silu",
        "shared": False,
        "kernel": 1,
        "init": "uniform",
        "quality": "objectness",
    }
    loss = {"cls": {"kind": "overlap"}, "box": "iou2", "box_weight": 5.0}
    return {
        "kind": "dense",
        "head": head,
        "priors": {"sizes": [1.0], "ratios": [1.0]},
        "boxes": {"kind": "centre"},
        "assign": {"kind": "simota"},
        "loss": {**loss, "count": "one", "late_l1": 1.0},
        "detect": {
            "score_threshold": 0.01,
            "nms_threshold": 0.65,
            "max_detections": 10000,
            "candidates": 0,
            "classes": "best",
            "clip": False,
        },
        "nms": "mmdet",
    }


def _side(file: str) -> int | None:
    found = (re.search(pattern, file, re.DOTALL) for pattern in TESTED)
    return next((int(match[1]) for match in found if match), None)


def _thresholds(file: str) -> dict[str, float]:
    pattern = r"score_thr=([\d.]+),\s*nms=dict\(.*?iou_threshold=([\d.]+)"
    found = re.search(pattern, file, re.DOTALL)
    if not found:
        return {}
    return {"score_threshold": float(found[1]), "nms_threshold": float(found[2])}


def is_kin(config: Config) -> bool:
    """Whether its backbone is YOLOX's."""
    return isinstance(config.model, Dense) and isinstance(config.model.backbone, Csp)


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    model = config.model
    assert isinstance(model, Dense)
    assert isinstance(model.backbone, Csp)
    assert isinstance(model.neck, PathPyramid)
    yield from _backbone(model.backbone)
    yield from _neck(model.neck)
    for task, count in (("cls", model.head.cls_layers), ("reg", model.head.reg_layers)):
        for level in range(LEVELS):
            for number in range(count):
                theirs = f"{HEAD}.multi_level_{task}_convs.{level}.{number}"
                ours = f"head.towers.{level}.{task}_convs"
                yield from _tower_unit(theirs, ours, number, deep=model.head.depthwise)
    for theirs, ours in (("cls", "cls"), ("reg", "reg"), ("obj", "quality")):
        for level in range(LEVELS):
            place = f"{HEAD}.multi_level_conv_{theirs}.{level}"
            yield from p.layer(place, f"head.towers.{level}.{ours}")


def _backbone(config: Csp) -> p.Pairs:
    from dhcli.models.backbones.csp import BLOCKS

    yield from _unit("backbone.stem.conv")
    for number, whole in enumerate(BLOCKS, 1):
        place, last = f"backbone.stage{number}", number == len(BLOCKS)
        yield from _unit_3x3(f"{place}.0", deep=config.depthwise)
        if last:
            yield from _unit(f"{place}.1.conv1")
            yield from _unit(f"{place}.1.conv2")
        blocks = max(round(whole * config.depth), 1)
        yield from _layer(f"{place}.{2 if last else 1}", blocks, deep=config.depthwise)


def _neck(config: PathPyramid) -> p.Pairs:
    deep = config.depthwise
    for number in range(2):
        yield from _unit(f"neck.reduce_layers.{number}")
    for number in range(2):
        yield from _layer(f"neck.top_down_blocks.{number}", config.blocks, deep=deep)
    for number in range(2):
        yield from _unit_3x3(f"neck.downsamples.{number}", deep=deep)
    for number in range(2):
        yield from _layer(f"neck.bottom_up_blocks.{number}", config.blocks, deep=deep)
    for number in range(LEVELS):
        yield from _unit(f"neck.out_convs.{number}")


def _layer(place: str, blocks: int, *, deep: bool) -> p.Pairs:
    for name in ("main_conv", "short_conv", "final_conv"):
        yield from _unit(f"{place}.{name}")
    for block in range(blocks):
        yield from _unit(f"{place}.blocks.{block}.conv1")
        yield from _unit_3x3(f"{place}.blocks.{block}.conv2", deep=deep)


def _unit_3x3(place: str, *, deep: bool) -> p.Pairs:
    for name in (".depthwise_conv", ".pointwise_conv") if deep else ("",):
        yield from _unit(f"{place}{name}")


def _unit(place: str) -> p.Pairs:
    both = (f"{place}.conv", f"{place}.bn")
    yield from p.conv_norm(both, both)


def _tower_unit(theirs: str, ours: str, number: int, *, deep: bool) -> p.Pairs:
    names = (".depthwise_conv", ".pointwise_conv") if deep else ("",)
    for place, name in enumerate(names, number * len(names)):
        own = (f"{ours}.{3 * place}", f"{ours}.{3 * place + 1}")
        yield from p.conv_norm((f"{theirs}{name}.conv", f"{theirs}{name}.bn"), own)


def text(config: Config) -> str:
    """What a configuration of MMDetection would say of it, for what the tensors do not."""
    rule, side = config.model.detect, config.input.max_size
    assert isinstance(rule, DetectDense)
    nms = f"nms=dict(type='nms', iou_threshold={rule.nms_threshold:g})"
    return (
        f"model = dict(bbox_head=dict(type='YOLOXHead'), test_cfg=dict(score_thr="
        f"{rule.score_threshold:g}, {nms}))\n"
        f"test_pipeline = [dict(type='Resize', scale=({side}, {side}), keep_ratio=True)]"
    )


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    model = config.model
    assert isinstance(model, Dense)
    head = model.head
    told = (head.quality, model.assign.kind, model.boxes.kind, head.shared, head.kernel)
    if not isinstance(model.neck, PathPyramid):
        return "its neck is not that of YOLOX"
    if told != ("objectness", "simota", "centre", False, 1):
        return "its head is not that of YOLOX"
    if (head.norm, head.activation) != ("bn", "silu"):
        return "its towers are not those of YOLOX"
    return None

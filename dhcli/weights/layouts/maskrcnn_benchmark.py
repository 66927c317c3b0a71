"""maskrcnn-benchmark: the paper's authors' Double-Head-Ext, and Faster R-CNN with FPN.

Boxes have a slot for the background; the anchors of a cell are in the file, and compared with
ours. Conventions of `dh_faster_rcnn_R_50_FPN_1x`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "maskrcnn-benchmark"
CLASSIFIERS: tuple[str, ...] = ("roi_heads.box.predictor.cls_score.weight",)
ANCHORS = "rpn.anchor_generator.cell_anchors.{level}"
LEFT: dict[str, str] = {
    r"rpn\.anchor_generator\.cell_anchors\.\d": "anchors of a cell: compared, they are ours"
}
COCO_CLASSES = 80

INPUT = {
    "resize": "maskrcnn_benchmark",
    "interpolation": "pil",
    "exif": False,
    "channels": "bgr",
    "mean": [102.9801, 115.9465, 122.7717],
    "std": [1.0, 1.0, 1.0],
}
BACKBONE = {"norm": "frozen_bn", "frozen_stages": 2, "stride_in_1x1": True, "bn_epsilon": 0.0}
RPN = {"proposals_train": 2000, "proposals_per": "batch", "smooth_l1_beta": 1 / 9}
MODEL = {
    "anchors": {"convention": "maskrcnn_benchmark"},
    "pool": {"sampling_ratio": 2, "aligned": False, "level_epsilon": 4e-6},
    "detect": {"nms_on": "resized", "keep_ties": True},
    "legacy_plus_one": True,
    "clamp_shrinking": False,
    "nms": "exact",
}

BOX, TRUNK = "roi_heads.box.predictor", "roi_heads.box.feature_extractor"


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are maskrcnn-benchmark's."""
    return CLASSIFIERS[0] in state and "backbone.fpn.fpn_inner1.weight" in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: one row is the background's."""
    return len(state[CLASSIFIERS[0]]) - 1


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    channels = state["backbone.fpn.fpn_inner1.weight"].shape[0]
    first = state[f"{TRUNK}.fc6.weight"]
    double = f"{BOX}.cls_score_fc.weight" in state
    head = _double(state) if double else p.single_fc(2, first.shape[0])
    head["background_box"] = True
    pool = {**MODEL["pool"], "size": p.side_of(first, channels)}  # type: ignore[dict-item]
    backbone = {**BACKBONE, "name": p.read_depth(state, "backbone.body.layer{stage}")}
    neck = {"channels": channels}
    model = {**MODEL, "backbone": backbone, "neck": neck, "rpn": RPN, "pool": pool, "head": head}
    kind = "Double-Head-Ext" if double else "Faster R-CNN"
    return {"about": kind, "input": INPUT, "model": model}


def _double(state: Mapping[str, Tensor]) -> dict[str, Any]:
    width = state[f"{TRUNK}.fc6.weight"].shape[0]
    conv_width = state[f"{TRUNK}.nonlocal_conv.top.0.weight"].shape[0]
    blocks = sum(f"{TRUNK}.shared_nonlocal.{i}.g.weight" in state for i in range(99))
    fc = {"kind": "fc", "omega": 2.0, "lambda": 0.7, "width": width}
    conv = {"kind": "conv", "omega": 2.5, "lambda": 0.8, "roi_scale": 1.3, "width": conv_width}
    branches = [fc, {**conv, "residual": 1 + blocks, "non_local": blocks}]
    return {"branches": branches, "scores": "complementary", "boxes": "conv"}


def pairs(config: Config) -> p.Pairs:
    """Every tensor but the anchors, in the order of the origin's state dict."""
    yield from p.resnet(p.depth_of(config), _rename, counter=False, shortcut_first=True)
    for level in range(4):
        for kind, ours in (("inner", "lateral"), ("layer", "output")):
            yield from p.layer(f"backbone.fpn.fpn_{kind}{level + 1}", f"neck.{ours}.{level}")
    for theirs, ours in (("conv", "conv"), ("cls_logits", "cls"), ("bbox_pred", "reg")):
        yield from p.layer(f"rpn.head.{theirs}", f"rpn.{ours}")
    fc, conv = p.fc_branch(config), p.conv_branch(config)
    assert fc is not None
    if conv is not None:
        yield from _conv_branch(f"head.branches.{conv.name}.trunk", conv.non_local)
    yield from p.fc_layers(fc, (f"{TRUNK}.fc6", f"{TRUNK}.fc7"))
    suffixes = {fc.name: ""} if conv is None else {conv.name: "", fc.name: "_fc"}
    for name, suffix in suffixes.items():
        for theirs, ours in (("cls_score", "cls"), ("bbox_pred", "reg")):
            yield from p.layer(f"{BOX}.{theirs}{suffix}", f"head.branches.{name}.{ours}")


def _rename(name: str) -> str:
    stem = "" if name.startswith("layer") else "stem."
    return f"backbone.body.{stem}{name}"


def _conv_branch(ours: str, blocks: int) -> p.Pairs:
    place = f"{TRUNK}.nonlocal_conv"
    for part, mine, index in (("top", "shortcut", 0), ("bottom", "main", 0), ("bottom", "main", 3)):
        yield from _numbered(f"{place}.{part}", f"{ours}.0.{mine}", index)
    for block in range(blocks):
        place = f"{TRUNK}.shared_nonlocal.{block}"
        non_local, bottleneck = f"{ours}.{2 * block + 1}", f"{ours}.{2 * block + 2}.main"
        for part in ("g", "theta", "phi"):
            yield from p.layer(f"{place}.{part}", f"{non_local}.{part}")
        yield from p.layer(f"{place}.W.0", f"{non_local}.out.0")
        yield from p.norm(f"{place}.W.bn", f"{non_local}.out.1")
        for index in (0, 3, 6):
            yield from _numbered(f"{place}.ffconv.bottleneck", bottleneck, index)


def _numbered(theirs: str, ours: str, index: int) -> p.Pairs:
    """A convolution and its norm, `index` and the next in their sequences."""
    (conv, bn), (own_conv, own_bn) = (
        (f"{place}.{index}", f"{place}.{index + 1}") for place in (theirs, ours)
    )
    yield from p.conv_norm((conv, bn), (own_conv, own_bn))

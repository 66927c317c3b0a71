"""detectron2: Faster R-CNN with FPN, R50 and R101 of its model zoo.

Background is the last class, and boxes have none. Conventions of `faster_rcnn_R_50_FPN_1x`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "detectron2"
CLASSIFIERS: tuple[str, ...] = ("roi_heads.box_predictor.cls_score.weight",)
ANCHORS = "proposal_generator.anchor_generator.cell_anchors.{level}"
LEFT: dict[str, str] = {
    r"proposal_generator\.anchor_generator\.cell_anchors\.\d": (
        "anchors of a cell: compared, they are ours"
    ),
    r"pixel_(mean|std)": "mean and deviation, which the configuration holds",
}
COCO_CLASSES = 80

INPUT = {
    "interpolation": "pil",
    "channels": "bgr",
    "mean": [103.53, 116.28, 123.675],
    "std": [1.0, 1.0, 1.0],
}
BACKBONE = {"norm": "frozen_bn", "frozen_stages": 2, "stride_in_1x1": True}
RPN = {"proposals_train": 1000, "smooth_l1_beta": 0.0}
MODEL = {
    "anchors": {"convention": "plain"},
    "pool": {"sampling_ratio": 0, "aligned": True, "level_epsilon": 4e-8},
    "detect": {"nms_on": "resized"},
    "clamp_shrinking": False,
    "nms": "torchvision",
}

BODY, HEAD = "backbone.bottom_up", "roi_heads"


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are detectron2's."""
    return CLASSIFIERS[0] in state and "backbone.fpn_lateral2.weight" in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: one row is the background's."""
    return len(state[CLASSIFIERS[0]]) - 1


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    channels = state["backbone.fpn_lateral2.weight"].shape[0]
    first = state[f"{HEAD}.box_head.fc1.weight"]
    depth = {_stage(name): x for name, x in state.items() if name.startswith(f"{BODY}.res")}
    backbone = {**BACKBONE, "name": p.read_depth(depth, "layer{stage}")}
    pool = {**MODEL["pool"], "size": p.side_of(first, channels)}  # type: ignore[dict-item]
    boxes, classes = (
        state[f"{HEAD}.box_predictor.{name}.weight"].shape[0] for name in ("bbox_pred", "cls_score")
    )
    agnostic = boxes == 4 and classes > 2
    head = p.single_fc(2, first.shape[0], class_agnostic=agnostic, smooth_l1_beta=0.0)
    neck = {"channels": channels}
    model = {**MODEL, "backbone": backbone, "neck": neck, "rpn": RPN, "pool": pool, "head": head}
    return {"about": "Faster R-CNN", "input": INPUT, "model": model}


def pairs(config: Config) -> p.Pairs:
    """Every tensor but the anchors."""
    yield from p.resnet(p.depth_of(config), _rename, counter=False)
    for level in range(4):
        yield from p.layer(f"backbone.fpn_lateral{level + 2}", f"neck.lateral.{level}")
        yield from p.layer(f"backbone.fpn_output{level + 2}", f"neck.output.{level}")
    for theirs, ours in (("conv", "conv"), ("objectness_logits", "cls"), ("anchor_deltas", "reg")):
        yield from p.layer(f"proposal_generator.rpn_head.{theirs}", f"rpn.{ours}")
    fc = p.fc_branch(config)
    assert fc is not None
    yield from p.fc_layers(fc, (f"{HEAD}.box_head.fc1", f"{HEAD}.box_head.fc2"))
    predictor, ours = f"{HEAD}.box_predictor", f"head.branches.{fc.name}"
    yield from p.layer(f"{predictor}.cls_score", f"{ours}.cls", last_first=True)
    yield from p.layer(f"{predictor}.bbox_pred", f"{ours}.reg")


def _rename(name: str) -> str:
    """`layer1.0.bn1` is `res2.0.conv1.norm`, and the stem's are `stem.conv1` and its norm."""
    if not name.startswith("layer"):
        return f"{BODY}.stem.{name.replace('bn1', 'conv1.norm')}"
    stage, block, rest = name.split(".", 2)
    rest = rest.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
    rest = f"conv{rest[2:]}.norm" if rest.startswith("bn") else rest
    return f"{BODY}.res{int(stage[-1]) + 1}.{block}.{rest}"


def _stage(name: str) -> str:
    """`backbone.bottom_up.res2.0.conv1.weight` as `layer1.0.conv1.weight`."""
    rest = name.removeprefix(f"{BODY}.res")
    return f"layer{int(rest[0]) - 1}{rest[1:]}" if rest[:1].isdigit() else name

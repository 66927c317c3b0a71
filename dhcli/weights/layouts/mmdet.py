"""MMDetection 2 and 3: Double-Head, Faster R-CNN and Cascade R-CNN with FPN.

Sparse R-CNN and the DETRs, which have other conventions, are in `mmdet_sparse` and `mmdet_detr`;
SABL's head is in `mmdet_sabl`; the detectors of one stage are in `mmdet_dense`, and YOLOX in
`mmdet_yolox`.

Background is the last class, and boxes have none; the conv branch has no non-local blocks.
Conventions of `dh_faster_rcnn_r50_fpn_1x_coco`, `faster_rcnn_r50_fpn_1x_coco` and
`cascade_rcnn_r50_fpn_1x_coco`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import (
    Config,
    ConvBranch,
    Csp,
    Dense,
    Detr,
    FcBranch,
    Pvt,
    Queries,
    says_buckets,
)
from dhcli.weights.layouts import mmdet_dense as dense
from dhcli.weights.layouts import mmdet_detr as detr
from dhcli.weights.layouts import mmdet_sabl as sabl
from dhcli.weights.layouts import mmdet_sparse as sparse
from dhcli.weights.layouts import mmdet_yolox as yolox
from dhcli.weights.layouts import pairs as p

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "MMDetection"
HEAD = "roi_head.bbox_head"
PROPOSED: tuple[str, ...] = (f"{HEAD}.fc_cls.weight", f"{HEAD}.0.fc_cls.weight")
"""Of a head, and of the first stage of a cascade or of Sparse R-CNN."""
CLASSIFIERS = (*PROPOSED, *dense.CLASSIFIERS, yolox.CLASSIFIER, *detr.CLASSIFIERS)
ANCHORS = ""
LEFT: dict[str, str] = {
    r"ema_.*": "the other side of its moving average; the plain names hold what it tests with",
    r"data_preprocessor\..*": "mean and deviation, which the configuration holds",
}
COCO_CLASSES = 80

INPUT = {"interpolation": "cv2"}
BACKBONE = {"norm": "eval_bn", "frozen_stages": 2}
RPN = {"proposals_train": 1000, "smooth_l1_beta": 0.0}
MODEL = {
    "anchors": {"convention": "plain"},
    "pool": {"sampling_ratio": 0, "aligned": True, "level_epsilon": 1e-6},
    "detect": {"nms_on": "original"},
    "clamp_shrinking": True,
    "nms": "mmdet",
}
CASCADE_RPN = {"proposals_train": 2000, "smooth_l1_beta": 1 / 9, "allowed_border": 0}
STAGES = (
    {"positive_iou": 0.5, "box_std": [0.1, 0.1, 0.2, 0.2], "weight": 1.0},
    {"positive_iou": 0.6, "box_std": [0.05, 0.05, 0.1, 0.1], "weight": 0.5},
    {"positive_iou": 0.7, "box_std": [0.033, 0.033, 0.067, 0.067], "weight": 0.25},
)


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are MMDetection's."""
    if any(one.recognise(state) for one in (dense, yolox, detr)):
        return True
    return _first(state) is not None and "neck.lateral_convs.0.conv.weight" in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: one row is the background's, of all detectors of proposals but Sparse R-CNN."""
    if detr.recognise(state):
        return detr.count_classes(state)
    if dense.recognise(state):
        return dense.count_classes(state)
    for other in (sparse, yolox):
        if other.recognise(state):
            return len(state[other.CLASSIFIER])
    return next(len(state[name]) for name in PROPOSED if name in state) - 1


def _first(state: Mapping[str, Tensor]) -> str | None:
    """What the head is called, or the first of a cascade."""
    found = next((name for name in PROPOSED if name in state), None)
    return found and found.removesuffix(".fc_cls.weight")


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    if yolox.recognise(state):
        return yolox.settings(state, file)
    if pvt := p.read_pvt(state):
        backbone: dict[str, Any] = {"kind": "pvt", "name": pvt, "weights": "none"}
    else:
        backbone = {**BACKBONE, "name": p.read_depth(state, "backbone.layer{stage}")}
    if detr.recognise(state):
        return detr.settings(state, backbone, file)
    if sparse.recognise(state):
        model = {**sparse.settings(state), "backbone": backbone}
        return {"about": "Sparse R-CNN", "input": INPUT, "model": model}
    if dense.recognise(state):
        told = dense.settings(state, file)
        named = {**told["model"]["backbone"], "name": backbone["name"]}
        told["model"]["backbone"] = backbone if pvt else named
        return {**told, "input": {**INPUT, **told["input"]}}
    channels = state["neck.lateral_convs.0.conv.weight"].shape[0]
    place, double = _first(state), f"{HEAD}.res_block.conv1.conv.weight" in state
    assert place is not None  # `recognise` was asked
    sides = sabl.recognise(state, place)
    layers = f"{place}.{'cls_fcs' if sides else 'fc_branch' if double else 'shared_fcs'}"
    first = state[f"{layers}.0.weight"]
    size = p.side_of(first, channels)
    count = sum(f"{layers}.{i}.weight" in state for i in range(9))
    stages = sum(f"{HEAD}.{stage}.fc_cls.weight" in state for stage in range(9))
    cascade = [{**STAGES[stage]} for stage in range(stages)]
    if sides:
        head: dict[str, Any] = {"branches": sabl.branches(state, place, size)}
        cascade = [
            {"positive_iou": one["positive_iou"], "weight": one["weight"], "bucket_scale": scale}
            for one, scale in zip(STAGES[:stages], sabl.SCALES, strict=False)
        ]
    else:
        head = _double(state, count) if double else p.single_fc(count, first.shape[0])
        head["class_agnostic"] = _share_boxes(state, place)
    head["cascade"] = cascade
    pool = {**MODEL["pool"], "size": size}  # type: ignore[dict-item]
    neck, rpn = {"channels": channels}, CASCADE_RPN if stages else RPN
    model = {**MODEL, "backbone": backbone, "neck": neck, "rpn": rpn, "pool": pool, "head": head}
    if sides:
        model["clip"] = "last_pixel"
    kind = "Double-Head" if double else "Cascade R-CNN" if stages else "Faster R-CNN"
    return {"about": f"SABL {kind}" if sides else kind, "input": INPUT, "model": model}


def _share_boxes(state: Mapping[str, Tensor], place: str) -> bool:
    """Whether all classes share the boxes of the head called `place`."""
    boxes, classes = (state[f"{place}.{name}.weight"].shape[0] for name in ("fc_reg", "fc_cls"))
    return boxes == 4 and classes > 2


def _double(state: Mapping[str, Tensor], layers: int) -> dict[str, Any]:
    width = state[f"{HEAD}.fc_branch.0.weight"].shape[0]
    conv_width = state[f"{HEAD}.res_block.conv2.conv.weight"].shape[0]
    blocks = sum(f"{HEAD}.conv_branch.{i}.conv1.weight" in state for i in range(99))
    fc = {"kind": "fc", "omega": 2.0, "width": width, "layers": layers}
    conv = {"kind": "conv", "omega": 2.0, "roi_scale": 1.3, "width": conv_width}
    return {"branches": [fc, {**conv, "residual": 1 + blocks, "non_local": 0}]}


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    if isinstance(config.model, Detr):
        yield from detr.pairs(config.model)
        return
    if isinstance(config.model.backbone, Csp):
        yield from yolox.pairs(config)
        return
    if isinstance(config.model, Dense):
        yield from _backbone(config)
        yield from dense.pairs(config)
        return
    yield from body(config)
    if isinstance(config.model, Queries):
        yield from sparse.pairs(config)
        return
    cascade = p.model_of(config).head.cascade
    places = [(f"{HEAD}.{i}", f"head.stages.{i}") for i in range(len(cascade))]
    for theirs, head in places or [(HEAD, "head")]:
        yield from _head(config, theirs, head)


def _backbone(config: Config) -> p.Pairs:
    if isinstance(config.model.backbone, Pvt):
        yield from p.pvt(config.model.backbone.name)
    else:
        yield from p.resnet(p.depth_of(config), lambda name: f"backbone.{name}")


def body(config: Config) -> p.Pairs:
    """Backbone and pyramid, and the RPN where there is one."""
    yield from _backbone(config)
    for kind, ours in (("lateral_convs", "lateral"), ("fpn_convs", "output")):
        for level in range(4):
            yield from p.layer(f"neck.{kind}.{level}.conv", f"neck.{ours}.{level}")
    if not isinstance(config.model, Queries):
        for part in ("conv", "cls", "reg"):
            yield from p.layer(f"rpn_head.rpn_{part}", f"rpn.{part}")


def _head(config: Config, theirs: str, ours: str) -> p.Pairs:
    """A head, or that of a stage."""
    if sabl.side_branch(config) is not None:
        yield from sabl.pairs(config, theirs, ours)
        return
    fc, conv = p.fc_branch(config), p.conv_branch(config)
    assert fc is not None  # `misfit` was asked
    boxes = conv or fc
    yield from p.layer(f"{theirs}.fc_cls", f"{ours}.branches.{fc.name}.cls", last_first=True)
    yield from p.layer(f"{theirs}.fc_reg", f"{ours}.branches.{boxes.name}.reg")
    if conv is not None:
        yield from _conv_branch(f"{ours}.branches.{conv.name}.trunk", conv.residual - 1)
    layers = "fc_branch" if conv is not None else "shared_fcs"
    yield from p.fc_layers(fc, [f"{theirs}.{layers}.{i}" for i in range(fc.layers)], ours)


def _conv_branch(ours: str, bottlenecks: int) -> p.Pairs:
    first = (("conv1", "main", 0), ("conv2", "main", 3), ("conv_identity", "shortcut", 0))
    for name, part, index in first:
        theirs = (f"{HEAD}.res_block.{name}.conv", f"{HEAD}.res_block.{name}.bn")
        yield from p.conv_norm(theirs, (f"{ours}.0.{part}.{index}", f"{ours}.0.{part}.{index + 1}"))
    for block in range(bottlenecks):
        for number in (1, 2, 3):
            place, index = f"{HEAD}.conv_branch.{block}", 3 * (number - 1)
            theirs = (f"{place}.conv{number}", f"{place}.bn{number}")
            main = f"{ours}.{block + 1}.main"
            yield from p.conv_norm(theirs, (f"{main}.{index}", f"{main}.{index + 1}"))


def text(config: Config) -> str:
    """What its configuration says of the detector, for what the tensors do not."""
    if isinstance(config.model, Detr):
        return detr.text(config.model)
    if not isinstance(config.model, Dense):
        return ""
    if isinstance(config.model.backbone, Csp):
        return yolox.text(config.model, config.input.max_size)
    return dense.text(config.model)


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    if isinstance(config.model, Queries):
        return sparse.misfit(config.model)
    if isinstance(config.model, Detr):
        return detr.misfit(config.model)
    if isinstance(config.model, Dense):
        is_yolox = isinstance(config.model.backbone, Csp)
        return yolox.misfit(config.model) if is_yolox else dense.misfit(config.model)
    if sabl.side_branch(config) is not None:
        return sabl.misfit(config)
    return _proposed_misfit(config)


def _proposed_misfit(config: Config) -> str | None:
    """As `misfit`, of a detector of proposals whose branches are fc and conv."""
    fc, conv = p.fc_branch(config), p.conv_branch(config)
    if fc is None:
        return "it has no fc branch"
    if any(says_buckets(branch) for branch in p.model_of(config).head.branches):
        return "its boxes are said by buckets, but not by a branch of sides"
    if p.model_of(config).head.background_box:
        return "it has a box regression for the background"
    if conv is None and len(p.model_of(config).head.branches) == 1:
        return None
    return _double_misfit(config, fc, conv)


def _double_misfit(config: Config, fc: FcBranch, conv: ConvBranch | None) -> str | None:
    """Why a head of two branches is not MMDetection's Double-Head."""
    if p.model_of(config).head.cascade:
        return "its cascades have one fc branch in each stage"
    if conv is None or conv.non_local or conv.norm == "gn":
        return "its second branch does not consist of residual blocks with batch norm only"
    one_each = (fc.focus, fc.lambda_, conv.focus, conv.lambda_) == ("cls", 1, "reg", 1)
    return None if one_each else "both its branches classify or regress (λ is not 1)"

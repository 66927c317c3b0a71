"""Double-Head, Faster R-CNN and Cascade R-CNN with FPN, SABL's heads (in `sabl`) among them.

Background is the last class; the conv branch has no non-local blocks. Conventions of
`dh_faster_rcnn_r50_fpn_1x_coco`, `faster_rcnn_r50_fpn_1x_coco` and `cascade_rcnn_r50_fpn_1x_coco`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, ConvBranch, FcBranch, TwoStage, says_buckets
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet import parts, sabl

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "roi_head.bbox_head"
CLASSIFIERS: tuple[str, ...] = (f"{HEAD}.fc_cls.weight", f"{HEAD}.0.fc_cls.weight")
"""Of a head, and of the first stage of a cascade."""

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
    """Whether the file is one of theirs; Sparse R-CNN's stages have the same names."""
    return _first(state) is not None and parts.PYRAMID in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: one row is the background's."""
    return next(len(state[name]) for name in CLASSIFIERS if name in state) - 1


def _first(state: Mapping[str, Tensor]) -> str | None:
    """What the head is called, or the first of a cascade."""
    found = next((name for name in CLASSIFIERS if name in state), None)
    return found and found.removesuffix(".fc_cls.weight")


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    channels = state[parts.PYRAMID].shape[0]
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
    model = {
        **MODEL,
        "backbone": parts.backbone_settings(state),
        "neck": {"channels": channels},
        "rpn": CASCADE_RPN if stages else RPN,
        "pool": pool,
        "head": head,
    }
    if sides:
        model["clip"] = "last_pixel"
    kind = "Double-Head" if double else "Cascade R-CNN" if stages else "Faster R-CNN"
    return {"about": f"SABL {kind}" if sides else kind, "input": parts.INPUT, "model": model}


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


def is_kin(config: Config) -> bool:
    """Whether it proposes regions."""
    return isinstance(config.model, TwoStage)


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of MMDetection's state dict."""
    yield from parts.body(config)
    cascade = p.model_of(config).head.cascade
    places = [(f"{HEAD}.{i}", f"head.stages.{i}") for i in range(len(cascade))]
    for theirs, head in places or [(HEAD, "head")]:
        yield from _head(config, theirs, head)


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
    """Its tensors say what it is."""
    return ""


def misfit(config: Config) -> str | None:
    """Why MMDetection has no such detector; None if it has."""
    if reason := p.misfit(config):
        return reason
    if sabl.side_branch(config) is not None:
        return sabl.misfit(config)
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

"""TSD's authors' code (Sense-X/TSD, on MMDetection 1): `faster_rcnn_r50_fpn_TSD_1x`.

Background is the first class, and has a box of its own; three branches of two layers each, of
which one reads the shared RoI and only trains. Conventions of MMDetection 1 throughout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dhcli.config.schema import Config, DisentangledRoi, FcBranch, predicts
from dhcli.weights.layouts import pairs as p
from dhcli.weights.layouts.mmdet import parts

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "TSD (Sense-X)"
HEAD = "bbox_head"
CLASSIFIERS: tuple[str, ...] = (f"{HEAD}.TSD_fc_cls.weight",)
ANCHORS = ""
LEFT: dict[str, str] = {}
COCO_CLASSES = 80

INPUT = {"interpolation": "cv2", "resize": "mmdet1"}
RPN = {"proposals_train": 2000, "smooth_l1_beta": 1 / 9, "allowed_border": 0}
MODEL = {
    "anchors": {"convention": "mmdet1"},
    "pool": {
        "sampling_ratio": 2,
        "aligned": False,
        "convention": "mmdet1",
        "level_epsilon": 1e-6,
    },
    "detect": {"nms_on": "original"},
    "legacy_plus_one": True,
    "clamp_shrinking": True,
    "nms": "mmdet",
}
ROI = {"kind": "disentangled", "reach": 0.1, "margin": 0.3, "samples": 4}
BRANCHES = {"sibling": "shared_fcs", "pc": "TSD_pc_fcs", "pr": "TSD_pr_fcs"}
"""Our names of the branches, and theirs of the layers: on P, P_c and P_r."""
MOVES = {"pc": "delta_c", "pr": "delta_r"}


def recognise(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are TSD's."""
    return CLASSIFIERS[0] in state and parts.PYRAMID in state


def count_classes(state: Mapping[str, Tensor]) -> int:
    """K: one row is the background's."""
    return len(state[CLASSIFIERS[0]]) - 1


def settings(state: Mapping[str, Tensor], file: str) -> dict[str, Any]:
    """What the shapes say of the architecture, and the conventions."""
    channels = state[parts.PYRAMID].shape[0]
    first = state[f"{HEAD}.shared_fc.0.weight"]
    agnostic = state[f"{HEAD}.TSD_fc_reg.weight"].shape[0] == 4
    roi = {**ROI, "width": first.shape[0]}
    tasks: dict[str, dict[str, Any]] = {
        "sibling": {"omega": 2.0, "lambda": 0.5},
        "pc": {"focus": "cls", "roi": {**roi, "move": "cells"}},
        "pr": {"focus": "reg", "roi": {**roi, "move": "box"}},
    }
    branches = [
        {"kind": "fc", "name": name, **_layers(state, BRANCHES[name]), **task}
        for name, task in tasks.items()
    ]
    head = {"branches": branches, "background_box": not agnostic, "class_agnostic": agnostic}
    pool = {**MODEL["pool"], "size": p.side_of(first, channels)}  # type: ignore[dict-item]
    backbone = parts.backbone_settings(state)
    neck = {"channels": channels}
    model = {**MODEL, "backbone": backbone, "neck": neck, "rpn": RPN, "pool": pool, "head": head}
    return {"about": "TSD", "input": INPUT, "model": model}


def _layers(state: Mapping[str, Tensor], name: str) -> dict[str, int]:
    """How wide and deep the layers `name` are."""
    count = sum(f"{HEAD}.{name}.{i}.weight" in state for i in range(9))
    return {"width": state[f"{HEAD}.{name}.0.weight"].shape[0], "layers": count}


def pairs(config: Config) -> p.Pairs:
    """Every tensor, in the order of the origin's state dict."""
    yield from parts.body(config)
    yield from _predictors(("sibling", "fc_cls", "cls"), ("sibling", "fc_reg", "reg"))
    yield from p.layer(f"{HEAD}.shared_fc.0", "head.disentangle.shared.1")
    for branch, theirs in MOVES.items():
        for index in (0, 2):
            ours = f"head.disentangle.moves.{branch}.{index}"
            yield from p.layer(f"{HEAD}.{theirs}.{index}", ours)
    for one in _branches(config):
        names = [f"{HEAD}.{BRANCHES[one.name]}.{i}" for i in range(one.layers)]
        yield from p.fc_layers(one, names)
    yield from _predictors(("pc", "TSD_fc_cls", "cls"), ("pr", "TSD_fc_reg", "reg"))


def _predictors(*names: tuple[str, str, str]) -> p.Pairs:
    for branch, theirs, ours in names:
        yield from p.layer(f"{HEAD}.{theirs}", f"head.branches.{branch}.{ours}")


def _branches(config: Config) -> list[FcBranch]:
    found = [b for b in p.model_of(config).head.branches if isinstance(b, FcBranch)]
    assert [b.name for b in found] == list(BRANCHES)  # `misfit` was asked
    return found


def text(config: Config) -> str:
    """Its tensors say what it is."""
    return ""


def misfit(config: Config) -> str | None:
    """Why TSD's code has no such detector; None if it has."""
    if reason := p.misfit(config, moves=True):
        return reason
    head = p.model_of(config).head
    if [branch.name for branch in head.branches] != list(BRANCHES):
        return f"its branches are {', '.join(BRANCHES)}"
    if head.cascade:
        return "it is a cascade, whose names are not known here"
    if head.background_box == head.class_agnostic:
        return "boxes by class include the background's there (`model.head.background_box`)"
    for branch in head.branches:
        moves = branch.roi.move if isinstance(branch.roi, DisentangledRoi) else "none"
        if not isinstance(branch, FcBranch) or (branch.name, moves) not in KINDS:
            return f"its branch {branch.name} is another"
    tasks = [[task for task in ("cls", "reg") if predicts(b, task)] for b in head.branches]
    if tasks != [["cls", "reg"], ["cls"], ["reg"]]:
        return "only its sibling predicts both scores and boxes (λ)"
    return None


KINDS = {
    ("sibling", "none"),
    *(("pc", move) for move in ("auto", "cells")),
    *(("pr", move) for move in ("auto", "box")),
}

"""Every detector of the paper: its preset has the paper's size, learns and detects."""

from __future__ import annotations

import math

import pytest
import torch

from dhcli.config.load import load_config
from dhcli.config.presets import preset_names
from dhcli.config.schema import Config, ConvBranch, FcBranch
from dhcli.models.build import build_detector
from dhcli.ops.batch import ImageBatch, Target

PAPER = {name: c for name in preset_names() if (c := load_config(name).config).paper_tables}

# Published sizes of the classifiers, without their last layer and the frozen norms' weights
BACKBONES = {
    "r50": 25_557_032 - (2048 * 1000 + 1000) - 2 * 26_560,
    "r101": 44_549_160 - (2048 * 1000 + 1000) - 2 * 52_672,
}
FPN = sum(c * 256 + 256 for c in (256, 512, 1024, 2048)) + 4 * (9 * 256 * 256 + 256)
RPN = (9 * 256 * 256 + 256) + 256 * 3 * (1 + 4) + 3 * (1 + 4)
RPN_C4 = (9 * 1024 * 1024 + 1024) + 1024 * 15 * (1 + 4) + 15 * (1 + 4)
FC = (256 * 49 * 1024 + 1024) + (1024 * 1024 + 1024)
CLS, REG = 1024 * 81 + 81, 1024 * 320 + 320  # 80 classes
M = 2**20  # the paper's


def conv_trunk(residual: int, non_local: int = 0) -> int:
    """1.0625 M a residual block, 2 M a non-local block (§4.1), and norms and biases beside."""
    norms = 2 * (256 + 1024 + 1024) + (residual - 1) * 2 * (256 + 256 + 1024)
    return int((1.0625 * residual + 2 * non_local) * M) + norms + non_local * (3 * 512 + 3 * 1024)


BOTH = CLS + REG
HEADS = {
    "fc": FC + BOTH,
    "conv": conv_trunk(5) + BOTH,
    "double-fc": 2 * FC + BOTH,
    "double-conv": 2 * conv_trunk(5) + BOTH,
    "reverse": FC + conv_trunk(5) + BOTH,
    **{f"k{k}": FC + conv_trunk(k) + BOTH for k in range(1, 8)},
    **{f"k{k}-nl": FC + conv_trunk((k + 1) // 2, (k - 1) // 2) + BOTH for k in (3, 7)},
    "": FC + conv_trunk(3, 2) + BOTH,
    "ext": FC + conv_trunk(3, 2) + 2 * BOTH,
}


def parameters(config: Config, classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build_detector(config, classes).parameters())


@pytest.mark.parametrize("name", PAPER)
def test_its_size_is_the_papers(name: str) -> None:
    _, depth, *words = name.removesuffix("-w1").split("-", 2)
    head = "".join(words)
    if head == "c4":
        expected = BACKBONES[depth] + RPN_C4 + (2048 * 81 + 81) + (2048 * 320 + 320)
    else:
        expected = BACKBONES[depth] + FPN + RPN + HEADS[head]

    assert parameters(PAPER[name], 80) == expected


def test_the_fpn_baseline_is_as_large_as_torchvisions() -> None:
    config = load_config("coco-r50-fc", overrides=["model.head.background_box=true"]).config

    assert parameters(config, 90) == 41_755_286  # fasterrcnn_resnet50_fpn, as published


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("coco-r50-fc", {"fc": (1, 1)}),
        ("coco-r50-conv", {"conv": (1, 1)}),
        ("coco-r50-c4", {"res5": (1, 1)}),
        ("coco-r50-double-fc", {"fc": (2, 0), "fc2": (0, 2)}),
        ("coco-r50-double-conv", {"conv": (2.5, 0), "conv2": (0, 2.5)}),
        ("coco-r50-reverse", {"fc": (0, 2), "conv": (2.5, 0)}),
        ("coco-r50-reverse-w1", {"fc": (0, 1), "conv": (1, 0)}),
        ("coco-r50-k5", {"fc": (2, 0), "conv": (0, 2.5)}),
        ("coco-r50-k5-w1", {"fc": (1, 0), "conv": (0, 1)}),
        ("coco-r50-ext", {"fc": (1.4, 0.6), "conv": (0.5, 2.0)}),
    ],
)
def test_its_losses_weigh_what_table_1_says(
    name: str, weights: dict[str, tuple[float, float]]
) -> None:
    with torch.device("meta"):
        head = build_detector(reduced(name), classes=3).head

    found = {
        branch: (head.branch(branch).weight("cls"), head.branch(branch).weight("reg"))
        for branch in head.branches
    }

    assert found.keys() == weights.keys()
    assert all(found[branch] == pytest.approx(weights[branch]) for branch in weights)


def reduced(name: str) -> Config:
    """The preset with narrow layers on a small backbone."""
    settings = {
        "backbone.name": "resnet18", "backbone.norm": "gn", "backbone.frozen_stages": 0,
        "rpn.pre_nms_train": 50, "rpn.pre_nms_test": 50,
        "rpn.proposals_train": 20, "rpn.proposals_test": 10, "rpn.samples": 16,
        "head.samples": 8, "detect.score_threshold": 0.0,
    }  # fmt: skip
    if PAPER[name].model.neck.kind == "fpn":
        settings["neck.channels"] = 16
    for branch in PAPER[name].model.head.branches:
        if isinstance(branch, FcBranch | ConvBranch):
            settings[f"head.branches.{branch.name}.width"] = 16
        if isinstance(branch, ConvBranch):
            settings[f"head.branches.{branch.name}.norm"] = "gn"
    return load_config(name, overrides=[f"model.{k}={v}" for k, v in settings.items()]).config


@pytest.mark.parametrize("name", PAPER)
def test_it_learns_and_detects(name: str) -> None:
    torch.manual_seed(0)
    detector = build_detector(reduced(name), classes=3)
    size = torch.tensor([[64, 64]])
    images = ImageBatch(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8), size, size)
    boxes = torch.tensor([[4.0, 4.0, 36.0, 36.0], [30.0, 20.0, 60.0, 50.0]])
    target = Target(boxes, torch.tensor([0, 2]), torch.zeros(0, 4))

    losses = detector.losses(images, [target])
    sum(losses.values()).backward()
    with torch.inference_mode():
        [found] = detector.eval().detect(images)

    weights = {
        f"loss_{branch}_{task}": detector.head.branch(branch).weight(task)
        for branch in detector.head.branches
        for task in ("cls", "reg")
    }
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_reg", *(n for n, w in weights.items() if w)}
    assert all(math.isfinite(loss.item()) for loss in losses.values())
    assert all(p.grad is not None for p in detector.parameters())
    assert len(found) > 0

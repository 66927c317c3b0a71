"""timm's networks through the commands: 20 steps, their evaluation, their predictions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import dh

FAMILIES = {
    "ResNet-D": ("resnet18d", "bn"),
    "RegNet": ("regnety_002", "bn"),
    "EfficientNet-Lite": ("tf_efficientnet_lite0", "eval_bn"),
    "MobileNetV4": ("mobilenetv4_conv_small_050", "bn"),
    "ConvNeXt": ("convnext_atto", "frozen_bn"),
    "PVTv2": ("pvt_v2_b0", "frozen_bn"),
    "Swin": ("swin_tiny_patch4_window7_224", "frozen_bn"),
}
SMALL = [
    *("input.min_size=64", "input.max_size=64", "model.neck.channels=16"),
    *("model.head.branches.fc.width=16", "model.head.branches.conv.width=16"),
    *("model.head.samples=16", "model.rpn.proposals_test=20", "model.rpn.proposals_train=20"),
    *("train.workers=0", "train.log_every=5", "data.val_fraction=0.3", "train.lr=1e-4"),
    *("train.schedule.length=5", "train.schedule.steps=[9]", "train.schedule.warmup=0"),
]


def fast(*names: str) -> list[Any]:
    """Every family; those not named are marked slow."""
    slow = [pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES if one not in names]
    return [*names, *slow]


def sets(name: str, norm: str) -> list[str]:
    backbone = [f"name={name}", f"norm={norm}", "frozen_stages=0", "kind=timm"]
    backbone += [f"weights={'package' if 'lite' in name else 'none'}"]
    own = [f"model.backbone.{one}" for one in backbone]
    return [word for one in (*SMALL, *own) for word in ("--set", one)]


@pytest.mark.parametrize("family", fast("EfficientNet-Lite"))
def test_a_family_trains_evaluates_and_predicts(family: str, photos: Path, tmp_path: Path) -> None:
    run, weights, out = (tmp_path / name for name in ("run", "run/best.safetensors", "out"))
    options = ("--preset", "small", "--data", photos, "--out", run, "--device", "cpu")

    trained = dh("train", *options, *sets(*FAMILIES[family]))
    scored = dh("eval", "--data", photos, "--weights", weights, "--json").stdout
    found = dh(
        "predict", photos / "images/3.png", "--weights", weights, "--out", out, "--json"
    ).stdout

    assert "20 in all" in trained.stderr
    assert ("ImageNet, " if "Lite" in family else "random") in trained.stderr
    assert 0 <= json.loads(scored)["metrics"]["coco"]["stats"]["AP"] <= 1
    assert json.loads(found)["images"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_resumed_run_is_the_same_to_the_bit(family: str, photos: Path, tmp_path: Path) -> None:
    options = ["--preset", "small", "--data", photos, "--device", "cpu", *sets(*FAMILIES[family])]
    dh("train", *options, "--out", tmp_path / "whole")

    dh("train", *options, "--set", "train.schedule.length=2", "--out", tmp_path / "part")
    dh(
        "train",
        "--resume",
        tmp_path / "part",
        "--set",
        "train.schedule.length=5",
        "--device",
        "cpu",
    )

    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "part"))
    assert list(one) == list(two)
    assert all(torch.equal(one[name], two[name]) for name in one)

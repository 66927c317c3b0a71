"""torchvision's detectors through the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model, get_model_weights
from typer.testing import CliRunner

from dhcli.cli import app
from tests.commands import dh, draw_squares

LITE = "ssdlite320_mobilenet_v3_large"
NAMES = [
    LITE,
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "fasterrcnn_resnet50_fpn_v2",
            "retinanet_resnet50_fpn_v2",
            "fcos_resnet50_fpn",
        )
    ),
]
FAST = ["--set", "train.workers=0", "--set", "train.schedule.unit=iteration", "--device", "cpu"]


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Twelve images, each with one red or green square."""
    return draw_squares(tmp_path, rng, side=64, square=32)


def settings(name: str) -> list[str]:
    values = (
        *("model.kind=torchvision", f"model.name={name}", "model.backbone.weights=none"),
        *("model.backbone.norm=bn", "model.backbone.frozen_stages=0"),
        *("input.min_size=64", "input.max_size=64", "train.batch_size=2"),
    )
    return [word for value in values for word in ("--set", value)]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_resumes_is_measured_predicts_and_is_tuned(
    name: str, photos: Path, tmp_path: Path
) -> None:
    run, best = tmp_path / "run", tmp_path / "run/best.safetensors"
    begin = ["train", "--data", photos, *settings(name), *FAST, "--out", run]

    dh(*begin, "--set", "train.schedule.length=10")
    resumed = dh("train", "--resume", run, "--set", "train.schedule.length=20", "--json")
    measured = dh("eval", "--weights", best, "--data", photos, "--split", "all", "--json")
    said = dh("predict", "--weights", best, photos, "--out", tmp_path / "found", "--json")
    speed = dh("bench", best, "--image-size", "64x64", "--repeats", "1", "--json")
    told = dh("info", best).stdout
    tuned = dh("finetune", photos, "--weights", best, *FAST, "--out", tmp_path / "tuned",
               "--set", "train.schedule.length=1")  # fmt: skip

    assert json.loads(resumed.stdout)["history"][-1]["iteration"] == 20
    assert json.loads(measured.stdout)["images"] == 12
    assert json.loads(said.stdout)["images"] == 12
    parts = list(json.loads(speed.stdout)["parts"])
    assert parts[0] == "backbone"
    assert len(parts) == (4 if name.startswith("faster") else 3)
    assert re.search(rf"detector +torchvision's {name}", told)
    assert "2 classes: 2 exact" in tuned.stderr
    assert (tmp_path / "tuned/best.safetensors").exists()


def test_what_has_no_such_detector_says_so(photos: Path, tmp_path: Path) -> None:
    dh("train", "--data", photos, *settings(LITE), *FAST, "--out", tmp_path / "run",
       "--set", "train.schedule.length=1")  # fmt: skip
    best = str(tmp_path / "run/best.safetensors")
    asked = {
        "cannot be exported": ["export", best],
        "already has that program's names": [
            *("weights", "export", best, "--layout", "torchvision"),
            *("--out", str(tmp_path / "x.pth")),
        ],
        "are not measured": ["check", str(photos), *settings(LITE)[:4]],
        "can be read in one way only": [
            "predict",
            "--weights",
            best,
            str(photos),
            "--scores",
            "fc",
        ],
    }

    for words, command in asked.items():
        result = CliRunner().invoke(app, command)
        assert result.exit_code in (2, 4), command
        assert words in result.stderr


def test_a_published_detector_is_named_instead_of_a_file(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub/checkpoints" / get_model_weights(LITE)["COCO_V1"].url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(get_model(LITE, weights=None, weights_backbone=None).state_dict(), path)
    weights = f"torchvision:{LITE}"

    told = dh("info", weights).stdout
    document = json.loads(dh("info", weights, "--json").stdout)
    said = dh("predict", "--weights", weights, photos, "--out", tmp_path / "found", "--json")
    measured = CliRunner().invoke(app, ["eval", "--weights", weights, "--data", str(photos)])
    tuned = dh("finetune", photos, "--weights", weights, *FAST, "--out", tmp_path / "tuned",
               "--alias", "red=apple", "--set", "train.schedule.length=1")  # fmt: skip

    assert "80: person, bicycle, car" in told
    assert document["classes"][-1] == {"id": 90, "name": "toothbrush"}
    assert document["file"] == str(path)
    assert json.loads(said.stdout)["images"] == 12
    assert "red" in measured.stderr
    assert f"{weights}: a detector of torchvision's, trained on COCO" in tuned.stderr
    assert "2 classes: 1 alias, 1 new" in tuned.stderr
    assert "input size: 320, max 320 (as the weights were trained)" in tuned.stderr
    assert (tmp_path / "tuned/best.safetensors").exists()

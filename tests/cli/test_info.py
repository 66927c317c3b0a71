"""`dh info` as people and programs see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.cli.info import count_weights
from dhcli.weights.model_file import ModelFile, save_model


@pytest.fixture
def model(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Path:
    one = small_model("Car", "Cyclist")
    about = {
        "epoch": 12,
        "data": {
            **{"root": "/data/cars", "classes": ["Car", "Cyclist"], "train_names": "5732f7d4"},
            **{"train_images": 118287, "train_boxes": 860001, "val_images": 1, "val_boxes": 2},
        },
        "metrics": {"epoch": 12, "train_loss": 0.3, "val_loss": 0.4, "AP": 0.41234, "AP50": 0.7},
    }
    save_model(
        tmp_path / "m.safetensors", ModelFile(one.config, one.classes, (7, 42), one.state, about)
    )
    return tmp_path / "m.safetensors"


def test_people_read_what_it_is(model: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(model)])

    assert result.exit_code == 0, result.stderr
    lines = {line[:13].rstrip(): line[13:].strip() for line in result.stdout.splitlines()}
    assert lines["classes"] == "2: Car, Cyclist"
    assert lines["input"] == "shortest side 64, longest 96 pixels"
    assert lines["backbone"] == "resnet18, gn"
    assert lines["fc branch"] == "fc, focus cls, ω 1, λ 0.7, RoI × 1"
    assert lines["  backbone"] == "11,176,512"
    assert lines["epoch"] == "12"
    trained = "/data/cars: 118,287 images with 860,001 boxes to train on, 1 image with 2 boxes to"
    assert f"data {trained} validate on metrics" in " ".join(result.stdout.split())
    assert "5732f7d4" not in result.stdout
    assert lines["metrics"] == "AP 0.4123, AP50 0.7"
    assert "dh 0." in lines["made with"]
    assert "torch 2." in lines["made with"]


def test_programs_read_json(model: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(model), "--json"])

    document = json.loads(result.stdout)
    assert document["classes"] == [{"id": 7, "name": "Car"}, {"id": 42, "name": "Cyclist"}]
    assert document["bytes"] == model.stat().st_size
    assert document["weights"]["neck"] == 16 * (64 + 128 + 256 + 512 + 4) + 4 * (16 * 16 * 9 + 16)
    assert document["weights"]["all"] == sum(document["weights"].values()) // 2
    assert document["metadata"]["epoch"] == 12
    assert document["config"]["model"]["backbone"]["name"] == "resnet18"


def test_weights_are_counted_by_part_without_statistics() -> None:
    shapes = {
        "backbone.bn1.weight": (64,),
        "backbone.bn1.running_mean": (64,),
        "backbone.bn1.num_batches_tracked": (),
        "head.branches.fc.cls.weight": (4, 10),
        "head.branches.fc.cls.bias": (4,),
        "head.branches.conv.reg.bias": (12,),
    }

    assert count_weights(shapes) == {"backbone": 64, "head fc": 44, "head conv": 12}


def test_no_model_file_is_an_error_that_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"\x80\x02}q\x00.")

    result = CliRunner().invoke(app, ["info", str(tmp_path / "x.pth")])

    assert result.exit_code == 4
    assert "it is a Python pickle" in result.stderr
    assert not result.stdout


def test_a_run_folder_is_its_model_and_another_folder_is_an_error(model: Path) -> None:
    run = model.parent
    refused = CliRunner().invoke(app, ["info", str(run)])
    model.rename(run / "last.safetensors")

    result = CliRunner().invoke(app, ["info", str(run), "--json"])

    assert refused.exit_code == 4
    assert "is a folder without best.safetensors or last.safetensors" in refused.stderr
    assert f"hint: did you mean {model}?" in refused.stderr
    assert json.loads(result.stdout)["file"] == str(run / "last.safetensors")
    assert result.stderr == f"{run}: no best model yet, so its last, {run}/last.safetensors\n"

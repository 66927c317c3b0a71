"""`dh study weights` and `dh study features` as people and programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.weights.model_file import ModelFile, save_model
from tests.commands import dh, draw_squares


@pytest.fixture
def model(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Path:
    save_model(tmp_path / "m.safetensors", small_model("red", "green"))
    return tmp_path / "m.safetensors"


def test_weights_need_no_data(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights"
    told = json.loads(dh("study", "weights", "--weights", model, "--out", out, "--json").stdout)

    assert told["study"] == "weights"
    assert len(told["numbers"]) == 2 * 49 * 49
    assert told["numbers"][0]["pearson"] == 1
    made = {file.name for file in out.iterdir()}
    assert made == {"study.json", "study.csv", "weights.png", "weights_others.png"}
    assert len((out / "study.csv").read_text().splitlines()) == 1 + 2 * 49 * 49


def test_wrong_layer_is_one_clear_line(model: Path) -> None:
    words = ["study", "weights", "-w", str(model), "--branch", "fc", "--layer", "cls"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "--layer: no branch has a layer `cls` that reads the cells of a map" in result.stderr
    assert "these do: fc: trunk.1" in result.stderr


def test_features_of_some_images(model: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    data = draw_squares(tmp_path, rng, side=96, square=40)
    out = tmp_path / "features"
    words = ("--data", data, "--images", 2, "--device", "cpu", "--out", out)

    result = dh("study", "features", "-w", model, *words)

    assert "Cells of feature maps" in result.stdout
    assert {file.name for file in out.iterdir()} == {"study.json", "study.csv", "features.png"}
    told = json.loads((out / "study.json").read_text())
    assert told["facts"]["images"] == told["facts"]["rois"] == 2
    assert len(told["numbers"]) == 4 * 49 * 49

"""`dh weights set-read-out`: other scores and boxes, the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.config.heads import choose_read_out
from dhcli.metrics.operating import KEY
from dhcli.weights.model_file import ModelFile, read_model, save_model

POINT = {"threshold": 0.4, "precision": 0.9, "recall": 0.8, "f1": 0.85, "objects": 20}
MEASURED = {
    KEY: {"iou": 0.5, "all": POINT, "classes": {}},
    "metrics": {"AP": 0.3},
    "epoch": 7,
}


@pytest.fixture
def model(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Path:
    """A Double-Head-Ext that stores what its validation measured."""
    branches = [
        {"kind": "fc", "width": 24, "lambda": 0.7},
        {"kind": "conv", "width": 32, "residual": 2, "norm": "gn", "lambda": 0.8},
    ]
    path = tmp_path / "model.safetensors"
    save_model(path, replace(small_model("car", "bus", branches=branches), metadata=MEASURED))
    return path


def run(model: Path, *words: str, out: str = "out.safetensors") -> Result:
    given = ["weights", "set-read-out", str(model), "-o", str(model.with_name(out)), *words]
    return CliRunner().invoke(app, given)


def test_the_configuration_changes_and_no_weight(model: Path) -> None:
    result = run(model, "--scores", "fc", "--boxes", "conv")

    assert result.exit_code == 0, result.stderr
    before, after = read_model(model), read_model(model.with_name("out.safetensors"))
    assert choose_read_out(before.config.model, None, None) == ("complementary", "conv")
    assert choose_read_out(after.config.model, None, None) == ("fc", "conv")
    assert after.state.keys() == before.state.keys()
    assert all(torch.equal(after.state[name], before.state[name]) for name in before.state)
    told = CliRunner().invoke(app, ["info", str(model.with_name("out.safetensors"))])
    assert "scores fc, boxes conv" in told.stdout


def test_what_was_measured_with_another_read_out_goes(model: Path) -> None:
    result = run(model, "--scores", "fc")

    metadata = read_model(model.with_name("out.safetensors")).metadata
    assert not {KEY, "metrics"} & metadata.keys()
    assert metadata["epoch"] == 7
    assert f"note: `{KEY}` and `metrics` were measured with the former read-out" in result.stderr


def test_what_was_measured_stays_where_the_read_out_stays(model: Path) -> None:
    result = run(model, "--scores", "complementary")

    after = read_model(model.with_name("out.safetensors"))
    assert after.metadata[KEY] == MEASURED[KEY]
    assert after.metadata["metrics"] == MEASURED["metrics"]
    assert "note:" not in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "error: give --scores, --boxes or both"),
        (["--scores", "fcc"], "error: --scores: there is no `fcc`; it can be auto, fc, conv, max"),
        (["--boxes", "max"], "error: --boxes: there is no `max`; it can be auto, fc, conv"),
    ],
)
def test_a_read_out_that_cannot_be_is_one_line(model: Path, words: list[str], said: str) -> None:
    result = run(model, *words)

    assert result.exit_code == 2
    assert result.stderr.startswith(said)
    assert not model.with_name("out.safetensors").exists()


def test_the_model_itself_is_never_overwritten(model: Path) -> None:
    result = run(model, "--scores", "fc", "--overwrite", out="model.safetensors")

    assert result.exit_code == 1
    assert "is one of the inputs" in result.stderr

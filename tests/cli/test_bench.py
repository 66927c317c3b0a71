"""`dh bench` as people and programs see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dhcli.cli import app, bench
from dhcli.studies.speed import Speed
from dhcli.weights.model_file import ModelFile, save_model

BRANCHES = ["fc branch", "conv branch"]
PARTS = ["backbone", "neck", "RPN", "pool", *BRANCHES, "NMS", "boxes and the rest"]


@pytest.fixture
def model(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Path:
    save_model(tmp_path / "m.safetensors", small_model("Car", "Van"))
    return tmp_path / "m.safetensors"


def test_programs_get_every_number(model: Path) -> None:
    command = ["bench", str(model), "--image-size", "64x96", "--repeats", "2", "--device", "cpu"]

    result = CliRunner().invoke(app, [*command, "--precision", "bf16", "--json"])

    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["image"] == "64x96"
    assert told["precision"] == "bfloat16"
    assert list(told["parts"]) == PARTS
    assert all(seconds > 0 for seconds in told["parts"].values())
    assert told["latency"]["p50"] <= told["latency"]["p90"] <= told["latency"]["p99"]
    for name in ("images_per_second", "gflop", "gflop_per_second", "matmul", "copy", "memory"):
        assert told[name] > 0


def test_one_number_is_the_shortest_side_of_a_photo(model: Path) -> None:
    command = ["bench", str(model), "--image-size", "48", "--repeats", "1", "--device", "cpu"]

    result = CliRunner().invoke(app, [*command, "--json"])

    assert json.loads(result.stdout)["image"] == "48x64"


def test_people_get_a_table(model: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(model), "--repeats", "1", "--device", "cpu"])

    assert result.exit_code == 0, result.stderr
    assert all(part in result.stdout for part in PARTS)
    assert "images per second" in result.stdout


def test_operations_that_cannot_be_counted_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Those of an exported file."""
    about = {"model": "x.onnx"}
    speed = Speed(5.0, {"p50": 0.2}, {}, 3.0, None, None, matmul=90.0, copy=20.0, memory=10**9)

    bench._show(about, speed)

    told = capsys.readouterr().out
    assert "5.00 images per second" in told
    assert "per image, " not in told
    assert "this machine's matrix product 90.0 GFLOP/s" in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give either a model file or --preset"),
        (["--preset", "small", "--image-size", "0"], "`0` is not a size"),
        (["--preset", "smal"], "small"),
    ],
)
def test_what_cannot_be_measured(words: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["bench", *words])

    assert result.exit_code == 2
    assert said in result.stderr


def test_a_preset_is_measured_with_other_settings() -> None:
    small = ["input.min_size=32", "model.neck.channels=16", "model.backbone.name=resnet34"]
    sets = [word for one in small for word in ("--set", one)]
    command = ["bench", "--preset", "demo", *sets, "--image-size", "32x32", "--repeats", "1"]

    result = CliRunner().invoke(app, [*command, "--device", "cpu", "--json"])

    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["image"] == "32x32"


def test_settings_do_not_change_a_model_file(model: Path) -> None:
    result = CliRunner().invoke(app, ["bench", str(model), "--set", "model.neck.channels=16"])

    assert result.exit_code == 2
    assert "--set changes a preset" in result.stderr

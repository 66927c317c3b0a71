"""`dh study read-outs` and `dh study lambda` as people and programs see them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.weights.model_file import ModelFile, save_model


@pytest.fixture
def make_run(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Callable[..., Path]:
    """A function from λ_fc and λ_conv to the folder of a run of a Double-Head-Ext."""

    def make(fc: float, conv: float) -> Path:
        branches: list[dict[str, Any]] = [
            {"kind": "fc", "width": 8, "lambda": fc},
            {"kind": "conv", "width": 8, "residual": 1, "norm": "gn", "lambda": conv},
        ]
        folder = tmp_path / "runs" / f"{fc}-{conv}"
        save_model(folder / "best.safetensors", small_model("cat", "dog", branches=branches))
        return folder

    return make


def study(name: str, data: Path, *words: object) -> Result:
    fixed = ["study", name, "--data", str(data), "--device", "cpu"]
    return CliRunner().invoke(app, [*fixed, *map(str, words)])


def evaluate(run: Path, data: Path) -> dict[tuple[str, str], float]:
    """AP of each read-out as `dh eval` has it."""
    words = ["--weights", str(run), "--data", str(data), "--device", "cpu", "--read-outs", "all"]
    result = CliRunner().invoke(app, ["eval", *words, "--json", "--workers", "0"])
    rows = json.loads(result.stdout)["read_outs"]
    return {(r["scores"], r["boxes"]): r["metrics"]["coco"]["stats"]["AP"] for r in rows}


def test_read_outs_are_those_of_eval_with_the_best_marked(
    make_run: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    run, out = make_run(0.7, 0.8), tmp_path / "out"

    result = study("read-outs", photos, "-w", run, "--out", out, "--resamples", 5)

    assert result.exit_code == 0, result.stderr
    rows = list(csv.DictReader((out / "study.csv").read_text("utf-8").splitlines()))
    expected = evaluate(run, photos)
    assert {(r["scores"], r["boxes"]): float(r["AP"]) for r in rows} == expected
    [best] = [row for row in rows if "best" in row["mark"]]
    assert float(best["AP"]) == max(expected.values())
    assert "configured" in result.stdout


def test_lambda_has_what_eval_says_of_each_run(
    make_run: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    runs, out = [make_run(0.7, 0.8), make_run(1.0, 1.0)], tmp_path / "out"

    result = study("lambda", photos, "--runs", runs[0].parent, "--out", out, "--json")

    assert result.exit_code == 0, result.stderr
    assert (out / "lambda.png").stat().st_size > 1000
    rows = json.loads(result.stdout)["numbers"]
    assert len(rows) == 4 + 1  # with λ = 1 twice, fc scores and conv places boxes
    for run in runs:
        expected = evaluate(run, photos)
        mine = [row for row in rows if row["run"] == str(run)]
        for row in mine:
            assert row["AP"] == expected[row["scores"], row["boxes"]]


def test_bad_input_is_one_line(make_run: Callable[..., Path], photos: Path) -> None:
    run = make_run(0.7, 0.8)

    twice = study("lambda", photos, "--runs", run, "--runs", run)
    nothing = study("lambda", photos, "--runs", photos)

    assert (twice.exit_code, nothing.exit_code) == (2, 4)
    assert "has λ_fc 0.7 and λ_conv 0.8 as" in twice.stderr
    assert "is not a run with a model" in nothing.stderr

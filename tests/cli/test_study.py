"""`dh study`: each study as a command, its files, and what cannot be studied."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.weights.model_file import ModelFile, save_model
from tests.commands import dh
from tests.studies.conftest import FC, study_data, study_model

__all__ = ["study_data", "study_model"]
FEW = ["--windows", "80", "--device", "cpu"]


def fails(*words: object) -> Result:
    result = CliRunner().invoke(app, ["study", *map(str, words)])
    assert isinstance(result.exception, SystemExit)
    assert not result.stdout
    return result


@pytest.mark.parametrize(
    ("name", "figures"),
    [("windows", ["scores.png", "boxes.png"]), ("correlation", ["correlation.png"])],
)
def test_two_models_stand_side_by_side_in_tables_and_files(
    name: str,
    figures: list[str],
    study_data: Path,
    study_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    models = ["-w", study_model("ext"), "-w", study_model("one", FC)]
    out = tmp_path / "out"

    done = dh("study", name, *models, "--data", study_data, *FEW, "--out", out)

    assert all(label in done.stdout for label in ("ext/fc", "ext/conv", "one/fc"))
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["study.json", "study.csv", *figures]
    )
    for figure in figures:
        with Image.open(out / figure) as image:
            assert image.format == "PNG"
    document: dict[str, Any] = json.loads((out / "study.json").read_text("utf-8"))
    assert document["facts"]["objects"] == 6
    assert document["facts"]["models"]["ext"] == str(tmp_path / "ext.safetensors")
    with (out / "study.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(document["numbers"])


def test_json_is_what_the_file_says_and_a_seed_gives_the_same(
    study_data: Path, study_model: Callable[..., Path], tmp_path: Path
) -> None:
    words = ["study", "windows", "-w", study_model("one", FC), "--data", study_data, *FEW]

    one = dh(*words, "--images", 2, "--json", "--out", tmp_path / "out")

    written = json.loads((tmp_path / "out/study.json").read_text("utf-8"))
    assert json.loads(one.stdout) == written
    assert written["facts"]["images"] == 2
    assert json.loads(dh(*words, "--images", 2, "--json").stdout) == written


def test_classes_are_ranked_by_the_ap_of_a_baseline(
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
    study_data: Path,
) -> None:
    for name in ("model", "baseline"):
        found = small_model("car", "bus", "boat", branches=[FC])
        save_model(tmp_path / f"{name}.safetensors", found)
    words = ["study", "windows", "-w", tmp_path / "model.safetensors", "--data", study_data, *FEW]

    done = dh(*words, "--baseline", tmp_path / "baseline.safetensors", "--json")

    groups = json.loads(done.stdout)["facts"]["groups"]
    assert [groups[f"{name} classes"] for name in ("easy", "medium", "hard")] == [3, 3, 1]


def test_two_classes_have_no_thirds(study_data: Path, study_model: Callable[..., Path]) -> None:
    model = study_model("one", FC)

    result = fails("windows", "-w", model, "--data", study_data, *FEW, "--difficulty")

    assert "error: --difficulty: thirds of the classes need at least 3" in result.stderr


def test_a_branch_that_a_model_lacks_is_an_error(
    study_data: Path, study_model: Callable[..., Path]
) -> None:
    model = study_model("one", FC)

    result = fails("windows", "-w", model, "--data", study_data, *FEW, "--branch", "conv")

    assert result.exit_code == 2
    assert f"error: --branch: {model} has no branch `conv`" in result.stderr
    assert "hint: it has `fc`" in result.stderr


def test_data_without_the_classes_of_the_model_is_an_error(
    study_data: Path, tmp_path: Path, small_model: Callable[..., ModelFile]
) -> None:
    save_model(tmp_path / "trams.safetensors", small_model("tram", branches=[FC]))

    result = fails("correlation", "-w", tmp_path / "trams.safetensors", "--data", study_data)

    assert result.exit_code == 3
    assert "no class in common" in result.stderr


def test_a_size_without_objects_is_said(study_data: Path, study_model: Callable[..., Path]) -> None:
    done = dh("study", "windows", "-w", study_model("one", FC), "--data", study_data, *FEW)

    assert "no large objects in these images: left out" in done.stderr
    assert "large" not in done.stdout


def test_a_folder_that_is_there_is_an_error_before_any_work(
    study_data: Path, study_model: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()

    result = fails(
        "windows", "-w", tmp_path / "none", "--data", study_data, "--out", tmp_path / "out"
    )

    assert "already exists" in result.stderr

"""`dh predict` as people and programs see it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.weights.model_file import ModelFile, save_model


@pytest.fixture
def folder(
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working folder with model.safetensors and three photos, two of one name."""
    model = small_model("Car", "Cyclist")
    model = ModelFile(model.config, model.classes, (7, 42), model.state)
    save_model(tmp_path / "model.safetensors", model)
    for name in ("photos/a/1.jpg", "photos/b/1.jpg", "photos/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> Result:
    weights = [] if "--weights" in words else ["--weights", "model.safetensors"]
    command = ["predict", *weights, "--device", "cpu", *words]
    return CliRunner().invoke(app, command)


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def results_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "predictions.bbox.json").read_text())
    return rows


def test_a_photo_is_all_it_needs(folder: Path) -> None:
    result = run("photos/2.png")

    assert result.exit_code == 0, result.stderr
    assert files_below(folder / "predictions") == {
        "drawn/2.png",
        "predictions.bbox.json",
        "categories.json",
    }
    assert {row["image_id"] for row in results_of(folder / "predictions")} == {"2.png"}
    assert {row["category_id"] for row in results_of(folder / "predictions")} <= {7, 42}
    assert "1 image in" in result.stdout
    assert "written from score 0.05 and drawn from 0.3" in result.stderr


def test_a_second_run_takes_a_new_folder_and_a_named_one_is_reused(folder: Path) -> None:
    run("photos/2.png")
    run("photos/2.png")
    run("photos/2.png", "--out", "predictions", "--format", "csv", "--no-draw")

    assert files_below(folder / "predictions-2") == files_below(folder / "predictions") - {
        "predictions.csv"
    }
    assert not (folder / "predictions-3").exists()


def test_files_of_one_name_in_two_folders_keep_apart(folder: Path) -> None:
    result = run("photos", "--format", "coco-json,yolo", "--format", "voc,kitti,csv")

    assert result.exit_code == 0, result.stderr
    files = files_below(folder / "predictions")
    assert {"drawn/a/1.jpg", "drawn/b/1.jpg", "yolo/a/1.txt", "yolo/b/1.txt"} <= files
    assert {"voc/a/1.xml", "kitti/b/1.txt", "yolo/classes.txt", "predictions.csv"} <= files
    names = {row["image_id"] for row in results_of(folder / "predictions")}
    assert names == {"a/1.jpg", "b/1.jpg", "2.png"}


def test_json_is_one_document_on_stdout(folder: Path) -> None:
    (folder / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")

    result = run("photos", "--json", "--format", "none", "--no-draw", "--top-k", "3")

    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["images"] == 3
    assert document["unreadable"][0]["image"] == "broken.jpg"
    assert set(document["detections"]) == {"Car", "Cyclist"}
    assert 0 < sum(document["detections"].values()) <= 9
    assert "error: 1 of 4 images could not be read; the rest is done" in result.stderr
    assert "broken.jpg: " in result.stderr
    assert document["out"] is None
    assert not (folder / "predictions").exists()


def test_all_readable_images_are_written_before_the_exit_code_tells_of_others(folder: Path) -> None:
    for number in range(12):
        (folder / f"photos/broken{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")

    result = run("photos")

    assert result.exit_code == 1
    assert "error: 12 of 15 images could not be read; the rest is done" in result.stderr
    assert "and 2 more; --json lists all" in result.stderr
    assert {row["image_id"] for row in results_of(folder / "predictions")} == {
        *("a/1.jpg", "b/1.jpg", "2.png")
    }
    assert "3 images in" in result.stdout


def test_classes_and_scores_are_filtered(folder: Path) -> None:
    result = run("photos", "--classes", "cyclist", "--score-threshold", "0.4", "--no-draw")

    assert result.exit_code == 0, result.stderr
    rows = results_of(folder / "predictions")
    assert {row["category_id"] for row in rows} == {42}
    assert min(row["score"] for row in rows) >= 0.4
    assert "written from score 0.4\n" in result.stderr
    assert result.stdout.count("from 0.4") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["absent.jpg"], 3, "absent.jpg: no such image or folder"),
        (["photos", "--format", "xcsv"], 2, "did you mean `csv`?"),
        (["photos", "--format", "csv,none"], 2, "`none` cannot be combined"),
        (["photos", "--format", ""], 2, "--format: no format given"),
        (["photos", "--classes", ""], 2, "--classes: no class given"),
        (["photos", "--classes", "Cyclists"], 2, "did you mean `Cyclist`?"),
        (["photos", "--classes", "dog"], 2, "it knows: Car, Cyclist"),
        (["photos", "--device", "gpu"], 2, "unknown device `gpu`"),
        (["photos", "--out", "model.safetensors"], 1, "cannot be written"),
        (["model.safetensors"], 3, "no image could be read; the first of 1"),
        (["photos", "--weights", "photos/2.png"], 4, "it is a PNG image"),
        (["photos", "--weights", "absent.safetensors"], 4, "no such file"),
    ],
)
def test_bad_requests_are_one_clear_error(
    folder: Path, words: list[str], code: int, said: str
) -> None:
    result = run(*words)

    assert result.exit_code == code
    assert result.stderr.count("error:") == 1
    assert said in result.stderr
    assert not result.stdout
    assert not (folder / "predictions").exists()


@pytest.fixture
def dense(folder: Path, small_model: Callable[..., ModelFile]) -> Path:
    """The folder, whose model finds something everywhere and keeps five of it."""
    model = small_model("Car", "Cyclist")
    detect = model.config.model.detect.model_copy(
        update={"score_threshold": 0.0, "max_detections": 5}
    )
    kept = model.config.model.model_copy(update={"detect": detect})
    config = model.config.model_copy(update={"model": kept})
    save_model(folder / "model.safetensors", ModelFile(config, *(vars(model)[n] for n in REST)))
    return folder


REST = ("classes", "category_ids", "state")


def test_limit_that_is_reached_is_said(dense: Path) -> None:
    default = run("photos", "--no-draw", "--out", "five")
    fewer = run("photos", "--no-draw", "--out", "two", "--top-k", "2")
    more = run("photos", "--no-draw", "--out", "more", "--top-k", "80")

    assert "3 images reached the limit of 5 detections: --top-k" in default.stderr
    assert "reached the limit" not in fewer.stderr
    assert "of 5 detections" not in more.stderr
    assert len(results_of(dense / "five")) == 15
    assert len(results_of(dense / "two")) == 6
    assert len(results_of(dense / "more")) > 3 * 50  # the model takes 50 proposals an image


def test_limit_that_is_reached_in_evaluation_is_said(dense: Path) -> None:
    rows = [
        {"id": number, "file_name": name, "width": 80, "height": 60}
        for number, name in enumerate(("a/1.jpg", "b/1.jpg", "2.png"), 1)
    ]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 30, 30], "area": 900}]
    truth = {"images": rows, "annotations": boxes, "categories": [{"id": 1, "name": "Car"}]}
    (dense / "photos/truth.json").write_text(json.dumps(truth))

    def evaluate(*words: str) -> Result:
        command = ["eval", "--weights", "model.safetensors", "--data", "photos/truth.json"]
        return CliRunner().invoke(app, [*command, "--device", "cpu", "--workers", "0", *words])

    default, more = evaluate(), evaluate("--top-k", "120", "--json")

    assert "3 images reached the limit of 5 detections: --top-k" in default.stderr
    assert "of 5 detections" not in more.stderr
    assert json.loads(more.stdout)["detections"] > 15
    assert "AR120" in json.loads(more.stdout)["metrics"]["coco"]["stats"]

"""What goes wrong at the user's end: one clear line, the right exit code, nothing half-written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.data.formats import write_dataset
from dhcli.data.shapes import shapes_table
from dhcli.weights.model_file import ModelFile, save_model

USAGE, DATA, MODEL = 2, 3, 4


def dh(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(result: Result, code: int, *said: str) -> None:
    assert result.exit_code == code, result.output
    assert not result.stdout
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Ten drawn images as Pascal VOC."""
    (tmp_path / "drawn").mkdir()
    table = shapes_table(tmp_path / "drawn", images=10, seed=0, size=(96, 72))
    write_dataset(table, tmp_path / "shapes", "voc")
    return tmp_path / "shapes"


def train(data: Path, *words: object) -> Result:
    run = data.parent / "run"
    return dh("train", "--preset", "demo", "--data", data, "--out", run, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("convert nowhere taken --to voc", "taken: already exists"),
        ("check nowhere --fix taken", "taken: already exists"),
        ("inspect nowhere --out taken/file/new", "taken/file: cannot be written: not a folder"),
        ("eval --detections x.json --data nowhere --out taken/file", "cannot be written"),
        ("predict nowhere --weights nowhere --out taken/file", "cannot be written"),
        ("train --data nowhere --preset demo --out taken", "already exists and is not empty"),
        ("export nowhere --out taken", "taken: is a folder"),
        ("weights import nowhere --out taken", "taken: is a folder"),
        ("weights export nowhere --out taken/file/x.pth --layout mmdet", "cannot be written"),
    ],
)
def test_a_target_is_refused_before_the_work(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    monkeypatch.chdir(tmp_path)

    result = dh(*words.split())

    refused(result, 1, said)
    assert result.stderr.startswith("error: ")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["file"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    refused(train(tmp_path / "nowhere"), DATA, "nowhere")


def test_a_folder_of_no_known_format(tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "notes.txt").write_text("sun and sea")

    refused(train(folder), DATA, "holiday", "COCO", "YOLO", "notes.txt")


def test_a_dataset_without_images(tmp_path: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))

    refused(train(empty), DATA, "empty.json")


def test_classes_that_the_data_does_not_have(shapes: Path) -> None:
    refused(
        train(shapes, "--set", "data.classes=[circel]"), DATA, "circel", "did you mean `circle`"
    )


def test_a_model_of_other_classes(
    shapes: Path, tmp_path: Path, small_model: Callable[..., ModelFile]
) -> None:
    save_model(tmp_path / "model.safetensors", small_model("dog", "cat"))

    result = dh("eval", "--weights", tmp_path / "model.safetensors", "--data", shapes)

    assert result.exit_code == DATA
    assert "dog" in result.stderr
    assert "circle" in result.stderr


def test_a_truncated_jpeg_is_found_before_training(shapes: Path) -> None:
    victim = sorted((shapes / "JPEGImages").iterdir())[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])

    result = train(shapes)

    assert result.exit_code == DATA
    assert victim.name in result.stderr
    assert "on_bad_image=skip" in result.stderr
    assert not (shapes.parent / "run").exists()


def test_flat_and_outlying_boxes_are_named_and_mended(shapes: Path) -> None:
    path = next(p for p in sorted((shapes / "Annotations").iterdir()) if _is_listed(p, "train"))
    text = path.read_text("utf-8")
    extra = "".join(
        f"<object><name>circle</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in ((20, 20, 20, 20), (30, 30, 400, 60))
    )
    path.write_text(text.replace("</annotation>", f"{extra}</annotation>"), "utf-8")

    result = train(shapes, "--set", "data.on_bad_image=skip", "--set", "train.lr=-1")
    assert result.exit_code == USAGE  # settings are checked before the data is opened
    result = train(
        shapes,
        *("--set", "input.min_size=64", "--set", "input.max_size=96"),
        *("--set", "train.schedule={unit: iteration, length: 1, warmup: 0}"),
    )

    assert result.exit_code == 0, result.output
    assert f"{path.name}:" in result.stderr
    assert "has no area (left out)" in result.stderr
    assert "clip" in result.stderr


def _is_listed(annotation: Path, split: str) -> bool:
    names = (annotation.parents[1] / f"ImageSets/Main/{split}.txt").read_text("utf-8").split()
    return annotation.stem in names


def test_an_unknown_key(shapes: Path) -> None:
    refused(
        train(shapes, "--set", "optim.lrr=1"),
        USAGE,
        "unknown key `optim.lrr` in --set",
        "did you mean `train.lr`?",
    )


def test_a_model_file_that_is_a_bomb_of_nonsense(tmp_path: Path) -> None:
    bomb = tmp_path / "model.safetensors"
    bomb.write_bytes(gzip.compress(bytes(50_000_000)))
    (tmp_path / "photo.jpg").write_bytes(b"never read")

    refused(dh("predict", "--weights", bomb, tmp_path / "photo.jpg"), MODEL, "model.safetensors")


def test_a_run_folder_that_cannot_be_made(shapes: Path) -> None:
    """Below a file: root may write everywhere else, and tests run as root in CI."""
    blocked = shapes.parent / "file"
    blocked.touch()

    result = dh("train", "--preset", "demo", "--data", shapes, "--out", blocked / "run")

    assert result.exit_code == 1
    assert "cannot be written" in result.stderr
    assert "Traceback" not in result.stderr

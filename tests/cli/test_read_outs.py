"""`--scores`, `--boxes` and `--read-outs`: one model read in several ways."""

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
from dhcli.models.detector import FeatureDetector
from dhcli.weights.model_file import ModelFile, save_model

READ_OUTS = [
    ("fc", "fc"),
    ("conv", "conv"),
    ("fc", "conv"),
    ("max", "conv"),
    ("average", "conv"),
    ("complementary", "conv"),
]


@pytest.fixture
def folder(
    tmp_path: Path,
    small_model: Callable[..., ModelFile],
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A working folder with ext.safetensors, double.safetensors and a COCO dataset of 3 images."""
    heads = {"ext": (0.7, 0.8), "double": (1.0, 1.0)}
    for name, (fc, conv) in heads.items():
        branches = [
            {"kind": "fc", "width": 24, "lambda": fc},
            {"kind": "conv", "width": 32, "residual": 2, "norm": "gn", "lambda": conv},
        ]
        save_model(tmp_path / f"{name}.safetensors", small_model("car", "bus", branches=branches))
    images, annotations = [], []
    for number in range(3):
        pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 80, "height": 60})
        box = {"bbox": [10, 10, 40, 30], "area": 1200, "iscrowd": 0}
        annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data.json").write_text(json.dumps(document), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluate(model: str, *words: str) -> Result:
    fixed = ["--data", "data.json", "--device", "cpu", "--workers", "0", "--batch-size", "1"]
    return CliRunner().invoke(app, ["eval", "--weights", f"{model}.safetensors", *fixed, *words])


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((path / "predictions.bbox.json").read_text("utf-8"))
    return rows


def test_all_read_outs_are_one_table_of_one_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, extract = [], FeatureDetector.extract
    monkeypatch.setattr(FeatureDetector, "extract", lambda *a: passes.append(1) or extract(*a))

    result = evaluate("ext", "--read-outs", "all", "--metric", "coco,voc07")

    assert result.exit_code == 0, result.stderr
    assert len(passes) == 3  # images
    rows = [tuple(line.split()[:2]) for line in result.stdout.splitlines() if line.strip()]
    assert [row for row in rows if row in READ_OUTS] == READ_OUTS * 2
    assert "Fig. 6 (d), Table 3" in result.stdout


def test_each_is_what_it_is_alone(folder: Path) -> None:
    result = evaluate("ext", "--read-outs", "all", "--json", "--out", "every")

    assert result.exit_code == 0, result.stderr
    together = json.loads(result.stdout)["read_outs"]
    assert [(row["scores"], row["boxes"]) for row in together] == READ_OUTS
    for scores, boxes in READ_OUTS[:1] + READ_OUTS[3:]:
        alone = evaluate(
            "ext", "--scores", scores, "--boxes", boxes, "--json", "--out", "one", "--overwrite"
        )
        document = json.loads(alone.stdout)
        row = next(r for r in together if (r["scores"], r["boxes"]) == (scores, boxes))
        assert {key: row[key] for key in document} == document
        assert rows_of(folder / f"every/{scores}-{boxes}") == rows_of(folder / "one")
    assert rows_of(folder / "every/fc-fc") != rows_of(folder / "every/fc-conv")


def test_a_model_with_one_read_out_gives_one(folder: Path) -> None:
    document = json.loads(evaluate("double", "--read-outs", "all", "--json").stdout)

    assert [(row["scores"], row["boxes"]) for row in document["read_outs"]] == [("fc", "conv")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--scores", "conv"],
            "error: --scores: `conv` has no classifier (its λ is 1); it can be auto, fc",
        ),
        (["--boxes", "fc"], "error: --boxes: `fc` has no box regression (its λ is 1)"),
        (["--read-outs", "all", "--scores", "fc"], "error: --read-outs measures all"),
        (["--read-outs", "all", "--fail-under", "AP=0.1"], "error: --read-outs measures all"),
    ],
)
def test_what_cannot_be_given_is_an_error(folder: Path, words: list[str], said: str) -> None:
    result = evaluate("double", *words)

    assert result.exit_code == 2
    assert said in result.stderr
    assert not result.stdout


def test_detections_made_elsewhere_have_no_read_outs(folder: Path) -> None:
    words = ["eval", "--data", "data.json", "--detections", "x.json", "--scores", "fc"]

    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert "are about a model, not about --detections" in result.stderr


def test_predict_reads_the_model_as_it_is_told(folder: Path) -> None:
    def predict(model: str, *words: str) -> Result:
        fixed = ["predict", "--weights", f"{model}.safetensors", "0.png", "--no-draw"]
        return CliRunner().invoke(app, [*fixed, "--device", "cpu", *words])

    for boxes in ("fc", "conv"):
        result = predict("ext", "--scores", "fc", "--boxes", boxes, "--out", boxes)
        assert result.exit_code == 0, result.stderr
    fc, conv = rows_of(folder / "fc"), rows_of(folder / "conv")
    assert {row["score"] for row in fc} & {row["score"] for row in conv}
    assert [row["bbox"] for row in fc] != [row["bbox"] for row in conv]
    assert predict("double", "--scores", "max").exit_code == 2

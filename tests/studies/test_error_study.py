"""`dh study errors` on small models: where duplicates come from, what is counted and drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.data.formats import read_dataset
from dhcli.data.table import make_table
from dhcli.models.two_stage.head import Head
from dhcli.report.study_errors import FOUND, MISSED, PROPOSAL, WIDTH, zoom_on
from dhcli.studies.error_sides import Compared, Origin, choose_sides, compare, find_origins
from dhcli.studies.error_study import CORNERS, error_study
from dhcli.studies.errors import DUPLICATE, Case, Rule, Side, find_cases, judge_side
from dhcli.studies.subjects import open_subjects
from tests.studies.conftest import CONV, FC

MakeModel = Callable[..., Path]
RULE = Rule()


def ext(make: MakeModel, name: str = "ext") -> Path:
    return make(name, FC | {"lambda": 0.7}, CONV | {"lambda": 0.8})


def test_a_detection_comes_from_the_proposal_that_was_refined_to_it(
    study_model: MakeModel, study_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what the head saw and said while it detected, scaled and clipped by hand."""
    seen, detect = [], Head.detect

    def spy(head, read_outs, levels, boxes, images, *rest):
        found = detect(head, read_outs, levels, boxes, images, *rest)
        seen.append((boxes.numpy(), found))
        return found

    reads = choose_sides(open_subjects([ext(study_model)]))
    truth = read_dataset(study_data).with_classes(("car", "bus"), others="drop")
    with monkeypatch.context() as patch:
        patch.setattr(Head, "detect", spy)
        compared = compare(reads, truth, rule=RULE, threshold=0.05)
    assert [read.name for read in reads] == ["conv", "fc", "both"]
    assert len(seen) == 3  # one pass over the images
    side, image = compared.sides[1], 1
    rows = np.arange(len(side.found.boxes))[side.found.rows(image)][:9]
    cases = [
        Case(DUPLICATE, 1, image, 0, row, -1, float(side.found.scores[row]), 0.0)
        for row in rows.tolist()
    ]

    sources = (reads[0].source, reads[1].source)
    origins = find_origins(sources, truth, cases, compared.sides)

    proposals, (conv, fc, _) = seen[image]
    for case in cases:
        box, label = side.found.boxes[case.row], side.found.labels[case.row]
        own = {"car": 1, "bus": 0}[side.found.classes[label]]
        boxes = original(fc.boxes.numpy())
        mine = (fc.labels.numpy() == own) & (np.abs(boxes - box).max(axis=1) < 1e-3)
        [row] = set(fc.rows.numpy()[mine].tolist())
        assert origins[case].proposal == pytest.approx(original(proposals[row]), abs=1e-3)
        theirs = (conv.rows.numpy() == row) & (conv.labels.numpy() == own)
        if theirs.any():
            expected = original(conv.boxes.numpy()[theirs][0])
            assert origins[case].other == pytest.approx(expected, abs=1e-3)


def original(boxes: np.ndarray) -> np.ndarray:
    """Of the network's 85 × 64 pixels in the image's 160 × 120."""
    x, y = np.clip(boxes[..., ::2], 0, 85) * 160 / 85, np.clip(boxes[..., 1::2], 0, 64) * 120 / 64
    return np.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)


def study(data: Path, *words: object) -> Result:
    fixed = ["study", "errors", "--data", str(data), "--device", "cpu"]
    return CliRunner().invoke(app, [*fixed, *map(str, words)])


def test_the_files_hold_what_was_counted(
    study_model: MakeModel, study_data: Path, tmp_path: Path
) -> None:
    words = ("--iou-threshold", 0.05, "--score-threshold", 0.34)
    out = tmp_path / "out"

    result = study(study_data, "-w", ext(study_model), *words, "--out", out, "--json")

    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document == json.loads((out / "study.json").read_text("utf-8"))
    rows = list(csv.DictReader((out / "study.csv").read_text("utf-8").splitlines()))
    counts = document["facts"]["counts"]
    assert counts["objects"] == 6  # neither the crowd nor the ignored one nor the boat
    parts = ("found by both", "only conv", "only fc", "by neither")
    assert sum(counts[name] for name in parts) == 6
    for name in ("conv", "fc"):
        assert sum(r["kind"] == "only" and r["by"] == name for r in rows) == counts[f"only {name}"]
    assert rows
    pictures = sorted(out.glob("*.png"))
    assert pictures
    with Image.open(pictures[0]) as picture:
        assert picture.width > 4 * WIDTH  # ground truth, conv, fc, both
    assert {row["class"] for row in rows} <= {"car", "bus"}


def test_a_duplicate_has_its_proposal_in_the_table_and_yellow_in_the_picture(
    study_data: Path, tmp_path: Path
) -> None:
    truth = read_dataset(study_data).with_classes(("car", "bus"), others="drop")
    car = [30, 20, 90, 70]

    def side(name: str, *more: list[int]) -> Side:
        boxes = [car, *more]
        found = make_table(
            truth.root, truth.files, truth.sizes, [0, len(boxes), 0], boxes, [0] * len(boxes),
            truth.classes, scores=np.linspace(0.9, 0.8, len(boxes)),
        )  # fmt: skip
        return Side(name, found, 0.5)

    sides = (side("conv"), side("fc", [30, 20, 55, 70]))
    verdicts = (judge_side(truth, sides[0], RULE), judge_side(truth, sides[1], RULE))
    cases = find_cases(truth, sides, verdicts)
    origin = Origin((10.0, 10.0, 60.0, 80.0), (31.0, 21.0, 88.0, 71.0))

    done = error_study(
        Compared(truth, sides, None, verdicts, cases, {cases[0]: origin}), RULE, 5, {}
    )

    names = [column.name for column in done.numbers.columns]
    [row] = [dict(zip(names, row, strict=True)) for row in done.numbers.rows]
    assert (row["kind"], row["by"], row["image"], row["rank"]) == ("duplicate", "fc", "1.png", 1)
    assert row["IoU"] == pytest.approx(25 / 60)
    assert [row[f"proposal {corner}"] for corner in CORNERS] == [10, 10, 60, 80]
    assert [row[f"other box {corner}"] for corner in CORNERS] == car
    assert done.facts["counts"]["duplicates fc"] == 1
    assert done.sheets[0].rows[0] == ("all", 6, 1, 0, 0, 5, 0, 1)
    [(name, draw)] = done.figures.items()
    assert name == "duplicate_fc_01.png"
    draw(tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    for colour in (FOUND, MISSED, PROPOSAL):
        assert (pixels == colour).all(axis=-1).sum() > 100


def test_two_models_of_a_branch_stand_beside_each_other(
    study_model: MakeModel, study_data: Path
) -> None:
    conv, fc = study_model("only_conv", CONV), study_model("only_fc", FC)

    result = study(study_data, "-w", conv, "-w", fc, "--score-threshold", 0.1, "--json")

    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)["facts"]
    assert facts["thresholds"] == {"only_conv": 0.1, "only_fc": 0.1}
    assert {"only only_conv", "only only_fc"} <= facts["counts"].keys()


def test_bad_input_is_one_line(study_model: MakeModel, study_data: Path) -> None:
    double = study_model("double", FC | {"lambda": 1.0}, CONV | {"lambda": 1.0, "focus": "reg"})
    single = study_model("single", FC)
    models = [ext(study_model, f"m{n}") for n in range(4)]
    cases = {
        "error: double: two branches are compared that both score and refine": ["-w", double],
        "error: single: two branches are compared that both score and refine": ["-w", single],
        "error: --weights: compares two sides": [x for m in models for x in ("-w", m)],
        "finds no object": ["-w", models[0], "--iou-threshold", 1],
    }
    for said, words in cases.items():
        result = study(study_data, *words)
        assert result.exit_code == 2, (said, result.stderr)
        assert said in result.stderr
        assert not result.stdout


def test_what_is_shown_large_has_the_shape_of_the_image_and_lies_in_it() -> None:
    for region in ((0, 0, 10, 10), (300, 100, 390, 290), (150, 90, 250, 110), (0, 0, 400, 300)):
        x1, y1, x2, y2 = zoom_on(region, 400, 300)
        assert (x2 - x1) / (y2 - y1) == pytest.approx(400 / 300)
        assert min(x1, y1) >= 0
        assert x2 <= 400 + 1e-9
        assert y2 <= 300 + 1e-9
        assert x1 <= region[0] + 1e-9
        assert y2 >= region[3] - 1e-9

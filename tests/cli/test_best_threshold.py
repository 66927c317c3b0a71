"""The threshold that a model stores: what `predict`, `eval`, `info` and the API make of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import dhcli
from dhcli.cli import app
from dhcli.errors import ConfigError
from dhcli.metrics.operating import KEY, OperatingPoint, OperatingPoints
from dhcli.weights.model_file import ModelFile, read_metadata, save_model
from tests.commands import dh, draw_squares

CLASSES = ("red", "green")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_model: Callable[..., ModelFile]) -> Path:
    """A folder with `photos`, `bare.safetensors`, and models that store thresholds.

    Those of `one.safetensors` are the same for both classes, those of `two.safetensors` differ;
    each is a score in the middle of what is found.
    """
    folder = tmp_path_factory.mktemp("best")
    draw_squares(folder, np.random.default_rng(0), 64, 24)
    model = small_model(*CLASSES)
    save_model(folder / "bare.safetensors", model)
    found = dhcli.load(folder / "bare.safetensors", device="cpu").predict(photos_of(folder))
    assert found.scores is not None
    middle = [float(np.median(found.scores[found.labels == label])) for label in (0, 1)]
    points = [OperatingPoint(round(score, 4), 0.5, 0.25, 1 / 3, 12) for score in middle]
    for name, classes in {"one": {}, "two": dict(zip(CLASSES, points, strict=True))}.items():
        stored = {KEY: OperatingPoints(points[0], classes).as_dict()}
        about = ModelFile(model.config, model.classes, model.category_ids, model.state, stored)
        save_model(folder / f"{name}.safetensors", about)
    return folder


def photos_of(folder: Path) -> list[str]:
    return [str(path) for path in sorted((folder / "drawn").iterdir())]


def stored_in(folder: Path, name: str) -> dict[str, float]:
    found = dhcli.load(folder / f"{name}.safetensors", device="cpu").best_thresholds
    assert found is not None
    return found


def predict(folder: Path, name: str, *words: object) -> Any:
    return dh("predict", "--weights", folder / f"{name}.safetensors", folder / "drawn",
              "--device", "cpu", "--out", folder / "out", "--overwrite", *words)  # fmt: skip


def scores_of(folder: Path) -> dict[str, list[float]]:
    rows = json.loads((folder / "out/predictions.bbox.json").read_text())
    return {
        name: [row["score"] for row in rows if row["category_id"] == number]
        for number, name in enumerate(CLASSES, 1)
    }


@pytest.mark.parametrize("name", ["one", "two"])
def test_pictures_are_drawn_by_the_stored_thresholds_unless_a_score_is_given(
    place: Path, name: str
) -> None:
    least = stored_in(place, name)

    told = predict(place, name, "--json")
    outcome = json.loads(told.stdout)

    scores = scores_of(place)
    assert (outcome["best"], outcome["thresholds"]) == (True, least)
    assert outcome["drawn_from"] == min(least.values())
    assert outcome["score_from"] == 0.05
    assert outcome["drawn"] == {k: sum(s >= least[k] for s in scores[k]) for k in CLASSES}
    assert 0 < outcome["drawn"]["red"] < outcome["detections"]["red"]
    spread = f"{min(least.values()):g} to {max(least.values()):g}, by class"
    said = f"{least['red']:g}" if name == "one" else spread
    assert f"written from score 0.05 and drawn from {said} (best F1 on validation)" in told.stderr
    plain = json.loads(predict(place, name, "--json", "--score-threshold", "0.2").stdout)
    assert (plain["best"], plain["drawn_from"], plain["score_from"]) == (False, 0.2, 0.2)


@pytest.mark.parametrize("name", ["one", "two"])
def test_best_writes_by_the_stored_thresholds(place: Path, name: str) -> None:
    least = stored_in(place, name)
    predict(place, name)
    every = scores_of(place)

    told = predict(place, name, "--score-threshold", "best")

    kept = scores_of(place)
    assert kept == {k: [s for s in every[k] if s >= least[k]] for k in CLASSES}
    assert "written from score 0" in told.stderr
    assert " drawn from" not in told.stderr
    rows = {row[0]: row[1:] for row in map(str.split, told.stdout.splitlines()) if row}
    own = {k: [] if name == "one" else [f"{least[k]:g}"] for k in CLASSES}
    assert {k: rows[k] for k in CLASSES} == {k: [str(len(kept[k])), *own[k]] for k in CLASSES}


def test_thresholds_that_were_found_with_another_nms_are_noted(place: Path) -> None:
    note = "note: these thresholds were found as the model is configured"

    as_is = predict(place, "one", "--nms", "hard", "--score-threshold", "best")
    soft = predict(place, "one", "--nms", "soft", "--score-threshold", "best")
    named = predict(place, "one", "--nms", "soft", "--score-threshold", "0.2")

    assert [note in " ".join(told.stderr.split()) for told in (as_is, soft, named)] == [
        *(False, True, False)
    ]


def test_a_model_without_thresholds_draws_from_0_3_as_another_read_out_does(place: Path) -> None:
    for name, words in (("bare", ()), ("two", ("--scores", "conv"))):
        outcome = json.loads(predict(place, name, "--json", *words).stdout)
        assert (outcome["best"], outcome["drawn_from"]) == (False, 0.3)


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("bare", ["best"], "the model stores no best threshold\n"),
        (
            "two",
            ["best", "--scores", "conv"],
            "the model stores no best threshold for these --scores",
        ),
        ("two", ["good"], "`good` is neither a number between 0 and 1 nor `best`"),
        ("two", ["1.5"], "`1.5` is neither a number between 0 and 1 nor `best`"),
        ("two", ["nan"], "`nan` is neither a number between 0 and 1 nor `best`"),
    ],
)
def test_what_cannot_be_a_threshold_is_one_clear_error(
    place: Path, name: str, words: list[str], said: str
) -> None:
    command = ["predict", "--weights", str(place / f"{name}.safetensors"), str(place / "drawn")]

    result = CliRunner().invoke(app, [*command, "--device", "cpu", "--score-threshold", *words])

    assert result.exit_code == 2
    assert f"error: --score-threshold: {said}" in result.stderr
    assert ("hint: `dh eval --weights … --data …` prints one" in result.stderr) == (
        words[0] == "best"
    )


def test_the_api_finds_what_best_writes(place: Path) -> None:
    model = dhcli.load(place / "two.safetensors", device="cpu")
    predict(place, "two", "--score-threshold", "best")

    results = model(photos_of(place), score_threshold="best")

    counts = Counter(name for result in results for name in result.names)
    assert counts == {name: len(scores) for name, scores in scores_of(place).items()}
    assert len(model.predict(photos_of(place), score_threshold="best").boxes) == counts.total()
    assert model.best_thresholds == stored_in(place, "two")
    bare = dhcli.load(place / "bare.safetensors", device="cpu")
    assert bare.best_thresholds is None
    with pytest.raises(ConfigError, match="score_threshold: the model stores no best threshold"):
        bare(photos_of(place)[0], score_threshold="best")
    with pytest.raises(ConfigError, match="must be a number or"):
        bare(photos_of(place)[0], score_threshold="good")  # type: ignore[call-overload]


def test_info_shows_them_in_words(place: Path) -> None:
    one, two, bare = (
        dh("info", place / f"{name}.safetensors").stdout for name in ("one", "two", "bare")
    )

    least = stored_in(place, "two")
    worth = "precision 50.0 %, recall 25.0 %, F1 33.3 %"
    assert f"score from {least['red']:g}: {worth}" in one
    assert f"red {least['red']:g}, green {least['green']:g}" in two
    assert "by class" not in one
    assert "best F1" not in bare
    assert KEY not in two
    about = json.loads(dh("info", place / "two.safetensors", "--json").stdout)["metadata"]
    assert about[KEY] == read_metadata(place / "two.safetensors").metadata[KEY]


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., Any]:
    """`dh eval` of detections made from the squares: of each class, some are right."""
    photos = draw_squares(tmp_path, np.random.default_rng(1), 64, 24)
    truth = dhcli.read_dataset(photos)
    rows = [
        {"image_id": int(truth.image_ids[image]), "category_id": int(truth.category_ids[label]),
         "bbox": [float(x1) + shift, float(y1), float(x2 - x1), float(y2 - y1)], "score": score}
        for image, (x1, y1, x2, y2), label in zip(
            truth.image_of_box.tolist(), truth.boxes.tolist(), truth.labels.tolist(), strict=True
        )
        for shift, score in ((0, 0.9 if image < 10 else 0.3), (50, 0.5 if image < 6 else 0.2))
    ]  # fmt: skip
    (tmp_path / "found.json").write_text(json.dumps(rows))
    words = ("eval", "--detections", tmp_path / "found.json", "--data", photos)
    return lambda *more: dh(*words, *more)


def test_eval_prints_the_threshold_of_best_f1(measure: Callable[..., Any], tmp_path: Path) -> None:
    result = measure("--out", tmp_path / "out")

    # 10 of 12 right from 0.9; with the 6 wrong ones of 0.5 before the 2 right ones of 0.3
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["all", "0.7", "100.0", "83.3", "90.9", "12"] in rows
    assert ["red", "0.7", "100.0", "83.3", "90.9", "6"] in rows
    error = (10 * 0.1 + 2 * 0.7 + 6 * 0.5 + 6 * 0.2) / 24
    assert f"expected calibration error of the scores: {100 * error:.1f} %" in result.stdout
    saved = json.loads((tmp_path / "out/metrics.json").read_text())
    assert saved[KEY]["all"] == {
        "threshold": 0.7, "precision": 1.0, "recall": 10 / 12, "f1": 10 / 11, "objects": 12,
    }  # fmt: skip
    assert (saved[KEY]["target_precision"], saved[KEY]["stored"]) == (None, None)
    assert saved["calibration"]["ece"] == pytest.approx(error)
    assert len(saved["calibration"]["bins"]) == 10
    assert (tmp_path / "out/reliability.png").exists()


def test_eval_prints_the_threshold_of_a_precision(measure: Callable[..., Any]) -> None:
    result = measure("--target-precision", "0.65", "--json")

    points = json.loads(result.stdout)[KEY]
    assert points["target_precision"] == 0.65
    assert (points["all"]["threshold"], points["all"]["recall"]) == (0.25, 1.0)  # 12 of 18
    rows = [line.split() for line in measure("--target-precision", "0.65").stdout.splitlines()]
    assert ["all", "0.25", "66.7", "100.0", "80.0", "12"] in rows


def test_a_precision_that_nothing_reaches_is_said(place: Path) -> None:
    words = ("eval", "--weights", place / "two.safetensors", "--data", place / "photos",
             "--device", "cpu", "--workers", "0", "--target-precision", "1")  # fmt: skip

    result = dh(*words)

    assert "no score threshold reaches a precision of 100 % over all classes" in result.stdout
    least = stored_in(place, "two")
    assert f"with the model's stored thresholds ({least['red']:g} over all classes)" in (
        result.stdout
    )
    points = json.loads(dh(*words, "--json").stdout)[KEY]
    assert points["all"] is None
    assert points["stored"]["objects"] == 12

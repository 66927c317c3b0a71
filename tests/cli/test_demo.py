"""The demo: what it clears, and the whole of it on a few images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.cli import demo as demo_module


def test_what_is_in_the_folder_is_left_alone(tmp_path: Path) -> None:
    treasure = tmp_path / "thesis.txt"
    treasure.write_text("years of work")

    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])

    assert result.exit_code == 1
    assert "already exists" in result.stderr
    assert treasure.read_text() == "years of work"


def test_an_earlier_demo_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    (out / "run").mkdir(parents=True)
    monkeypatch.setattr(demo_module, "_draw", lambda folder, seed: None)
    monkeypatch.setattr(demo_module, "_train", lambda out, device, seed: None)
    monkeypatch.setattr(demo_module, "_evaluate", lambda out, device: 0.75)
    monkeypatch.setattr(demo_module, "_predict", lambda out, device: None)

    result = CliRunner().invoke(app, ["demo", "--overwrite", "--out", str(out)])

    assert result.exit_code == 0
    assert not (out / "run").exists()
    assert "AP50 on unseen images: 75.0 %" in (out / "summary.txt").read_text()


def test_each_step_gets_what_the_one_before_it_made_and_is_said_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The three commands replaced by ones that note what they are asked for."""
    out = tmp_path / "demo"
    asked: dict[str, dict[str, Any]] = {}

    def train(**words: Any) -> None:
        asked["train"] = words

    def evaluate(**words: Any) -> None:
        asked["eval"] = words
        words["out"].mkdir()
        report = {"metrics": {"coco": {"stats": {"AP50": 0.5}}}}
        (words["out"] / "metrics.json").write_text(json.dumps(report))

    def predict(**words: Any) -> None:
        asked["predict"] = words
        drawn = words["out"] / "drawn"
        drawn.mkdir(parents=True)
        for path in words["images"]:
            Image.new("RGB", (40, 30)).save(drawn / Path(path).name)

    monkeypatch.setattr(demo_module, "IMAGES", 10)
    monkeypatch.setattr("dhcli.cli.train.train", train)
    monkeypatch.setattr("dhcli.cli.eval.eval_", evaluate)
    monkeypatch.setattr("dhcli.cli.predict.predict", predict)

    result = CliRunner().invoke(app, ["demo", "-o", str(out), "--seed", "7", "--device", "cpu"])

    assert result.exit_code == 0, result.output
    shapes, best = out / "shapes", out / "run/best.safetensors"
    names = (shapes / "ImageSets/Main/val.txt").read_text().split()
    assert asked["train"]["seed"] == 7
    assert (asked["train"]["data"], asked["train"]["out"]) == (shapes, best.parent)
    assert (asked["eval"]["weights"], asked["eval"]["split"]) == (best, "val")
    assert [Path(path).stem for path in asked["predict"]["images"]] == names
    assert {words["device"] for words in asked.values()} == {"cpu"}
    assert f"$ dh train --preset demo --data {shapes} --out {out / 'run'}" in result.stderr
    assert "AP50 on unseen images: 50.0 %" in result.stderr
    assert (out / "overview.png").exists()


@pytest.mark.slow
def test_every_step_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "IMAGES", 20)

    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])

    assert result.exit_code == 0, result.output
    left = {path.name for path in (tmp_path / "demo").iterdir()}
    expected = {"shapes", "run", "evaluation", "predictions", "overview.png", "summary.txt"}
    assert expected <= left
    assert (tmp_path / "demo/run/curves.png").exists()

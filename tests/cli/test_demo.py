"""The demo: what it clears, and the whole of it on a few images."""

from __future__ import annotations

from pathlib import Path

import pytest
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


@pytest.mark.slow
def test_every_step_of_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "IMAGES", 20)

    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])

    assert result.exit_code == 0, result.output
    left = {path.name for path in (tmp_path / "demo").iterdir()}
    expected = {"shapes", "run", "evaluation", "predictions", "overview.png", "summary.txt"}
    assert expected <= left
    assert (tmp_path / "demo/run/curves.png").exists()

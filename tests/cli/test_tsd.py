"""TSD by every command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.weights.model_file import read_model
from tests.commands import dh, draw_squares

pytestmark = pytest.mark.usefixtures("shallow")

ROI = "roi: {kind: disentangled, width: 8}"
BRANCHES = (
    "[{kind: fc, name: sibling, width: 16, omega: 2, lambda: 0.5},"
    f" {{kind: fc, name: pc, width: 16, {ROI}}},"
    f" {{kind: fc, name: pr, focus: reg, width: 16, {ROI}}}]"
)
SMALL = [
    *("--set", f"model.head.branches={BRANCHES}", "--set", "model.neck.channels=16"),
    *("--set", "model.backbone={kind: resnet, name: resnet18, norm: gn, weights: none}"),
    *("--set", "model.head.scores=auto", "--set", "model.head.boxes=auto"),
    *("--set", "input.min_size=32", "--set", "input.max_size=32"),
]
QUIET = ["--set", "train.workers=0", "--set", "train.schedule.length=1", "--device", "cpu"]


@pytest.mark.slow
def test_it_trains_resumes_is_measured_and_tuned(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = draw_squares(tmp_path, rng, side=32, square=14)
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    best = run / "best.safetensors"

    dh("train", "--data", photos, *SMALL, *QUIET, "--out", run, "--freeze", "0")
    dh("train", "--resume", run, "--set", "train.schedule.length=2", "--device", "cpu")
    every = dh("eval", "--weights", best, "--data", photos, "--read-outs", "all", "--split", "all")
    speed = dh("bench", best, "--image-size", "32x32", "--repeats", "1", "--json")
    told = dh("info", best, "--json")
    dh("finetune", photos, "--weights", best, *QUIET, "--out", tuned, "--freeze", "2",
       "--set", "train.lr=1e-9",
       "--set", "data.classes=[green]", "--set", "data.others=ignore")  # fmt: skip
    refused = CliRunner().invoke(app, ["export", str(best), "-o", str(tmp_path / "x.onnx")])

    assert all(name in every.stdout for name in ("sibling", "pc", "pr"))
    parts = list(json.loads(speed.stdout)["parts"])
    assert parts[3:8] == ["pool", "disentangle", "sibling branch", "pc branch", "pr branch"]
    assert json.loads(told.stdout)["weights"]["head disentangle"] > 0
    before, after = (read_model(path).state for path in (best, tuned / "best.safetensors"))
    for name, group in (("sibling.cls", 1), ("pc.cls", 1), ("pr.reg", 4)):
        row, skipped = f"head.branches.{name}.weight", int(group == 1)  # of the background
        old, new = before[row][skipped:], after[row][skipped:]
        assert torch.allclose(new[:group], old[group : 2 * group], atol=1e-5)
    assert refused.exit_code != 0
    assert "deformable pooling" in refused.stderr

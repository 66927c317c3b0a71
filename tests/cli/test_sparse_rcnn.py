"""Sparse R-CNN by every command, and on the drawn shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.data.shapes import draw_shapes
from dhcli.weights.model_file import read_model
from tests.commands import dh, draw_squares

pytestmark = pytest.mark.usefixtures("shallow")

SMALL = [
    *("--set", "model.kind=queries", "--set", "model.neck.channels=16"),
    *("--set", "model.backbone={name: resnet18, norm: gn, weights: none}"),
    *("--set", "model.head={proposals: 6, stages: 2, dynamic_width: 8, ffn_width: 32}"),
    *("--set", "input.min_size=32", "--set", "input.max_size=32"),
]
QUIET = ["--set", "train.workers=0", "--set", "train.schedule.length=1", "--device", "cpu"]


def test_it_trains_is_measured_and_tuned(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = draw_squares(tmp_path, rng, side=32, square=14)
    best, tuned = tmp_path / "run/best.safetensors", tmp_path / "tuned"

    dh("train", "--data", photos, *SMALL, *QUIET, "--out", tmp_path / "run", "--freeze", "0")
    measured = dh("eval", "--weights", best, "--data", photos, "--split", "all", "--json")
    every = dh("eval", "--weights", best, "--data", photos, "--read-outs", "all", "--split", "all")
    speed = dh("bench", best, "--image-size", "32x32", "--repeats", "1", "--json")
    told = dh("info", best).stdout
    dh("finetune", photos, "--weights", best, *QUIET, "--out", tuned, "--freeze", "2",
       "--set", "train.lr=1e-9",
       "--set", "data.classes=[green]", "--set", "data.others=ignore")  # fmt: skip

    assert json.loads(measured.stdout)["images"] == 12
    assert every.stdout.count("model") == 2
    parts = list(json.loads(speed.stdout)["parts"])
    assert parts[:5] == ["backbone", "neck", "pool", "stage 1", "stage 2"]
    assert "6 learned proposals, 2 stages" in told
    before, after = (read_model(path).state for path in (best, tuned / "best.safetensors"))
    for stage in range(2):
        row = f"head.stages.{stage}.cls.weight"
        assert before[row].shape[0] == 2
        assert torch.allclose(after[row][0], before[row][1], atol=1e-5)


def test_what_it_has_not_is_one_error(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = draw_squares(tmp_path, rng, side=32, square=14)
    dh("train", "--data", photos, *SMALL, *QUIET, "--out", tmp_path / "run", "--freeze", "0")
    best = str(tmp_path / "run/best.safetensors")

    for option in (["--nms", "soft"], ["--across-classes", "0.5"], ["--gate", "0.1"]):
        asked = CliRunner().invoke(app, ["predict", str(photos), "--weights", best, *option])
        assert asked.exit_code == 2
        assert option[0] in asked.stderr
    back = ["weights", "export", best, "-o", str(tmp_path / "x.pth"), "--layout"]
    for layout, why in (("torchvision", "of kind `queries`"), ("mmdet", "with batch norm")):
        asked = CliRunner().invoke(app, [*back, layout])
        assert why in asked.stderr


SHAPES = """
extends: demo
input: {min_size: 120, max_size: 160, mean: [127.5, 127.5, 127.5], std: [127.5, 127.5, 127.5]}
model:
  kind: queries
  backbone: {kind: timm, name: tf_efficientnet_lite0, weights: package, norm: eval_bn}
  neck: {channels: 96}
  head: {proposals: 30, stages: 3, ffn_width: 384, dynamic_width: 24}
train:
  lr: 5e-4
  batch_size: 8
  reference_batch: 8
  clip_norm: 1
  weight_decay: 1e-4
  schedule: {kind: step, unit: iteration, length: 640, steps: [540], warmup: 50}
  eval_every: 4
  workers: 0
  cache: ram
"""


@pytest.mark.slow
def test_its_graph_detects_what_it_detects(tmp_path: Path, rng: np.random.Generator) -> None:
    photos = draw_squares(tmp_path, rng, side=32, square=14)
    dh("train", "--data", photos, *SMALL, *QUIET, "--out", tmp_path / "run", "--freeze", "0")
    best, graph = tmp_path / "run/best.safetensors", tmp_path / "best.onnx"

    dh("export", best, "-o", graph)

    options = ["predict", photos, "--no-draw", "--json", "--device", "cpu"]
    told = [dh(*options, "--weights", one, "--out", tmp_path / one.suffix[1:]).stdout
            for one in (best, graph)]  # fmt: skip
    counts = [json.loads(one)["detections"] for one in told]
    assert counts[0] == counts[1]
    assert sum(counts[0].values()) == 12 * 12


@pytest.mark.slow
def test_it_learns_the_drawn_shapes(tmp_path: Path) -> None:
    """400 small images, 16 epochs of 320 of them: four minutes of a core."""
    draw_shapes(tmp_path / "shapes", images=400, seed=0, size=(160, 120))
    (tmp_path / "sparse.yaml").write_text(SHAPES)

    told = dh("train", "--data", tmp_path / "shapes", "--config", tmp_path / "sparse.yaml",
              "--out", tmp_path / "run", "--device", "cpu", "--json").stdout  # fmt: skip

    assert max(row["AP50"] for row in json.loads(told)["history"] if "AP50" in row) > 0.6

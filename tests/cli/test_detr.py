"""DETR and Deformable DETR by every command, and on the drawn shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dhcli.data.shapes import draw_shapes
from dhcli.weights.model_file import read_model
from tests.commands import dh, draw_squares

pytestmark = pytest.mark.usefixtures("shallow")

HEAD = "queries: 6, encoder_layers: 1, decoder_layers: 2, attention_heads: 2, ffn_width: 32"
SMALL = [
    *("--set", "model.kind=detr", "--set", "input.divisor=1"),
    *("--set", "model.backbone={name: resnet18, norm: gn, weights: none}"),
    *("--set", "input.min_size=32", "--set", "input.max_size=32"),
]
KINDS = {
    "detr": [f"model.head={{kind: detr, {HEAD}}}", "model.neck.channels=16"],
    "deformable": [
        f"model.head={{kind: deformable, refine: true, {HEAD}}}",
        "model.neck={channels: 16, finest: 3, coarsest: 5}",
        "model.loss.kind=focal",
    ],
}
QUIET = ["--set", "train.workers=0", "--set", "train.schedule.length=1", "--device", "cpu"]


def settings(kind: str) -> list[str]:
    return [*SMALL, *(word for one in KINDS[kind] for word in ("--set", one))]


@pytest.mark.parametrize("kind", ["detr", pytest.param("deformable", marks=pytest.mark.slow)])
def test_it_trains_is_measured_resumed_and_tuned(
    tmp_path: Path, rng: np.random.Generator, kind: str
) -> None:
    photos = draw_squares(tmp_path, rng, side=32, square=14)
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    best = run / "best.safetensors"

    dh("train", "--data", photos, *settings(kind), *QUIET, "--out", run, "--freeze", "0")
    dh("train", "--resume", run, "--set", "train.schedule.length=2", "--device", "cpu")
    measured = dh("eval", "--weights", best, "--data", photos, "--split", "all", "--json")
    speed = dh("bench", best, "--image-size", "32x32", "--repeats", "1", "--json")
    told = dh("info", best).stdout
    dh("finetune", photos, "--weights", best, *QUIET, "--out", tuned, "--freeze", "2",
       "--set", "train.lr=1e-9", "--set", "train.lr_multipliers={backbone: 0.1}",
       "--set", "data.classes=[green]", "--set", "data.others=ignore")  # fmt: skip

    assert json.loads(measured.stdout)["images"] == 12
    parts = list(json.loads(speed.stdout)["parts"])
    assert parts[:5] == ["backbone", "neck", "encoder 1", "decoder 1", "decoder 2"]
    assert f"{kind}: 6 queries, 1 + 2 layers" in told
    before, after = (read_model(path).state for path in (best, tuned / "best.safetensors"))
    row = "head.cls.weight" if kind == "detr" else "head.cls.1.weight"
    first = int(kind == "detr")  # the background's
    assert before[row].shape[0] == first + 2
    assert torch.allclose(after[row][first], before[row][first + 1], atol=1e-5)
    if first:
        assert torch.allclose(after[row][0], before[row][0], atol=1e-5)


SHAPES = """
extends: demo
input: {min_size: 96, max_size: 128, divisor: 1, mean: [127.5, 127.5, 127.5],
        std: [127.5, 127.5, 127.5]}
model:
  kind: detr
  backbone: {kind: timm, name: tf_efficientnet_lite0, weights: package, norm: eval_bn}
  neck: {kind: map, channels: 96, finest: 4, coarsest: 4}
  head: {kind: detr, queries: 15, encoder_layers: 1, decoder_layers: 3, ffn_width: 384, dropout: 0}
train:
  lr: 3e-4
  batch_size: 8
  reference_batch: 8
  optimizer: adamw
  clip_norm: 0.1
  weight_decay: 1e-4
  schedule: {kind: step, unit: iteration, length: 5000, steps: [4000], warmup: 50}
  eval_every: 5
  workers: 0
  cache: ram
"""
DEFORMABLE = """
extends: shapes.yaml
input: {min_size: 120, max_size: 160}
model:
  neck: {finest: 3, coarsest: 5, norm: gn}
  head: {kind: deformable, queries: 30, encoder_layers: 2, decoder_layers: 3, ffn_width: 384,
         refine: true}
  loss: {kind: focal}
train:
  lr: 5e-4
  lr_multipliers: {sampling_offsets: 0.1, reference_points: 0.1}
  clip_norm: 1
  schedule: {length: 960, steps: [800]}
  eval_every: 4
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "images", "size", "bar"),
    [("detr", 1250, (128, 96), 0.4), ("deformable", 400, (160, 120), 0.5)],
)
def test_it_learns_the_drawn_shapes(
    tmp_path: Path, kind: str, images: int, size: tuple[int, int], bar: float
) -> None:
    """Four fifths of the small images: 40 times each for DETR, 24 times for the deformable one.

    At twice its lr, DETR had learnt nothing after a thousand steps.
    """
    draw_shapes(tmp_path / "shapes", images=images, seed=0, size=size)
    (tmp_path / "shapes.yaml").write_text(SHAPES)
    (tmp_path / "deformable.yaml").write_text(DEFORMABLE)
    config = tmp_path / {"detr": "shapes.yaml", "deformable": "deformable.yaml"}[kind]

    told = dh("train", "--data", tmp_path / "shapes", "--config", config,
              "--out", tmp_path / "run", "--device", "cpu", "--json").stdout  # fmt: skip

    assert max(row["AP50"] for row in json.loads(told)["history"] if "AP50" in row) > bar

"""SABL and IoU-Net by every command. TSD and Sparse R-CNN have files of their own beside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.weights.model_file import read_model
from tests.commands import dh, draw_squares

pytestmark = pytest.mark.usefixtures("shallow")


class System(NamedTuple):
    """A member of the family.

    settings  what makes it of the default detector
    parts     of its time, in `dh bench`
    told      words of `dh info`
    rows      tensors with a row for each class, and one before them for the background if True
    nms       what `dh export` refuses until asked for hard NMS
    """

    settings: tuple[str, ...]
    parts: list[str]
    told: str
    rows: dict[str, bool]
    nms: str


SYSTEMS = {
    "sabl": System(
        ("model.head.branches=[{kind: fc, width: 16, layers: 1}, {kind: side, width: 16}]",),
        ["pool", "fc branch", "side branch"],
        "boxes by buckets",
        {"fc.cls": True},
        "Soft-NMS",  # the default preset's
    ),
    "iou": System(
        (
            "model.head.branches=[{kind: fc, width: 16, omega: 2, lambda: 0.5},"
            " {kind: fc, name: iou, focus: iou, width: 16}]",
            "model.head.jitter.samples=20",
            "model.detect.nms.kind=guided",
        ),
        ["pool", "fc branch", "iou branch"],
        "focus iou",
        {"fc.cls": True, "iou.iou": False},
        "IoU-guided NMS",
    ),
}
SMALL = (
    "model.backbone={kind: resnet, name: resnet18, norm: gn, weights: none, frozen_stages: 0}",
    *("model.neck.channels=16", "model.head.scores=auto", "model.head.boxes=auto"),
    *("model.rpn.proposals_test=20", "model.rpn.proposals_train=20", "model.head.samples=16"),
    *("input.min_size=32", "input.max_size=32"),
)
QUIET = ["--set", "train.workers=0", "--set", "train.schedule.length=1", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_it_trains_resumes_is_measured_and_tuned(
    system: System, tmp_path: Path, rng: np.random.Generator
) -> None:
    photos = draw_squares(tmp_path, rng, side=32, square=14)
    run, tuned = tmp_path / "run", tmp_path / "tuned"
    best = run / "best.safetensors"
    sets = [word for one in (*SMALL, *system.settings) for word in ("--set", one)]

    dh("train", "--data", photos, *sets, *QUIET, "--out", run)
    dh("train", "--resume", run, "--set", "train.schedule.length=2", "--device", "cpu")
    measured = dh("eval", "--weights", best, "--data", photos, "--split", "all", "--json")
    speed = dh("bench", best, "--image-size", "32x32", "--repeats", "1", "--json")
    told = dh("info", best).stdout
    dh("finetune", photos, "--weights", best, *QUIET, "--out", tuned, "--freeze", "2",
       "--set", "train.lr=1e-9",
       "--set", "data.classes=[green]", "--set", "data.others=ignore")  # fmt: skip
    refused = CliRunner().invoke(app, ["export", str(best), "-o", str(tmp_path / "x.onnx")])

    assert json.loads(measured.stdout)["images"] == 12
    assert [part for part in json.loads(speed.stdout)["parts"] if part in system.parts] == (
        system.parts
    )
    assert system.told in " ".join(told.split())
    before, after = (read_model(path) for path in (best, tuned / "best.safetensors"))
    assert after.config.model.backbone.frozen_stages == 2
    for name, background in system.rows.items():
        row, first = f"head.branches.{name}.weight", int(background)
        old, new = before.state[row], after.state[row]
        assert new.shape[0] == first + 1
        assert torch.allclose(new[first], old[first + 1], atol=1e-5)
    assert refused.exit_code != 0
    assert system.nms in refused.stderr
    assert "`--nms hard` writes it" in refused.stderr

"""The seams hold: who may know a detector's inside, and that a stranger passes through them all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import dhcli
from dhcli.cli import app
from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.schema import Config, Detect
from dhcli.config.schema.base import Section
from dhcli.models import build
from dhcli.models.contract import Detector, Predictor
from dhcli.ops.batch import Detections, ImageBatch, Target
from tests.commands import dh, draw_squares
from tests.toy import widened

ROOT = Path(dhcli.__file__).parent
INSIDE = (
    r"\.(rpn|head|neck|backbone|pool|select|trunk)\b(?!\.py)",
    r"\blayer[1-4]\b",
    r"two_stage|ResNetFeatures|necks",
)
"""Names of parts of a concrete detector."""
MAY_KNOW = {
    "models": "where the detectors are",
    "data": "below the models: an import contract keeps it from knowing them",
    "config": "the settings of the parts",
    "weights/layouts": "the names of the parts in files of weights",
    "studies": "the paper's analyses look into the head that it is about",
}
SETTINGS = re.compile(r"config\.model(\.\w+)+|model\.(head|neck|backbone|pool|rpn)\b")
"""A setting by its name is no part of a detector."""


def test_nothing_outside_models_names_a_part_of_a_concrete_detector() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place.startswith(tuple(f"{room}/" for room in MAY_KNOW)):
            continue
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
            bare = SETTINGS.sub("", line)
            if any(re.search(pattern, bare) for pattern in INSIDE):
                found.append(f"{place}:{number}: {line.strip()}")

    assert found == []


class Toy(Section):
    """One convolution, one box."""

    kind: Literal["toy"] = "toy"
    channels: int = 4
    detect: Detect = Detect()

    def describe(self) -> list[tuple[str, str]]:
        return [("toy", f"{self.channels} channels")]


class ToyDetector(Detector):
    """Says of every image what it is, and where the one thing in it lies."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.cls = nn.Linear(channels, classes)
        self.box = nn.Linear(channels, 4)

    def read(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        x = images.pixels.to(self.conv.weight.dtype) / 255
        vector = self.conv(x).relu().mean(dim=(2, 3))
        return self.cls(vector).float(), self.box(vector).float().sigmoid()

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        logits, boxes = self.read(images)
        labels = torch.stack([target.labels[0] for target in targets])
        sides = images.sizes.flip(1).repeat(1, 2)
        goals = torch.stack([target.boxes[0] for target in targets]) / sides
        return {
            "loss_cls": nn.functional.cross_entropy(logits, labels),
            "loss_box": (boxes - goals).abs().mean(),
        }

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        least = options.over(Detect()).score_threshold
        logits, boxes = self.read(images)
        best = logits.softmax(1).max(1)
        found = []
        for i, original in enumerate(images.originals):
            kept = best.values[i : i + 1] > least
            box = boxes[i : i + 1] * original.flip(0).repeat(2)
            found.append(
                Detections(box[kept], best.values[i : i + 1][kept], best.indices[i : i + 1][kept])
            )
        return [found]

    def predictors(self) -> Mapping[str, Predictor]:
        return {f"cls.{part}": Predictor(1) for part in ("weight", "bias")}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`model.kind: toy` as a kind of detector."""
    monkeypatch.setitem(
        build.BUILDERS, Toy, lambda config, classes: ToyDetector(config.model.channels, classes)
    )
    with widened(Config, "model", Toy):
        yield


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Twelve images, each with one red or green square."""
    return draw_squares(tmp_path, rng, side=32, square=14)


SMALL = [
    *("--set", "model.kind=toy", "--set", "input.min_size=32", "--set", "input.max_size=32"),
    *("--set", "train.workers=0", "--set", "train.lr=0.1", "--set", "train.schedule.warmup=0"),
]


@pytest.mark.usefixtures("toys")
def test_a_stranger_trains_resumes_is_measured_predicts_and_is_described(
    photos: Path, tmp_path: Path
) -> None:
    run, best = tmp_path / "run", tmp_path / "run/best.safetensors"
    begin = ["train", "--data", photos, *SMALL, "--out", run, "--device", "cpu"]

    dh(*begin, "--set", "train.schedule.length=1")
    resumed = dh("train", "--resume", run, "--set", "train.schedule.length=3", "--json")
    measured = dh("eval", "--weights", best, "--data", photos, "--split", "all", "--json")
    said = dh("predict", "--weights", best, photos, "--out", tmp_path / "found", "--json")
    speed = dh("bench", best, "--image-size", "32x32", "--repeats", "1", "--json")
    told = dh("info", best).stdout
    other = tmp_path / "tuned"
    dh("finetune", photos, "--weights", best, *SMALL[2:], "--out", other)

    assert [row["epoch"] for row in json.loads(resumed.stdout)["history"]] == [1, 2, 3]
    assert json.loads(measured.stdout)["images"] == 12
    assert json.loads(said.stdout)["images"] == 12
    parts = list(json.loads(speed.stdout)["parts"])
    assert parts == ["conv", "cls", "box", "boxes and the rest"]
    assert re.search(r"toy +4 channels", told)
    assert re.search(r"conv +112", told)
    assert (
        "model: {kind: toy" in (run / "config.yaml").read_text()
        or "kind: toy" in told + (run / "config.yaml").read_text()
    )
    assert (other / "best.safetensors").exists()


@pytest.mark.usefixtures("toys")
def test_a_stranger_that_can_be_read_in_one_way_says_so(photos: Path, tmp_path: Path) -> None:
    dh("train", "--data", photos, *SMALL, "--out", tmp_path / "run", "--device", "cpu",
       "--set", "train.schedule.length=1")  # fmt: skip
    best = str(tmp_path / "run/best.safetensors")

    asked = CliRunner().invoke(app, ["predict", "--weights", best, str(photos), "--scores", "fc"])
    gated = CliRunner().invoke(
        app, ["eval", "--weights", best, "--data", str(photos), "--gate", "0.1"]
    )

    assert asked.exit_code == gated.exit_code == 2
    assert "can be read in one way only" in asked.stderr
    assert "--gate" in gated.stderr

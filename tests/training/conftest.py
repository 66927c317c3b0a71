"""A detector of a few weights, a dataset of a few pixels, and trainers made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.load import config_from_dict
from dhcli.config.schema import Config
from dhcli.data.table import DetectionTable, make_table
from dhcli.models.contract import Detector
from dhcli.ops.batch import Detections, ImageBatch, Target
from dhcli.runtime.team import ALONE, Team
from dhcli.training.data import TrainingData
from dhcli.training.journal import Interval, Journal
from dhcli.training.loop import Trainer
from dhcli.training.run_folder import RunFolder

CPU = torch.device("cpu")


class TinyDetector(Detector):
    """A convolution, batch norm, and losses that draw random numbers, as sampling does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.cls = nn.Linear(4, 1)

    def losses(self, images: ImageBatch, targets: list[Target]) -> dict[str, Tensor]:
        x = self.norm(self.conv(images.pixels.float() / 255)).mean(dim=(2, 3))
        goal = torch.tensor([[float(len(target.boxes))] for target in targets])
        noise = torch.rand_like(goal)
        return {
            "loss_cls": (self.cls(x).float() - goal).square().mean(),
            "loss_reg": 0.1 * (x.float().sum(1) - noise).square().mean(),
        }

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        box = torch.tensor([[4.0, 4.0, 20.0, 20.0]]) + self.cls.bias.detach()
        label = torch.zeros(1, dtype=torch.long)
        return [[Detections(box, torch.ones(1), label) for _ in images.sizes]]


class Recorder:
    """A display that keeps what it is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.intervals: list[Interval] = []
        self.validated = (0, 0)
        self.on_tick: Callable[[int, int], None] = lambda epoch, iteration: None

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def tick(self, epoch: int, iteration: int, length: int) -> None:
        self.on_tick(epoch, iteration)

    def validating(self, done: int, images: int) -> None:
        self.validated = (done, images)

    def interval(self, interval: Interval) -> None:
        self.intervals.append(interval)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that cannot be read is read again at once."""
    monkeypatch.setattr("dhcli.data.loading.loader.PAUSES", (0, 0))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def table(tmp_path: Path, rng: np.random.Generator) -> DetectionTable:
    """Seven images of 32 × 32 noise, each with one box of class `dot`."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(7):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    boxes = [[4, 4, 20, 20]] * 7
    files = [f"{number}.png" for number in range(7)]
    return make_table(folder, files, [[32, 32]] * 7, [1] * 7, boxes, [0] * 7, ["dot"])


@pytest.fixture
def make_config() -> Callable[..., Config]:
    """A configuration for 32-pixel images, with these settings of `train`."""

    def make(schedule: dict[str, Any] | None = None, **train: Any) -> Config:
        shape = {"length": 3, "warmup": 2, "steps": [2]} | (schedule or {})
        fast = {"lr": 0.05, "reference_batch": 2, "batch_size": 2, "workers": 0, "log_every": 2}
        sizes = {"min_size": 32, "max_size": 32}
        return config_from_dict({"input": sizes, "train": {**fast, **train, "schedule": shape}})

    return make


@pytest.fixture
def make_detector() -> Callable[[], TinyDetector]:
    def make() -> TinyDetector:
        torch.manual_seed(0)
        return TinyDetector()

    return make


@pytest.fixture
def make_trainer(
    tmp_path: Path, table: DetectionTable, recorder: Recorder, make_detector: Callable[[], Any]
) -> Callable[..., Trainer]:
    """A trainer of the tiny detector into the folder `name`; in a team each has its own display."""

    def make(config: Config, name: str = "run", val: bool = True, team: Team = ALONE) -> Trainer:
        path = tmp_path / name
        path.mkdir(exist_ok=True)
        run = RunFolder(path)
        journal = Journal(recorder if team is ALONE else Recorder(), team)
        journal.open(run)
        data = TrainingData(table, table if val else None)
        return Trainer(config, make_detector(), data, run, journal, CPU, team=team)

    return make

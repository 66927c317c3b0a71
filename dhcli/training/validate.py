"""How good a detector is between two epochs: its losses and its AP on images it does not learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable
from dhcli.inference.evaluate import Shared, as_table, detect_all
from dhcli.metrics.coco import coco_ap
from dhcli.metrics.judge import judge
from dhcli.metrics.operating import IOU, best_f1, find_points
from dhcli.models.contract import Detector
from dhcli.runtime.precision import Precision
from dhcli.runtime.runner import Runner
from dhcli.runtime.team import ALONE, Team
from dhcli.training.step import seed_all

Tick = Callable[[int], None]
"""Is called with the number of images done, equally often in every process; may raise, to stop."""


@torch.no_grad()
def validation_losses(
    detector: Detector,
    loader: EvalLoader,
    precision: Precision,
    tick: Tick,
    team: Team = ALONE,
) -> dict[str, float]:
    """Means of the loss parts over the images of every process's `loader`, and `loss`, their sum.

    What the losses sample is drawn from the same seeds at every call, so that values compare
    between epochs and do not depend on the size of the team. The detector is left in eval mode.
    """
    detector.eval()
    sums: dict[str, torch.Tensor] = {}
    images = 0
    for number, batch in enumerate(Shared(loader, team)):
        if len(batch):  # else none of its images could be read
            seed_all(team.rank + number * team.size)  # the batch's number among those of all
            moved = batch.to(precision.device)
            with precision.autocast():
                losses = detector.losses(moved.images, moved.targets)
            for name, loss in losses.items():
                sums[name] = sums.get(name, loss.new_zeros(())) + loss * len(batch)
            images += len(batch)
        tick(images)
    _wait_for_the_longest(loader, images, tick)
    means = team.mean({name: float(value) for name, value in sums.items()}, images)
    return means | {"loss": sum(means.values())}


def validation_ap(
    runner: Runner,
    table: DetectionTable,
    loader: EvalLoader,
    tick: Tick,
    team: Team = ALONE,
) -> tuple[dict[str, float], dict[str, Any]]:
    """COCO's twelve numbers by name, and the operating points of best F1 as plain values.

    Both in the precision that `dh eval` measures in, from the same detections; {} for the points
    where not one detection is right. `loader` gives this process's share of the images of `table`.
    The first process scores what all have found.
    """

    def score() -> tuple[dict[str, float], dict[str, Any]]:
        tables = (table, as_table(every, table, runner.classes))
        points = find_points(judge(*tables, IOU), best_f1)
        return coco_ap(*tables).stats, points.as_dict() if points.all else {}

    found = detect_all(runner, Shared(loader, team), tick=tick)
    _wait_for_the_longest(loader, len(loader.images), tick)
    every = dict(team.gather([(image, own) for image, [own] in found.items()]))
    return team.from_first(score)


def _wait_for_the_longest(loader: EvalLoader, images: int, tick: Tick) -> None:
    """Tick as often as the process that has the most batches: a tick may ask the whole team."""
    for _ in range(loader.longest - len(loader)):
        tick(images)

"""How good a detector is between two epochs: its losses and its AP on images it does not learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable, make_table
from dhcli.inference.evaluate import detect_tables
from dhcli.metrics.coco import coco_ap
from dhcli.models.contract import Detector
from dhcli.runtime.precision import Precision
from dhcli.runtime.runner import Runner
from dhcli.training.step import seed_all
from dhcli.training.team import ALONE, Team

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
    for number, batch in enumerate(loader):
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
) -> dict[str, float]:
    """COCO's twelve numbers by name, in the precision that `dh eval` measures them in.

    `loader` gives this process's share of the images of `table`. The first process scores what all
    have found.
    """
    own = table.take_images(loader.images)
    [found] = detect_tables(runner, own, loader, progress=lambda done, _: tick(done))
    _wait_for_the_longest(loader, len(own), tick)
    rows = team.gather(_rows(found, loader.images))
    return team.from_first(lambda: coco_ap(table, _as_table(rows, table)).stats)


def _wait_for_the_longest(loader: EvalLoader, images: int, tick: Tick) -> None:
    """Tick as often as the process that has the most batches: a tick may ask the whole team."""
    for _ in range(loader.longest - len(loader)):
        tick(images)


Row = tuple[int, NDArray[np.float64], NDArray[np.int32], NDArray[np.float64]]
"""Of an image: its number, and the boxes (D, 4), labels (D,) and scores (D,) found in it."""


def _rows(found: DetectionTable, images: NDArray[np.int64]) -> list[Row]:
    assert found.scores is not None
    return [
        (image, found.boxes[rows], found.labels[rows], found.scores[rows])
        for image, rows in zip(images.tolist(), map(found.rows, range(len(found))), strict=True)
    ]


def _as_table(rows: list[Row], table: DetectionTable) -> DetectionTable:
    """The rows of every image of `table`, in its order."""
    numbers, boxes, labels, scores = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    if len(numbers) != len(table):
        raise RuntimeError("the loaders of the team left out images, or gave some twice")
    return make_table(
        table.root,
        table.files,
        table.sizes,
        [len(one) for one in boxes],
        np.concatenate(boxes),
        np.concatenate(labels),
        table.classes,
        scores=np.concatenate(scores),
        image_ids=table.image_ids,
        category_ids=table.category_ids,
    )

"""How good a detector is between two epochs: its losses and its AP on images it does not learn."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable
from dhcli.inference.evaluate import detect_tables
from dhcli.metrics.coco import coco_ap
from dhcli.models.contract import Detector
from dhcli.runtime.precision import Precision
from dhcli.runtime.runner import Runner
from dhcli.training.step import seed_all

Tick = Callable[[int], None]
"""Is called after every batch with the number of images done; may raise, to stop."""


@torch.no_grad()
def validation_losses(
    detector: Detector,
    loader: EvalLoader,
    precision: Precision,
    tick: Tick,
) -> dict[str, float]:
    """Means of the loss parts over the images of `loader`, and `loss`, their sum.

    What the losses sample is drawn from the same seeds at every call, so that values compare
    between epochs. The detector is left in eval mode.
    """
    detector.eval()
    sums: dict[str, torch.Tensor] = {}
    images = 0
    for number, batch in enumerate(loader):
        seed_all(number)
        moved = batch.to(precision.device)
        with precision.autocast():
            losses = detector.losses(moved.images, moved.targets)
        for name, loss in losses.items():
            sums[name] = sums.get(name, loss.new_zeros(())) + loss * len(batch)
        images += len(batch)
        tick(images)
    means = {name: float(value) / images for name, value in sums.items()}
    return means | {"loss": sum(means.values())}


def validation_ap(
    runner: Runner,
    table: DetectionTable,
    loader: EvalLoader,
    tick: Tick,
) -> dict[str, float]:
    """COCO's twelve numbers by name, in the precision that `dh eval` measures them in.

    `loader` gives the images of `table`.
    """
    [found] = detect_tables(runner, table, loader, progress=lambda done, _: tick(done))
    return coco_ap(table, found).stats

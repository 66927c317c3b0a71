from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable
from dhcli.runtime.eager import EagerRunner
from dhcli.runtime.precision import Precision
from dhcli.training.validate import validation_ap, validation_losses

CPU = torch.device("cpu")


class CountsImages(torch.nn.Module):
    """Its loss is 1 for a batch of two images and 4 for a batch of one."""

    def losses(self, images: Any, targets: Any) -> dict[str, torch.Tensor]:
        return {"loss_cls": torch.tensor(1.0 if len(images) == 2 else 4.0)}


def test_losses_are_means_over_images_not_over_batches(
    table: DetectionTable, make_config: Callable[..., Any]
) -> None:
    loader = EvalLoader(table, make_config().input, batch_size=2, workers=0)
    done: list[int] = []

    losses = validation_losses(CountsImages(), loader, Precision("fp32", CPU), done.append)  # type: ignore[arg-type]

    assert losses == {"loss_cls": pytest.approx((6 * 1 + 1 * 4) / 7), "loss": losses["loss_cls"]}
    assert done == [2, 4, 6, 7]


def test_ap_has_the_twelve_numbers(
    table: DetectionTable, make_config: Callable[..., Any], make_detector: Callable[[], Any]
) -> None:
    loader = EvalLoader(table, make_config().input, batch_size=2, workers=0)
    detector = make_detector()
    detector.cls.bias.data.zero_()  # it then finds the very boxes of the table
    done: list[int] = []

    runner = EagerRunner(detector, make_config(), ("dot",), (1,), CPU)

    stats, points = validation_ap(runner, table, loader, done.append)

    assert len(stats) == 12
    assert (stats["AP"], stats["AP75"], stats["AR1"]) == (1.0, 1.0, 1.0)
    everything = {"threshold": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0, "objects": 7}
    assert points == {"iou": 0.5, "all": everything, "classes": {"dot": everything}}
    assert done[-1] == 7


def test_a_detector_that_finds_nothing_right_has_no_operating_points(
    table: DetectionTable, make_config: Callable[..., Any], make_detector: Callable[[], Any]
) -> None:
    loader = EvalLoader(table, make_config().input, batch_size=2, workers=0)
    detector = make_detector()
    detector.cls.bias.data.fill_(12.0)
    runner = EagerRunner(detector, make_config(), ("dot",), (1,), CPU)

    stats, points = validation_ap(runner, table, loader, lambda _: None)

    assert (stats["AP50"], points) == (0.0, {})

"""Curves of a training, looked at through what matplotlib was told to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from PIL import Image

from dhcli.report.curves import draw_curves

HISTORY: list[dict[str, Any]] = [
    {"epoch": 1, "train_loss": 2.0, "train_loss_fc_cls": 1.0},
    {"epoch": 2, "train_loss": 1.0, "train_loss_fc_cls": 0.5, "val_loss": 1.5, "AP": 0.25},
]


def test_every_part_is_a_curve_where_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, list[tuple[float, float]]] = {}
    plot = Axes.plot

    def spy(axes: Axes, x: Any, y: Any, **style: Any) -> Any:
        drawn[style["label"]] = list(zip(x, y, strict=True))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", spy)

    draw_curves(HISTORY, tmp_path / "curves.png")

    assert drawn == {
        "loss": [(1, 2.0), (2, 1.0)],
        "loss_fc_cls": [(1, 1.0), (2, 0.5)],
        "loss, validation": [(2, 1.5)],
        "AP": [(2, 25.0)],
    }
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1210, 440)


def test_a_training_without_validation(tmp_path: Path) -> None:
    draw_curves(HISTORY[:1], tmp_path / "curves.png")

    assert (tmp_path / "curves.png").exists()

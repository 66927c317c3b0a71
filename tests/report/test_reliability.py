"""The picture of scores and precision, looked at through what matplotlib was told to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from dhcli.metrics.calibration import calibration
from dhcli.metrics.judge import Judged
from dhcli.report.reliability import draw_reliability


def test_bins_with_detections_are_bars_at_their_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[list[float], list[float]]] = []
    draw = Axes.bar

    def spy(axes: Axes, places: Any, heights: Any, **style: Any) -> Any:
        bars.append((list(places), list(heights)))
        return draw(axes, places, heights, **style)

    monkeypatch.setattr(Axes, "bar", spy)
    judged = Judged(np.array([0.95, 0.92, 0.31]), np.array([True, False, False]), 4)

    draw_reliability(calibration(judged), tmp_path / "reliability.png")

    assert bars == [([0.3, 0.9], [0.0, 0.5]), ([0.3, 0.9], [1, 2])]
    with Image.open(tmp_path / "reliability.png") as picture:
        assert picture.size == (605, 660)


def test_no_detections_draw_empty_axes(tmp_path: Path) -> None:
    draw_reliability(calibration(Judged.together([])), tmp_path / "reliability.png")

    assert (tmp_path / "reliability.png").exists()

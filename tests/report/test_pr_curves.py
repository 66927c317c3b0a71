"""Precision-recall curves, looked at through what matplotlib was told to draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from dhcli.metrics.result import ApResult
from dhcli.report.pr_curves import MOST_NAMED, draw_pr_curves

Drawn = list[tuple[str, np.ndarray[Any, Any], Any]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """The label, the heights and the colour of every curve."""
    curves: Drawn = []
    plot = Axes.plot

    def spy(axes: Axes, x: Any, y: Any, **style: Any) -> Any:
        assert list(x) == list(np.linspace(0, 1, 101))
        curves.append((style.get("label", ""), np.asarray(y), style["color"]))
        return plot(axes, x, y, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    return curves


def result_of(heights: dict[str, float]) -> ApResult:
    """A result whose precision is `heights` at IoU 0.5, and half of it at the other nine."""
    precision = np.tile(np.array(list(heights.values())), (10, 101, 1))
    precision[1:] /= 2
    return ApResult({}, {name: {} for name in heights}, precision)


def halves(drawn: Drawn) -> tuple[Drawn, Drawn]:
    return drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]


def test_every_class_with_objects_is_a_curve_in_both_panels(drawn: Drawn, tmp_path: Path) -> None:
    heights = {"low": 0.2, "$5 or $10": 0.8, "_猫": 0.5, "none": np.nan}

    draw_pr_curves(result_of(heights), tmp_path / "pr.png")

    at_half, over_all = ["50.0 mean", "80.0 $5 or $10", "50.0 _猫", "20.0 low"], 0.55
    assert [label for label, _, _ in drawn[:4]] == at_half
    assert [label for label, _, _ in drawn[4:]] == [
        f"{100 * over_all * height:.1f} {name}"
        for height, name in [(0.5, "mean"), (0.8, "$5 or $10"), (0.5, "_猫"), (0.2, "low")]
    ]
    assert [float(curve.mean()) for _, curve, _ in drawn[:4]] == pytest.approx([0.5, 0.8, 0.5, 0.2])
    colours = [{label.split()[1]: colour for label, _, colour in part} for part in halves(drawn)]
    assert colours[0] == colours[1]
    assert len(set(colours[0].values())) == 4
    with Image.open(tmp_path / "pr.png") as picture:
        assert picture.size == (1320, 550)


def test_of_many_classes_only_the_mean_has_a_name(drawn: Drawn, tmp_path: Path) -> None:
    many = {f"class {k}": k / 100 for k in range(MOST_NAMED + 1)}

    draw_pr_curves(result_of(many), tmp_path / "pr.png")

    assert len(drawn) == 2 * (MOST_NAMED + 2)
    assert [label for label, _, _ in drawn if label] == ["10.0 mean", "5.5 mean"]


def test_no_class_with_objects_draws_empty_axes(drawn: Drawn, tmp_path: Path) -> None:
    draw_pr_curves(result_of({"none": np.nan}), tmp_path / "pr.png")

    assert drawn == []
    assert (tmp_path / "pr.png").exists()

"""A training as curves: every part of the loss, and AP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhcli.report.plots import bare, legend_beside, new_figure, save_figure

AVERAGES = ("AP", "AP50", "AP75")


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the rows of a run's `metrics.csv` to `path`, a PNG.

    On the left the loss parts in training, the whole loss in validation dashed; on the right AP in
    percent. Raises DhError where `path` cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2)
    names = [name for name in _columns(history) if name.startswith("train_")]
    for name in names:
        whole = name == "train_loss"
        label, width = name.removeprefix("train_"), 2.5 if whole else 1.2
        _plot(left, history, name, label=label, linewidth=width, marker=".", markersize=4)
    _plot(
        left,
        history,
        "val_loss",
        label="loss, validation",
        color="black",
        linestyle="--",
        marker=".",
    )
    for name in AVERAGES:
        _plot(right, history, name, scale=100, label=name, marker="o", markersize=3)
    left.set(xlabel="epoch", ylabel="loss", yscale="log")
    right.set(xlabel="epoch", ylabel="average precision, %", ylim=(0, 100))
    for axes in (left, right):
        axes.set_xlim(0.5, history[-1]["epoch"] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        bare(axes)
        if axes.lines:
            legend_beside(axes)
    save_figure(figure, path)


def _columns(history: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))


def _plot(
    axes: Any, history: Sequence[Mapping[str, Any]], name: str, scale: float = 1, **style: Any
) -> None:
    points = [(row["epoch"], row[name] * scale) for row in history if row.get(name) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **style)

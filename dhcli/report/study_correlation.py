"""Pearson's r between scores and IoU as bars: Fig. 3 of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dhcli.report.plots import bare, legend_beside, new_figure, save_figure
from dhcli.report.study_windows import COLOURS


class Bar(NamedTuple):
    """A correlation and the ends of its interval; NaN where undefined."""

    r: float
    low: float
    high: float


def draw_correlations(panels: Mapping[str, Mapping[str, Mapping[str, Bar]]], path: Path) -> None:
    """Draw a panel by source of boxes, in it a bar by group and subject, to a PNG.

    in   panels  source → subject → group → Bar
    Raises DhError where `path` cannot be written.
    """
    groups = max((len(bars) for panel in panels.values() for bars in panel.values()), default=1)
    figure = new_figure(1.2 + max(3, 0.75 * groups) * max(len(panels), 1) + 1.2, 3.6)
    grid = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    for axes, (source, subjects) in zip(grid, panels.items(), strict=False):
        width = 0.8 / max(len(names), 1)
        for name, bars in subjects.items():
            number = names.index(name)
            places = [k + (number - (len(names) - 1) / 2) * width for k in range(len(bars))]
            colour = COLOURS[number % len(COLOURS)]
            axes.bar(places, [bar.r for bar in bars.values()], width, color=colour, label=name)
            for place, bar in zip(places, bars.values(), strict=True):
                axes.plot((place, place), (bar.low, bar.high), color="black", linewidth=1)
            axes.set_xticks(range(len(bars)), list(bars), rotation=30, ha="right", fontsize=8)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.grid(alpha=0.3, axis="y")
        axes.set(title=source)
        bare(axes)
    grid[0].set_ylabel("Pearson's r of score and IoU")
    for name in names:
        if name not in grid[-1].get_legend_handles_labels()[1]:
            grid[-1].bar(0, 0, 0, color=COLOURS[names.index(name) % len(COLOURS)], label=name)
    if names:
        legend_beside(grid[-1])
    save_figure(figure, path)

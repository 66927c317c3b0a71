"""Scores and boxes over the IoU of a window: Fig. 2 of the paper, and Fig. 7."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.report.plots import as_they_are, bare, new_figure, save_figure

COLOURS = ("#4c78a8", "#e45756", "#54a24b", "#f58518", "#b279a2", "#72b7b2")
"""Of a study's subjects, in their order."""
_COLUMNS = 4


class Curve(NamedTuple):
    """Mean and standard deviation in equal bins of [0, 1]: (B,) each, NaN in an empty bin."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def draw_curves(panels: Mapping[str, Mapping[str, Curve]], label: str, path: Path) -> None:
    """Draw a panel by title, in it a line by subject within a band of ± one deviation, to a PNG.

    `label` is what the curves are of. Raises DhError where `path` cannot be written.
    """
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.3 * columns + 0.4, 3 * rows + 0.3)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        for number, (name, curve) in enumerate(curves.items()):
            bins = len(curve.mean)
            places = (np.arange(bins) + 0.5) / bins
            colour = COLOURS[number % len(COLOURS)]
            band = (curve.mean - curve.std, curve.mean + curve.std)
            axes.fill_between(places, *band, color=colour, alpha=0.15, linewidth=0)
            axes.plot(places, curve.mean, color=colour, marker=".", markersize=4, label=name)
        axes.set(title=title, xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        bare(axes)
    figure.supxlabel("IoU of the window", fontsize=10)
    figure.supylabel(label, fontsize=10)
    legend = grid[0].legend(frameon=False, fontsize=8, loc="upper left")
    as_they_are(legend.get_texts())
    save_figure(figure, path)

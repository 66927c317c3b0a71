"""Average precision over the balance weights λ of two branches, as the paper's Figure 6 has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dhcli.report.plots import as_they_are, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL = 0.62
"""Inches of a cell's side."""


def draw_lambda_grid(
    panels: Mapping[str, NDArray[np.float64]],
    fc: Sequence[float],
    conv: Sequence[float],
    path: Path,
) -> None:
    """Draw a heat map per panel to `path`, a PNG, with AP in percent in each cell.

    panels  title → (C, F) AP in [0, 1] by λ_conv and λ_fc, NaN where there is none: left blank
    fc      F values of λ_fc, ascending: the columns
    conv    C values of λ_conv, ascending: the rows, the largest on top

    All panels share one scale of colours, and the best cell of each has a frame.
    Raises DhError where `path` cannot be written.
    """
    known = np.concatenate([grid[~np.isnan(grid)] for grid in panels.values()])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    width, height = max(2.2, 0.7 + CELL * len(fc)), 1.1 + CELL * len(conv)
    figure = new_figure(width * len(panels), height)
    figure.set_layout_engine("compressed")  # cells are square, whatever room there is
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, grid) in zip(every, panels.items(), strict=True):
        axes.imshow(
            grid, origin="lower", cmap="Blues", vmin=low - 0.25 * (high - low), vmax=high or 1
        )
        _write_numbers(axes, grid, middle=(low + 2 * high) / 3)
        axes.set_xticks(range(len(fc)), [f"{value:g}" for value in fc])
        axes.set_yticks(range(len(conv)), [f"{value:g}" for value in conv])
        axes.set(xlabel="λ fc", title=title)
        axes.title.set_fontsize(9)
        as_they_are([axes.title])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    every[0].set_ylabel("λ conv")
    save_figure(figure, path)


def _write_numbers(axes: Axes, grid: NDArray[np.float64], middle: float) -> None:
    """AP in percent in each cell that has one, white on dark, and a frame around the best."""
    from matplotlib.patches import Rectangle

    if np.isnan(grid).all():
        return
    for row, column in np.argwhere(~np.isnan(grid)).tolist():
        value = grid[row, column]
        ink = "white" if value > middle else "black"
        text = f"{100 * value:.1f}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
    best = divmod(int(np.nanargmax(grid)), grid.shape[1])
    corner = (best[1] - 0.5, best[0] - 0.5)
    axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d55e00", linewidth=2))

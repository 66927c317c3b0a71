"""How alike the cells of maps are, drawn as the paper draws it: a map of maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.report.plots import as_they_are, new_figure, save_figure

PANEL = 3.6
"""Inches, a side."""
Panel = tuple[str, NDArray[np.float64]]


def draw_cells(rows: Sequence[Sequence[Panel]], label: str, path: Path) -> None:
    """Draw tiles (S², S²) with their titles, as many panels a row as the first row has, to a PNG.

    Tile (r, c) holds how alike cell (r, c) is to each cell at that one's place. All panels share
    one scale, whose upper end is 1; NaN stays white. Raises DhError where `path` cannot be written.
    """
    wide = len(rows[0])
    figure = new_figure(PANEL * wide + 0.8, (PANEL + 0.3) * len(rows))
    grid = figure.subplots(len(rows), wide, squeeze=False)
    least = min(_least(tiles) for row in rows for _, tiles in row)
    for places, row in zip(grid, rows, strict=True):
        for axes, (title, tiles) in zip(places, row, strict=True):
            shown = _draw_panel(axes, tiles, least)
            as_they_are([axes.set_title(title, fontsize=9)])
    bar = figure.colorbar(shown, ax=grid, shrink=0.8)
    bar.set_label(label)
    save_figure(figure, path)


def _least(tiles: NDArray[np.float64]) -> float:
    """The lower end of a scale that begins at 0 where it can."""
    known = tiles[~np.isnan(tiles)]
    return min(0.0, float(known.min())) if len(known) else 0.0


def _draw_panel(axes: Any, tiles: NDArray[np.float64], least: float) -> Any:
    side = math.isqrt(len(tiles))
    shown = axes.imshow(tiles, vmin=least, vmax=1, cmap="viridis", interpolation="nearest")
    for edge in range(side, len(tiles), side):
        for draw in (axes.axhline, axes.axvline):
            draw(edge - 0.5, color="white", linewidth=1.5)
    middles = [side * tile + (side - 1) / 2 for tile in range(side)]
    names = [str(tile) for tile in range(side)]
    axes.set_xticks(middles, names)
    axes.set_yticks(middles, names)
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)
    return shown

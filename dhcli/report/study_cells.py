"""How alike the cells of maps are, drawn as the paper draws it: a map of maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.report.plots import as_they_are, new_figure, save_figure

PANEL = 3.8
"""Inches, a side."""
Floats = NDArray[np.float64]
Panel = tuple[str, Floats]


def draw_cells(
    rows: Sequence[Sequence[Panel]], label: str, path: Path, *, others: bool = False
) -> None:
    """Draw how alike cells are, (S², S²) under a title each, in rows of panels, to a PNG.

    Tile (r, c) of a panel has, at the place of each cell, how alike it and cell (r, c) are. All
    panels share a scale from 0, or the least value if that is below 0, to 1. With `others` alone, a
    cell is left out of its own tile, and each panel has a scale of its own. What is NaN stays
    white. Raises DhError where `path` cannot be written.
    """
    wide = max(len(row) for row in rows)
    figure = new_figure(PANEL * wide + 0.8, (PANEL + 0.2) * len(rows))
    grid = figure.subplots(len(rows), wide, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    least = min(_ends(alike)[0] for row in rows for _, alike in row)
    for places, row in zip(grid, rows, strict=True):
        for axes, (title, alike) in zip(places, row, strict=False):
            tiles = _tiles(alike, others)
            low, high = _ends(tiles) if others else (least, 1)
            shown = axes.imshow(tiles, vmin=low, vmax=high, cmap="viridis")
            _number_tiles(axes, len(tiles))
            as_they_are([axes.set_title(title, fontsize=9)])
            if others:
                figure.colorbar(shown, ax=axes, shrink=0.8, label=label)
    if not others:
        figure.colorbar(shown, ax=grid, shrink=0.8, label=label)
    save_figure(figure, path)


def _ends(values: Floats) -> tuple[float, float]:
    """A scale that has 0 and all `values` that are known."""
    known = values[~np.isnan(values)]
    return float(known.min(initial=0)), float(known.max(initial=0))


def _tiles(alike: Floats, others: bool) -> Floats:
    """(S², S²) as S × S tiles of S × S, with a white line between: tile (r, c) is row r S + c."""
    alike = alike.copy()
    if others:
        np.fill_diagonal(alike, np.nan)
    side = math.isqrt(len(alike))
    tiles = alike.reshape((side,) * 4).transpose(0, 2, 1, 3).reshape(alike.shape)
    place = np.arange(side * side) + np.arange(side * side) // side
    spaced = np.full((len(place) + side - 1,) * 2, np.nan)
    spaced[np.ix_(place, place)] = tiles
    return spaced


def _number_tiles(axes: Any, length: int) -> None:
    """Name the rows and columns of S × S tiles that are `length` = S² + S − 1 long."""
    side = math.isqrt(length)
    axes.set_axis_on()
    middles = [(side + 1) * tile + (side - 1) / 2 for tile in range(side)]
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks(middles, [str(tile) for tile in range(side)])
    axes.tick_params(length=0, labelsize=7)
    axes.spines[:].set_visible(False)

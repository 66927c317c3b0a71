"""How alike the cells of a map are: of every two of them a number, and its mean by distance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.report.sheet import Cell, Column, Row, Sheet

Floats = NDArray[np.float64]

PAIR_COLUMNS = (
    Column("row_a", "count"),
    Column("column_a", "count"),
    Column("row_b", "count"),
    Column("column_b", "count"),
)
"""Two cells of a map, counted from 0 at the top left."""


@dataclass(frozen=True)
class Ring:
    """The pairs of cells of one distance, the larger of their distances in rows and in columns.

    pairs   those that have a number
    mean    of these, and `spread`, their standard deviation; NaN where there are none
    """

    distance: int
    pairs: int
    mean: float
    spread: float

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON; None for NaN."""
        mean, spread = (None if math.isnan(one) else one for one in (self.mean, self.spread))
        return {"distance": self.distance, "pairs": self.pairs, "mean": mean, "spread": spread}


def rings(alike: Floats) -> list[Ring]:
    """By distance, 1 … S − 1, how alike two cells are; each pair counts once.

    in   alike  (S², S²), symmetric, NaN where it is undefined; cell r S + c lies in row r, column c
    """
    side = side_of(alike)
    row, column = np.divmod(np.arange(side * side), side)
    apart = np.maximum(abs(row[:, None] - row), abs(column[:, None] - column))
    once = np.triu(~np.isnan(alike), 1)
    found = []
    for distance in range(1, side):
        values = alike[once & (apart == distance)]
        mean, spread = (values.mean(), values.std()) if len(values) else (math.nan, math.nan)
        found.append(Ring(distance, len(values), float(mean), float(spread)))
    return found


def by_distance(
    title: str,
    names: tuple[Column, ...],
    rows: Sequence[tuple[Sequence[Cell], Sequence[Ring]]],
    caption: str,
) -> Sheet:
    """A row for each of `rows`, its `names` first: the mean of each ring, which may be few."""
    farthest = max(len(of) for _, of in rows)
    columns = tuple(Column(f"distance {number}", "number", str(number)) for number in range(1, farthest + 1))
    lines = []
    for cells, of in rows:
        means: list[Cell] = [ring.mean for ring in of]
        lines.append((*cells, *means, *[None] * (farthest - len(of))))
    return Sheet(title, (*names, *columns), tuple(lines), caption=caption)


def list_pairs(side: int) -> list[Row]:
    """The cells of `PAIR_COLUMNS` for every two cells, in the order of (S², S²) flattened."""
    cells = [divmod(cell, side) for cell in range(side * side)]
    return [(*a, *b) for a in cells for b in cells]


def side_of(alike: Floats) -> int:
    """S, of what has S² rows."""
    return math.isqrt(len(alike))

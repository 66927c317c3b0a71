"""How alike the cells of a map are: of every two of them a number, and its mean by distance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.report.sheet import Cell, Column, Row, Sheet

Floats = NDArray[np.float64]
Key = tuple[str, str]
"""What names a map: its branch, and its layer or which of the branch's maps it is."""
FAR = 6
"""The largest distance in a map of 7 × 7 cells."""


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


def ring_facts(alike: Floats) -> list[dict[str, Any]]:
    """`rings` in plain values, for JSON; None for NaN."""
    return [
        {key: None if value != value else value for key, value in asdict(ring).items()}
        for ring in rings(alike)
    ]


def list_distances(
    title: str,
    names: tuple[Column, ...],
    maps: Mapping[Key, Floats],
    caption: str,
) -> Sheet:
    """A row for each of `maps`, under `names` what it is: the mean of each of its `rings`.

    Those from `FAR` on share a column.
    """
    found = {key: rings(alike) for key, alike in maps.items()}
    farthest = max(len(of) for of in found.values())
    numbers = [str(distance) for distance in range(1, min(farthest, FAR) + 1)]
    if farthest > FAR:
        numbers[-1] += "+"
    rows = []
    for key, of in found.items():
        means: list[Cell] = [ring.mean for ring in of[: FAR - 1]]
        if len(of) >= FAR:
            means.append(_mean_of(of[FAR - 1 :]))
        rows.append((*key, *means, *[None] * (len(numbers) - len(means))))
    columns = (Column(f"distance {number}", "number", number) for number in numbers)
    return Sheet(title, (*names, *columns), tuple(rows), caption=caption)


def _mean_of(some: Sequence[Ring]) -> float:
    """The mean of all pairs of `some` rings; NaN where they have none."""
    pairs = sum(ring.pairs for ring in some)
    return sum(ring.pairs * ring.mean for ring in some if ring.pairs) / pairs if pairs else math.nan


def list_cells(
    title: str,
    names: tuple[Column, ...],
    maps: Mapping[Key, tuple[Floats, ...]],
    values: tuple[str, ...],
) -> Sheet:
    """A row for every two cells of each of `maps`, row and column from 0: what `values` name.

    Six decimals: what single precision holds.
    """
    rows: list[Row] = []
    for key, of in maps.items():
        side = side_of(of[0])
        cells = [divmod(cell, side) for cell in range(side * side)]
        pairs = product(cells, repeat=2)
        numbers = zip(*(alike.ravel().round(6).tolist() for alike in of), strict=True)
        rows += [(*key, *a, *b, *n) for (a, b), n in zip(pairs, numbers, strict=True)]
    places = ("row_a", "column_a", "row_b", "column_b")
    columns = [Column(name, "count") for name in places] + [Column(x, "score") for x in values]
    return Sheet(title, (*names, *columns), tuple(rows))


def side_of(alike: Floats) -> int:
    """S, of what has S² rows."""
    return math.isqrt(len(alike))

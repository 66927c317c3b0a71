"""A table of results as a value: whoever has the numbers makes it, the modules beside this draw it.

Numbers stay numbers, a fraction in 0…1 and a time in seconds; how each unit is written is said
here, once. Nothing here needs rich, NumPy or torch, so that every room may make one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Cell = str | int | float | None
"""None: there is no value; NaN: it is undefined."""
Row = tuple[Cell, ...]
Unit = Literal[
    "text", "any", "count", "number", "score", "percent", "share", "loss", "ms", "error", "px error"
]


@dataclass(frozen=True)
class Column:
    """What the cells of a column are, and how they are shown.

    name     unlike those of the other columns
    unit     what its cells are, see `_WRITTEN`
    heading  what stands above it on a terminal, line breaks kept; None: `name`
    absent   what None is written as
    below    on a terminal, its cells stand below those of the column before it
    """

    name: str
    unit: Unit = "text"
    heading: str | None = None
    absent: str = "–"
    below: bool = False

    @property
    def is_number(self) -> bool:
        """Whether its cells are numbers, which stand on the right."""
        return self.unit not in ("text", "any")

    @property
    def label(self) -> str:
        """`name` with the sign that the cells leave out, such as `AP (%)`."""
        sign = _SIGNS.get(self.unit)
        return f"{self.name} ({sign})" if sign else self.name

    def text(self, cell: Cell) -> str:
        """A cell in words."""
        if cell is None:
            return self.absent
        if isinstance(cell, float) and math.isnan(cell):
            return "n/a"
        return _WRITTEN[self.unit](cell)


@dataclass(frozen=True)
class Sheet:
    """A table of results.

    rows      a cell per column
    sections  number of the row where a section begins → its title, "" for a section without one
    caption   a sentence that explains the cells
    facts     the rows are names and values: two columns, shown without headings

    Raises ValueError where a row or a name does not fit the columns.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sections: Mapping[int, str] = field(default_factory=dict)
    caption: str = ""
    facts: bool = False

    def __post_init__(self) -> None:
        if len({column.name for column in self.columns}) < len(self.columns):
            raise ValueError(f"columns of one name in `{self.title}`")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"a row of `{self.title}` does not have a cell per column")

    def parts(self) -> Iterator[tuple[str, tuple[Row, ...]]]:
        """Title and rows of each section; one without a title where there are no sections."""
        starts = sorted({0, *self.sections})
        for start, end in zip(starts, [*starts[1:], len(self.rows)], strict=True):
            yield self.sections.get(start, ""), self.rows[start:end]


def list_facts(title: str, facts: Iterable[tuple[str, Cell]]) -> Sheet:
    """A sheet of names and values of any kind."""
    return Sheet(title, (Column("what"), Column("value", "any")), tuple(facts), facts=True)


def unit_of(value: float) -> Unit:
    """The unit of a metric's number: counts are ints, fractions are floats."""
    return "count" if isinstance(value, int) else "percent"


def _any(value: Cell) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:g}"
    return str(value)


_WRITTEN: dict[Unit, Callable[[Any], str]] = {
    "text": str,
    "any": _any,
    "count": "{:,}".format,
    "number": lambda value: f"{value:.3g}" if value < 100 else f"{value:,.0f}",
    "score": "{:g}".format,
    "percent": lambda fraction: f"{100 * fraction:.1f}",
    "share": lambda fraction: f"{100 * fraction:.0f} %",
    "loss": "{:.4f}".format,
    "ms": lambda seconds: f"{1e3 * seconds:.1f}",
    "error": "{:.1e}".format,
    "px error": "{:.1e} px".format,
}
"""How a cell of each unit is written."""
_SIGNS: dict[Unit, str] = {"percent": "%", "ms": "ms"}
"""What the cells of a unit leave to the heading."""

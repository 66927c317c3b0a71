"""Sheets on the terminal. This is where tables of results are drawn, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dhcli.report.console import out
from dhcli.report.sheet import Column, Row, Sheet

ABREAST = 6
"""Numbers of a single row that stand side by side: 80 columns hold them, and a class's name."""

FOLDED = 16
"""Most that a name needs of a line before it folds."""


def show(*sheets: Sheet, titles: bool = False, most: int | None = None) -> None:
    """Print sheets on stdout, see `drawn`."""
    for sheet in sheets:
        out.print(drawn(sheet, titles=titles, most=most, width=out.width))


def drawn(
    sheet: Sheet, *, titles: bool = False, most: int | None = None, width: int | None = None
) -> Group:
    """A sheet for rich to print, below its title if `titles`.

    Of each section `most` rows are shown (None: all) and the others counted. Numbers that do not
    fit beside each other into `width` (None: all do) stand in further tables, names before them.
    """
    tables: list[Table | Text]
    if sheet.facts:
        tables = [_list(sheet)]
    elif _is_long_row(sheet):
        tables = [_stack(sheet)]
    else:
        tables = [_table(part, most) for part in _parts_of_width(sheet, most, width)]
        tables = [x for table in tables for x in (Text(), table)][1:]
    return Group(Text(sheet.title, style="bold"), *tables) if titles else Group(*tables)


def _parts_of_width(sheet: Sheet, most: int | None, width: int | None) -> Iterator[Sheet]:
    """The sheet as it is, or as several: the first names in each, columns of a heading together."""
    widths = _widths(sheet, most)
    first = next((i for i, one in enumerate(sheet.columns) if one.is_number), len(widths))
    if width is None or sum(widths) <= width or not first or any(c.below for c in sheet.columns):
        yield sheet
        return
    names, left = list(range(first)), width - sum(widths[:first])
    parts: list[list[int]] = [[]]
    for _, group in groupby(range(first, len(widths)), lambda i: _group(sheet.columns[i], i)):
        together = list(group)
        if parts[-1] and sum(widths[i] for i in (*parts[-1], *together)) > left:
            parts.append([])
        parts[-1] += together
    for number, part in enumerate(parts, 1):
        chosen = names + part
        columns = tuple(sheet.columns[i] for i in chosen)
        rows = tuple(tuple(row[i] for i in chosen) for row in sheet.rows)
        caption = sheet.caption if number == len(parts) else ""
        yield replace(sheet, columns=columns, rows=rows, caption=caption)


def _widths(sheet: Sheet, most: int | None) -> list[int]:
    """What each column takes, with the space beside it; long names fold, hidden rows take none."""
    widths, shown = [], [row for _, rows in sheet.parts() for row in rows[:most]]
    for column, cells in zip(sheet.columns, zip(*shown, strict=True), strict=False):
        lines = [*_heading(column).split("\n"), *(column.text(cell) for cell in cells)]
        longest = max(map(cell_len, lines))
        widths.append(2 + (longest if column.is_number else min(longest, FOLDED)))
    return widths


def _group(column: Column, place: int) -> str | int:
    """What columns that stay together share: the first of the lines of their headings."""
    first, _, more = _heading(column).partition("\n")
    return first if more else place


def _heading(column: Column) -> str:
    return column.name if column.heading is None else column.heading


def _is_long_row(sheet: Sheet) -> bool:
    """Whether it is a single row of more numbers than stand side by side."""
    numbers = all(column.is_number for column in sheet.columns)
    return numbers and len(sheet.rows) == 1 and len(sheet.columns) > ABREAST


def _table(sheet: Sheet, most: int | None) -> Table:
    """Headings over rows. A line parts sections, or a title where one has a title."""
    titled = any(title for title, _ in sheet.parts())
    table = Table(
        box=None if titled else box.SIMPLE_HEAD,
        padding=(0, 2, 0, 0) if titled else (0, 1),
        caption=Text(sheet.caption) if sheet.caption else None,
        caption_justify="left",
    )
    columns = [column for column in sheet.columns if not column.below]
    _add_columns(table, columns)
    for title, rows in sheet.parts():
        if title:
            last = max(i for i, column in enumerate(columns) if not column.is_number)
            table.add_row()
            table.add_row(*[""] * last, Text(title), style="bold")
        else:
            table.add_section()
        for row in rows[:most]:
            table.add_row(*_cells(sheet.columns, row))
        if most is not None and len(rows) > most:
            table.add_row(f"… and {len(rows) - most} more (--json)")
    return table


def _add_columns(table: Table, columns: Sequence[Column]) -> None:
    """Headings stand on one line at the foot; numbers are never cut, names are folded."""
    headings = [_heading(column) for column in columns]
    tallest = max(heading.count("\n") for heading in headings)
    for column, heading in zip(columns, headings, strict=True):
        text = Text("\n" * (tallest - heading.count("\n")) + heading)
        if column.is_number:
            table.add_column(text, justify="right", no_wrap=True)
        else:
            table.add_column(text, overflow="fold")


def _cells(columns: Sequence[Column], row: Row) -> Iterator[Text]:
    """The cells of a row as texts, those of columns `below` in the cell before."""
    texts: list[str] = []
    for column, cell in zip(columns, row, strict=True):
        if not column.below:
            texts.append(column.text(cell))
        elif cell is not None:
            texts[-1] += f"\n{column.text(cell)}"
    return map(Text, texts)


def _stack(sheet: Sheet) -> Table:
    """A row of many numbers: the names of some over their values, then those of the next."""
    table = Table(box=box.SIMPLE_HEAD)
    pairs = list(zip(sheet.columns, sheet.rows[0], strict=True))
    for start in range(0, len(pairs), ABREAST):
        some = pairs[start : start + ABREAST]
        columns = [column for column, _ in some]
        if start:
            table.add_section()
            table.add_row(*(column.name for column in columns), style="bold")
        else:
            _add_columns(table, columns)
        table.add_row(*(column.text(cell) for column, cell in some))
    return table


def _list(sheet: Sheet) -> Table:
    """Names in bold beside their values."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for row in sheet.rows:
        table.add_row(*_cells(sheet.columns, row))
    return table

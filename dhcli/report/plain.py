"""Sheets without a terminal: lines of text for logs, CSV and plain values for programs."""

from __future__ import annotations

import csv
import io
import math

from dhcli.report.sheet import Cell, Sheet
from dhcli.words import as_cell


def text_lines(sheet: Sheet) -> list[str]:
    """The headings, then a line per row, columns apart by two spaces; without the title."""
    lines = [tuple(column.name for column in sheet.columns)]
    lines += [
        tuple(column.text(cell) for column, cell in zip(sheet.columns, row, strict=True))
        for row in sheet.rows
    ]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    sides = [">" if column.is_number else "<" for column in sheet.columns]
    return [
        "".join(
            f"  {text:{side}{width}}" for text, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def csv_text(sheet: Sheet) -> str:
    """The names of the columns, then a line per row; numbers in full, empty what is not a number.

    No text is a formula for a spreadsheet: see `as_cell`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in sheet.columns)
    for row in sheet.rows:
        known = map(_known, row)
        writer.writerow(as_cell(cell) if isinstance(cell, str) else cell for cell in known)
    return text.getvalue()


def json_rows(sheet: Sheet) -> list[dict[str, Cell]]:
    """A mapping from column to value per row; None what is not a number."""
    names = [column.name for column in sheet.columns]
    return [dict(zip(names, map(_known, row), strict=True)) for row in sheet.rows]


def _known(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and math.isnan(cell) else cell

"""Rows of text files: columns between separators (CSV), words between spaces, and numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dhcli.data.io.files import read_head, read_text
from dhcli.data.io.progress import FileProgress
from dhcli.errors import DataError

_SPECIAL = ',;"\n\r\t'
_TO_STRIP = re.compile(r"[^a-z0-9]")


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file that say anything, each with its line number, spaces stripped.

    Columns are separated by tabs, by ";" (where decimals have commas) or by ",". Raises DataError.
    """
    yield from _rows(read_text(path), path)


def first_row(path: Path) -> list[str]:
    """The first row of a file, [] where it is none of separated columns."""
    head, newline, _ = read_head(path).lstrip("\r\n").partition("\n")
    try:
        return next(_rows(head + newline, path), (0, []))[1]
    except DataError:
        return []


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    start = text.lstrip()
    head = start[: start.find("\n")] if "\n" in start else start
    separator = next(
        (c for c in "\t;" if head.count(c) >= 3 or (c in head and "," not in head)), ","
    )
    lines = io.StringIO(text, newline="")
    rows = csv.reader(lines, delimiter=separator)
    progress = FileProgress(path, len(text))
    try:
        for row in rows:
            progress.reached(lines.tell())
            fields = [field.strip() for field in row]
            if any(fields):
                yield rows.line_num, fields
    except csv.Error as error:
        raise DataError(f"is not a table: {error}", where=f"{path}:{rows.line_num}") from None


def header_of(fields: Sequence[str]) -> list[str]:
    """Names of columns, in lower case and without what separates their words."""
    return [_TO_STRIP.sub("", field.lower()) for field in fields]


def find_column(header: Sequence[str], names: Iterable[str]) -> int | None:
    """The number of the column that is called by the first of `names` that is there."""
    return next((header.index(name) for name in names if name in header), None)


_FORMULA = ("=", "+", "-", "@")
_SAFE = "'"


def as_cell(text: str) -> str:
    """A name as a cell that no spreadsheet takes for a formula: after an apostrophe, as they do."""
    return f"{_SAFE}{text}" if text.startswith(_FORMULA) else text


def of_cell(cell: str) -> str:
    """The name that `as_cell` made `cell` of."""
    return cell[1:] if cell.startswith(tuple(_SAFE + sign for sign in _FORMULA)) else cell


def as_row(fields: Iterable[str], special: str = _SPECIAL) -> str:
    """One line of a file separated by commas; fields that hold any of `special` are quoted."""
    beware = frozenset(special)
    return ",".join(f if beware.isdisjoint(f) else _quoted(f) for f in fields) + "\n"


def _quoted(field: str) -> str:
    return f'"{field.replace(chr(34), chr(34) * 2)}"'


def read_words(path: Path, separator: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """The lines of a file that say anything: `path:line`, and what stands between separators.

    Those are spaces where there is no `separator`. Raises DataError.
    """
    for line, row in enumerate(read_text(path).splitlines(), 1):
        if text := row.strip():
            yield f"{path}:{line}", text.split(separator)


def line_of(where: str) -> int:
    """The number of the line in `path:line`."""
    return int(where.rpartition(":")[2])


def number_of(value: Any) -> float:
    """A number as it is told: itself, or text, at times with a decimal comma.

    Raises ValueError that quotes what is none.
    """
    try:
        if isinstance(value, str):
            return float(value.replace(",", "."))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"`{str(value)[:40]}`")


def numbers_of(fields: Iterable[str], where: str) -> list[float]:
    """The numbers of a row. Raises DataError with `where` for a field that is not a number."""
    try:
        return [number_of(field) for field in fields]
    except ValueError as error:
        raise DataError(f"has a column that is no number: {error}", where=where) from None


def are_numbers(fields: Sequence[str]) -> bool:
    """Whether every field is a number."""
    try:
        return len([number_of(field) for field in fields]) == len(fields)
    except ValueError:
        return False

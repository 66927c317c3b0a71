"""Rows of text files: columns between separators (CSV), words between spaces, and numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from dhcli.data.io.files import read_head, read_text
from dhcli.data.io.progress import FileProgress
from dhcli.errors import DataError

_SPECIAL = ',;"\n\r\t'
_TO_STRIP = re.compile(r"[^a-z0-9]")
_LOOK_AT = 20
_SEPARATOR_LINE = re.compile(r'\s*"?sep=([^\w\s"]|\t)\1*"?[ \t]*\r?\n', re.IGNORECASE)
"""The first line that Excel takes the separator from."""
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


class _Unclear(str):
    """A number 1,030 between commas: 1030, or 1.03 as others have it that stand in quotes."""

    __slots__ = ()


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file that say anything, each with its line number, spaces stripped.

    Columns are separated by tabs, by ";" (where decimals have commas) or by ",", or as a first line
    `sep=;` says. A quote without its end costs the line it is in, not those that follow. Raises
    DataError.
    """
    yield from _rows(read_text(path), path)


def first_row(path: Path) -> list[str]:
    """The first row of a file, [] where it is none of separated columns."""
    return next(iter(_first_rows(path)), [])


def mostly(is_row: Callable[[list[str]], bool], path: Path) -> bool:
    """Whether the first row of a file is such, or most of the first, none being a header."""
    rows = _first_rows(path)
    if not rows or (all(rows[0]) and len(rows[0]) > 1 and not any(map(_is_number, rows[0]))):
        return False
    return is_row(rows[0]) or 2 * sum(map(is_row, rows)) >= len(rows)


def _first_rows(path: Path) -> list[list[str]]:
    head, newline, _ = read_head(path).lstrip("\r\n").rpartition("\n")
    text = head + newline or read_head(path)
    return [row for _, row in islice(_rows(text, path), _LOOK_AT)]


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    told = _SEPARATOR_LINE.match(text)
    separator = told[1] if told else _separator(text)
    may_be_unclear = separator == "," and '"' in text
    start, usual = told.end() if told else 0, 0
    before = text.count("\n", 0, start)
    lines, progress = io.StringIO(text, newline=""), FileProgress(path, len(text))
    lines.seek(start)
    # Strict, as else a quote without its end takes all lines up to the next one.
    rows = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = before + rows.line_num
        try:
            row = next(rows)
            is_odd = before + rows.line_num - line > 1 and len(row) != (usual or len(row))
        except StopIteration:
            return
        except csv.Error:
            is_odd = True
        if is_odd:
            lines.seek(start)
            row, before = _alone(lines.readline(), separator), line + 1
            rows = csv.reader(lines, delimiter=separator, strict=True)
        else:
            usual = len(row) or usual
        start = lines.tell()
        progress.reached(start)
        fields = [field.strip() for field in row]
        if any(fields):
            yield line + 1, _unclear_among(fields) if may_be_unclear else fields


def _unclear_among(fields: list[str]) -> list[str]:
    """The fields of a row between commas, those marked that may be thousands."""
    return [_Unclear(f) if "," in f and _THOUSANDS.fullmatch(f) else f for f in fields]


def _separator(text: str) -> str:
    start = text.lstrip()
    head = start[: start.find("\n")] if "\n" in start else start
    return next((c for c in "\t;" if head.count(c) >= 3 or (c in head and "," not in head)), ",")


def _alone(line: str, separator: str) -> list[str]:
    """The columns of a line that is odd; one where it is not of columns at all."""
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:  # longer than any column
        return [line[:_LOOK_AT]]


def header_of(fields: Sequence[str]) -> list[str]:
    """Names of columns, in lower case and without what separates their words."""
    return [_TO_STRIP.sub("", field.lower()) for field in fields]


def find_column(header: Sequence[str], names: Iterable[str]) -> int | None:
    """The number of the column that is called by the first of `names` that is there."""
    return next((header.index(name) for name in names if name in header), None)


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
    """A number, or text that holds one, possibly with a decimal comma.

    Raises ValueError that quotes what is none.
    """
    try:
        if type(value) is str or (isinstance(value, str) and not isinstance(value, _Unclear)):
            return float(value.replace(",", "."))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    except (ValueError, OverflowError):
        pass
    unclear = isinstance(value, _Unclear)
    why = " has a comma for thousands or decimals: write it without" if unclear else ""
    raise ValueError(f"`{str(value)[:40]}`{why}")


def numbers_of(fields: Iterable[str], where: str) -> list[float]:
    """The numbers of a row. Raises DataError with `where` for a field that is not a number."""
    try:
        return [number_of(field) for field in fields]
    except ValueError as error:
        raise DataError(f"has a column that is not a number: {error}", where=where) from None


def are_numbers(fields: Iterable[str]) -> bool:
    """Whether every field is a number."""
    return all(map(_is_number, fields))


def _is_number(field: str) -> bool:
    try:
        number_of(field)
    except ValueError:
        return False
    return True

"""Sheets as text, CSV and plain values."""

from __future__ import annotations

import csv
import io
import json

from dhcli.report.plain import csv_text, json_rows, text_lines
from dhcli.report.sheet import Column, Sheet

SHEET = Sheet(
    "Classes",
    (Column("class", heading="the\nclass"), Column("AP", "percent"), Column("objects", "count")),
    (('a "b", c', 0.1 + 0.2, 12345), ("dög", float("nan"), None)),
    sections={1: "more"},
)


def test_text_is_aligned_and_written_by_unit() -> None:
    assert text_lines(SHEET) == [
        "  class       AP  objects",
        '  a "b", c  30.0   12,345',
        "  dög        n/a        –",
    ]


def test_csv_has_every_digit_and_leaves_out_what_is_no_number() -> None:
    text = csv_text(SHEET)

    assert list(csv.reader(io.StringIO(text))) == [
        ["class", "AP", "objects"],
        ['a "b", c', "0.30000000000000004", "12345"],
        ["dög", "", ""],
    ]
    assert "\r" not in text


def test_no_text_is_a_formula_and_numbers_stay() -> None:
    sheet = Sheet("", (Column("class"), Column("AP", "number")), (("=1+1", -0.5),))

    assert csv_text(sheet) == "class,AP\n'=1+1,-0.5\n"


def test_values_are_json_without_nan() -> None:
    rows = json_rows(SHEET)

    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows == [
        {"class": 'a "b", c', "AP": 0.1 + 0.2, "objects": 12345},
        {"class": "dög", "AP": None, "objects": None},
    ]

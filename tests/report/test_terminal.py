"""Sheets as they stand on a terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from dhcli.report.sheet import Column, Sheet, list_facts
from dhcli.report.terminal import drawn

PARTS = Sheet(
    "Parts",
    (Column("part"), Column("time", "ms", heading="mean\nms"), Column("share", "share", absent="")),
    (("neck", 0.001, 0.25), ("head [a]", 0.003, 0.75), ("whole", 0.004, None)),
    sections={2: ""},
)


def lines(sheet: Sheet, width: int = 80, **how: Any) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(drawn(sheet, width=width, **how))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_table_with_a_heading_of_two_lines_and_a_section() -> None:
    assert lines(PARTS) == [
        "",
        "             mean",
        "  part         ms   share",
        " ─────────────────────────",
        "  neck        1.0    25 %",
        "  head [a]    3.0    75 %",
        "",
        "  whole       4.0",
        "",
    ]


def test_a_title_is_shown_where_it_is_asked_for() -> None:
    assert lines(PARTS, titles=True)[0] == "Parts"
    assert lines(PARTS, titles=True)[1:] == lines(PARTS)


def test_of_each_section_the_first_rows_are_shown_and_the_others_counted() -> None:
    rows = tuple((f"row {number}", number) for number in range(7))
    sheet = Sheet("t", (Column("x"), Column("n", "count")), rows, sections={1: ""})

    shown = lines(sheet, most=2)

    assert [line.strip() for line in shown if "row" in line or "more" in line] == [
        *("row 0                   0", "row 1                   1", "row 2                   2"),
        "… and 4 more (--json)",
    ]


def test_titles_of_sections_stand_in_the_text() -> None:
    columns = (Column("preset"), Column("about"), Column("AP", "percent"))
    rows = (("small", "for a CPU", None), ("ext", "the paper's", 0.419))

    shown = lines(Sheet("t", columns, rows, {1: "Table [4]"}))

    assert [line.split() for line in shown] == [
        ["preset", "about", "AP"],
        ["small", "for", "a", "CPU", "–"],
        [],
        ["Table", "[4]"],
        ["ext", "the", "paper's", "41.9"],
    ]


def test_cells_below_share_a_cell_and_absent_ones_take_no_line() -> None:
    columns = (Column("x"), Column("n", "count"), Column("near", "share", below=True))

    shown = lines(Sheet("t", columns, (("a", 12, 0.5), ("b", None, None)), caption="a note"))

    assert [line.split() for line in shown[1:]] == [
        ["x", "n"],
        ["─" * 10],
        ["a", "12"],
        ["50", "%"],
        ["b", "–"],
        [],
        ["a", "note"],
    ]


def test_a_row_of_many_numbers_stands_on_several_lines() -> None:
    columns = tuple(Column(f"n{number}", "count") for number in range(8))

    shown = lines(Sheet("t", columns, (tuple(range(8)),)))

    assert shown[1].split() == [f"n{number}" for number in range(6)]
    assert [line.split() for line in shown if line][-2:] == [["n6", "n7"], ["6", "7"]]


def test_a_single_row_with_a_name_stays_one() -> None:
    columns = (Column("class"), *(Column(f"n{number}", "count") for number in range(8)))

    assert len(lines(Sheet("t", columns, (("cat", *range(8)),)))) == 5


def test_facts_have_no_headings_and_long_ones_fold() -> None:
    shown = lines(list_facts("t", [("file", "x" * 30), ("cores", 1024)]), width=20)

    assert shown == ["file   " + "x" * 13, "       " + "x" * 13, "       xxxx", "cores  1,024"]


def test_long_names_fold_and_numbers_stay_whole() -> None:
    sheet = Sheet("t", (Column("x"), Column("n", "count")), (("z" * 40, 1234567),))

    shown = lines(sheet, width=30)

    assert sum(line.count("z") for line in shown) == 40
    assert max(map(len, shown)) <= 30
    assert any("1,234,567" in line for line in shown)


def test_numbers_that_do_not_fit_stand_below_with_the_names_again() -> None:
    pairs = [Column(f"{n} {x}", "count", heading=f"{n}\n{x}") for n in "abc" for x in ("r", "to")]
    sheet = Sheet("t", (Column("x"), *pairs), (("cat", *range(6)),), {0: "of all"}, "what")

    assert lines(sheet, width=70) == lines(sheet)
    shown = [line.split() for line in lines(sheet, width=15) if line.strip()]

    assert shown == [
        *(["a", "a"], ["x", "r", "to"], ["of", "all"], ["cat", "0", "1"]),
        *(["b", "b"], ["x", "r", "to"], ["of", "all"], ["cat", "2", "3"]),
        *(["c", "c"], ["x", "r", "to"], ["of", "all"], ["cat", "4", "5"], ["what"]),
    ]

"""A sheet as a value, and how its numbers are written."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dhcli
from dhcli.report.sheet import Cell, Column, Sheet, Unit, list_facts, unit_of

NAN = float("nan")
ALLOWED = {"cli/shell.py"}
"""The panels of the help are layout, not results."""


@pytest.mark.parametrize(
    ("unit", "cell", "written"),
    [
        ("text", "a [b]", "a [b]"),
        ("count", 1234567, "1,234,567"),
        ("percent", 0.41949, "41.9"),
        ("share", 0.587, "59 %"),
        ("number", 0.91349, "0.913"),
        ("number", 1234.5, "1,234"),
        ("loss", 1.0, "1.0000"),
        ("ms", 0.01234, "12.3"),
        ("error", 2e-7, "2.0e-07"),
        ("px error", 1e-5, "1.0e-05 px"),
        ("any", 11231603, "11,231,603"),
        ("any", 23.5, "23.5"),
        ("any", True, "yes"),
        ("any", "2.15.0", "2.15.0"),
        ("loss", None, "–"),
        ("percent", NAN, "n/a"),
    ],
)
def test_each_unit_is_written_in_one_way(unit: Unit, cell: Cell, written: str) -> None:
    assert Column("x", unit).text(cell) == written


def test_what_is_absent_may_be_written_otherwise() -> None:
    assert Column("x", "loss", absent="").text(None) == ""


@pytest.mark.parametrize(("unit", "label"), [("percent", "AP (%)"), ("ms", "AP (ms)")])
def test_the_label_has_the_sign_that_the_cells_leave_out(unit: Unit, label: str) -> None:
    assert Column("AP", unit).label == label
    assert Column("AP", "count").label == "AP"


def test_counts_are_ints_and_fractions_floats() -> None:
    assert (unit_of(3), unit_of(3.0)) == ("count", "percent")


def test_parts_are_the_sections_with_their_titles() -> None:
    rows = (("a",), ("b",), ("c",))
    columns = (Column("x"),)

    assert list(Sheet("t", columns, rows).parts()) == [("", rows)]
    assert list(Sheet("t", columns, rows, {2: "last"}).parts()) == [
        ("", rows[:2]),
        ("last", rows[2:]),
    ]
    assert list(Sheet("t", columns, rows, {0: "all"}).parts()) == [("all", rows)]


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ((Column("x"), Column("x")), ()),
        ((Column("x"),), (("a", "b"),)),
        ((Column("x"), Column("y")), (("a", "b"), ("a",))),
    ],
)
def test_what_does_not_fit_is_no_sheet(
    columns: tuple[Column, ...], rows: tuple[tuple[Cell, ...], ...]
) -> None:
    with pytest.raises(ValueError, match="`t`"):
        Sheet("t", columns, rows)


def test_facts_may_repeat_a_name() -> None:
    assert list_facts("t", [("gpu", "H200"), ("gpu", "H100")]).rows == (
        ("gpu", "H200"),
        ("gpu", "H100"),
    )


def test_a_sheet_is_made_without_rich_numpy_or_torch() -> None:
    code = "import sys, dhcli.report.plain; print(*{'rich', 'numpy', 'torch'} & set(sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""


def test_only_report_draws_tables() -> None:
    package = Path(dhcli.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(map(_draws, ast.walk(ast.parse(path.read_text("utf-8")))))
    }

    assert {name for name in found if not name.startswith("report/")} == ALLOWED
    # the table that follows a training is no table of results
    assert {name for name in found if name.startswith("report/")} == {
        "report/terminal.py",
        "report/training.py",
    }


def _draws(node: ast.AST) -> bool:
    """Whether rich's tables or boxes are imported here."""
    if isinstance(node, ast.Import):
        return any(alias.name in ("rich.table", "rich.box") for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        names = {alias.name for alias in node.names}
        return node.module in ("rich.table", "rich.box") or (
            node.module == "rich" and bool(names & {"table", "box"})
        )
    return False

"""Rows between separators, and quotes that have no end."""

import pytest

from dhcli.data.io.text_rows import first_row, mostly, number_of, read_rows
from dhcli.words import as_cell, of_cell


@pytest.fixture
def rows_of(tmp_path):
    def read(text):
        (tmp_path / "a.csv").write_text(text)
        return list(read_rows(tmp_path / "a.csv"))

    return read


@pytest.mark.parametrize("bad", ['"b.jpg,1,2', 'b.jpg,"1,2', 'b.jpg,1,"', f'"{"x" * 200_000}'])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_quote_without_end_costs_its_line_alone(rows_of, bad, at):
    sound = ["a.jpg,1,2", 'c.jpg,"1,5",2', "d.jpg,1,2"]

    rows = rows_of("\n".join([*sound[:at], bad, *sound[at:], ""]))

    kept = [row for line, row in rows if line != at + 1]
    assert kept == [["a.jpg", "1", "2"], ["c.jpg", "1,5", "2"], ["d.jpg", "1", "2"]]
    assert [line for line, _ in rows] == [1, 2, 3, 4]


def test_quoted_fields_may_have_lines_and_quotes(rows_of):
    rows = rows_of('"a\nb",1\n\n"c ""d""",2\n"e"f,3\n')

    assert rows == [(1, ["a\nb", "1"]), (4, ['c "d"', "2"]), (5, ["ef", "3"])]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r", "sep=;;;", "\ufeffsep=;"])
def test_the_separator_may_stand_in_the_first_line(rows_of, tmp_path, first):
    rows = rows_of(f"{first}\na,b;c\n\n1,5;2\n")

    assert rows == [(2, ["a,b", "c"]), (4, ["1,5", "2"])]
    assert first_row(tmp_path / "a.csv") == ["a,b", "c"]


@pytest.mark.parametrize(
    ("text", "number"),
    [('"1,5",x', 1.5), ('"0,125",x', 0.125), ("1,030;x;y;z", 1.03), ("1030,x", 1030)],
)
def test_decimals_may_have_commas(rows_of, text, number):
    ((_, row),) = rows_of(f"{text}\n")

    assert number_of(row[0]) == number


@pytest.mark.parametrize("field", ["1,030", "-12,500", "1,030,500"])
def test_a_comma_that_may_part_thousands_is_no_number(rows_of, field):
    ((_, row),) = rows_of(f'"{field}",x\n')

    assert row[0] == field
    with pytest.raises(ValueError, match=f"^`{field}`"):
        number_of(row[0])


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("x,1\nx,2\n", True),
        ("<<<\nx,1\nx,2\n", True),
        ('"x,1\nx,1\nx,2\n', True),
        ("name,number\nx,1\nx,2\n", False),  # a header: its columns are another's
        ("<<<\n---\n===\nx,1\n", False),
        ("", False),
    ],
)
def test_a_few_bad_rows_make_no_other_file(tmp_path, text, is_one):
    (tmp_path / "a.csv").write_text(text)

    found = mostly(lambda row: len(row) == 2 and row[1].isdecimal(), tmp_path / "a.csv")

    assert found is is_one


@pytest.mark.parametrize(
    "name", ["=1+1", "-dash", "@x", "+1", "'quoted'", "'=x", "''-x", "plain", "it's"]
)
def test_no_name_is_a_formula_in_a_spreadsheet(name: str) -> None:
    cell = as_cell(name)

    assert cell[0] not in "=+-@"
    assert of_cell(cell) == name

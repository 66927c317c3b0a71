from __future__ import annotations

import pytest

from dhcli.data.io.text_rows import as_cell, of_cell


@pytest.mark.parametrize("name", ["=1+1", "-dash", "@x", "+1", "'quoted'", "plain", "it's"])
def test_no_name_is_a_formula_in_a_spreadsheet(name: str) -> None:
    cell = as_cell(name)

    assert cell[0] not in "=+-@"
    assert of_cell(cell) == name

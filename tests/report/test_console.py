from __future__ import annotations

import json

import pytest
from rich.table import Table

from dhcli.report.console import err, is_live, out, print_json


def test_data_and_words_go_apart_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    line = "photos[1]/a.jpg :smile: " + "word " * 60

    out.print(line)
    err.print(f"wrote {line}")

    captured = capsys.readouterr()
    assert captured.out == f"{line}\n"
    assert captured.err == f"wrote {line}\n"


def test_a_table_keeps_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row("[bold]cat")

    out.print(table)

    assert "[bold]cat" in capsys.readouterr().out


def test_a_pipe_is_not_redrawn_even_with_forced_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    assert not is_live()


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Fußgänger", "ap": [0.5, None]})

    text = capsys.readouterr().out
    assert json.loads(text) == {"name": "Fußgänger", "ap": [0.5, None]}
    assert "Fußgänger" in text

"""The files of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dhcli.errors import DhError
from dhcli.report.sheet import Column, Sheet
from dhcli.studies.study import Study, write_study


def study_of(text: str = "drawn") -> Study:
    columns = (Column("subject"), Column("r", "number"))
    numbers = Sheet("n", columns, (("fc", 0.25), ("é", float("nan"))))
    draw = {"one.png": lambda path: path.write_text(text)}
    return Study("toy", {"seed": 3}, numbers, (), draw)


def test_numbers_facts_and_figures_are_written(tmp_path: Path) -> None:
    files = write_study(study_of(), tmp_path / "out")

    assert [path.name for path in files] == ["study.json", "study.csv", "one.png"]
    assert json.loads(files[0].read_text("utf-8")) == {
        "study": "toy",
        "facts": {"seed": 3},
        "numbers": [{"subject": "fc", "r": 0.25}, {"subject": "é", "r": None}],
    }
    assert files[1].read_text("utf-8") == "subject,r\nfc,0.25\né,\n"
    assert files[2].read_text() == "drawn"


def test_a_folder_is_replaced_whole_and_only_where_told(tmp_path: Path) -> None:
    write_study(study_of(), tmp_path / "out")
    (tmp_path / "out/old").touch()

    with pytest.raises(DhError, match="already exists"):
        write_study(study_of("new"), tmp_path / "out")
    assert (tmp_path / "out/one.png").read_text() == "drawn"
    write_study(study_of("new"), tmp_path / "out", overwrite=True)

    assert (tmp_path / "out/one.png").read_text() == "new"
    assert not (tmp_path / "out/old").exists()

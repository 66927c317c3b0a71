"""The files for those who work on the code, or cite it, say what holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rooms import by_room, table

ROOT = Path(__file__).parents[1]
FORMS = sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"))


def test_pre_commit_runs_what_make_check_runs() -> None:
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ncheck: setup\n")[2]
    checks = re.findall(r"^\t\$\(BIN\)/(.*)$", recipe.partition("\n\n")[0], re.MULTILINE)
    [repo] = read(ROOT / ".pre-commit-config.yaml")["repos"]

    assert [hook["entry"] for hook in repo["hooks"]] == [f".venv/bin/{check}" for check in checks]
    assert len(checks) == 4
    assert repo["repo"] == "local"  # so that versions stand in requirements.lock alone


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_for_issues_asks_what_dh_env_prints(form: Path) -> None:
    fields = read(form)["body"]

    assert {"name", "description", "body"} <= read(form).keys()
    assert "What `dh env` prints" in [field["attributes"]["label"] for field in fields]


def test_the_citation_names_the_program_and_the_paper() -> None:
    citation = read(ROOT / "CITATION.cff")
    [paper] = citation["references"]

    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert paper["title"] == "Rethinking Classification and Localization for Object Detection"
    assert [author["family-names"] for author in paper["authors"]] == [
        "Wu", "Chen", "Yuan", "Liu", "Wang", "Li", "Fu"
    ]  # fmt: skip


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def test_coverage_is_summed_by_room() -> None:
    report = {
        "files": {
            f"dhcli/{path}": {"summary": {"num_statements": 10, "missing_lines": missed}}
            for path, missed in {
                "atomic.py": 0, "cli/env.py": 1, "data/io/files.py": 2, "data/io/image.py": 3,
                "data/table.py": 4, "models/two_stage/rpn.py": 5,
            }.items()
        }
    }  # fmt: skip

    rows = by_room(report)

    assert rows == [
        ("cli", 10, 1), ("data", 10, 4), ("data/io", 20, 5), ("dhcli", 10, 0), ("models", 10, 5),
        ("all", 60, 15),
    ]  # fmt: skip
    assert table(rows).splitlines()[-1] == "| all | 60 | 15 | 75.0 % |"

"""docs/extending.md: its diffs apply to this tree, and what they add passes its own checks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text("utf-8")
EXAMPLES = {
    title: (diff, commands)
    for title, diff, commands in re.findall(
        r"^## (Add [^\n]+)\n(?:(?!^## ).)*?^```diff\n(.*?)^```\n\n```sh\n(.*?)^```",
        PAGE,
        re.MULTILINE | re.DOTALL,
    )
}
"""Of each heading its diff, and the commands that show it."""
YAML = PAGE.partition("```yaml\n")[2].partition("```")[0]
SHOW = "python -m dhcli presets show"
"""How the settings of `dh train` are looked at without training."""


def apply(diff: str, folder: Path) -> None:
    command = ["git", "apply", "--whitespace=error-all", "-"]
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        command, input=diff, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"see `When a diff no longer applies`: {done.stderr}"


def test_the_page_has_an_example_of_each_thing() -> None:
    assert list(EXAMPLES) == ["Add a backbone", "Add a branch", "Add a detector", "Add a format"]


@pytest.mark.parametrize("title", EXAMPLES)
def test_a_diff_applies_to_this_tree(title: str, tmp_path: Path) -> None:
    diff, _ = EXAMPLES[title]
    for name in re.findall(r"^--- a/(\S+)", diff, re.MULTILINE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)

    apply(diff, tmp_path)

    made = re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE)
    assert all((tmp_path / name).read_text("utf-8") for name in made)
    assert any(name.startswith("tests/") for name in made)


def commands_of(told: str, diff: str) -> list[str]:
    """What the page runs, of `dh train` its settings alone, and the linter."""
    shown = re.sub(r"^dh train --data DATA( --preset)?", SHOW, told, flags=re.MULTILINE)
    files = " ".join(re.findall(r"^\+\+\+ b/(\S+)", diff, re.MULTILINE))
    lint = [f"python -m ruff check {files}", f"python -m ruff format --check {files}"]
    return [line for line in shown.splitlines() if not line.startswith("dh convert")] + lint


@pytest.mark.slow
@pytest.mark.parametrize("title", EXAMPLES)
def test_what_a_diff_adds_passes_its_own_checks(title: str, tmp_path: Path) -> None:
    diff, told = EXAMPLES[title]
    for folder in ("dhcli", "docs", "presets", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "points.yaml").write_text(YAML, "utf-8")
    apply(diff, tmp_path)
    commands = commands_of(told, diff)
    assert len(commands) > 4

    for command in commands:
        done = subprocess.run(
            re.sub(r"\bpython\b", sys.executable, command, count=1),
            shell=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

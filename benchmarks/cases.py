"""Every situation of a folder of cases, run with one or more `dh`s, side by side in one table.

    python benchmarks/cases.py ../shared/cases [--dh old=/path/to/old/.venv/bin/dh] …

A case is a folder with a README.txt; each line of it that begins with `$ dh ` is run as it stands,
in a copy of the folder. The table has, per command, the exit code, whether there was a traceback,
and the last words; whole outputs go below `--out`. What a case says is right is for people to read.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LIMIT = 120
"""Seconds that a command may take."""


class Step(NamedTuple):
    """A command of a case, as its README tells it."""

    case: str
    number: int
    command: str


class Outcome(NamedTuple):
    """What became of a command: exit code (124: took too long), and all it printed."""

    code: int
    text: str

    def __str__(self) -> str:
        words = [line for line in self.text.splitlines() if line.strip()]
        shown = next((line for line in words if line.startswith("error:")), None)
        shown = shown or (words[-1] if words else "")
        trace = " TRACEBACK" if "Traceback (most recent call last)" in self.text else ""
        return f"{self.code}{trace}: {shown[:110]}"


def steps(root: Path) -> Iterator[Step]:
    """The commands of all cases below `root`, case by case."""
    for readme in sorted(root.rglob("README.txt")):
        case = readme.parent.relative_to(root).as_posix()
        lines = readme.read_text("utf-8").splitlines()
        found = [match[1] for line in lines if (match := re.match(r"\$ (dh .*)", line))]
        for number, command in enumerate(found, 1):
            command = re.split(r" {4,}|  ?->", command)[0].strip()
            yield Step(case, number, command)


def run(step: Step, dh: str, place: Path) -> Outcome:
    """Run a command in `place`, `dh` being the program."""
    command = re.sub(r"(^|[;|&(] *)dh ", rf"\1{dh} ", step.command)
    settings = os.environ | {"OMP_NUM_THREADS": "2", "COLUMNS": "160"}
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=place,
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return Outcome(124, (late.stdout or b"").decode("utf-8", "replace"))
    return Outcome(done.returncode, done.stdout.decode("utf-8", "replace"))


def run_all(root: Path, programs: dict[str, str], out: Path, demo: Path | None) -> list[list[str]]:
    """A row per command: case, command, and the outcome with each program."""
    rows = []
    for name, dh in programs.items():
        done: dict[str, Path] = {}
        for place, step in enumerate(steps(root)):
            folder = done.get(step.case)
            if folder is None:
                folder = done[step.case] = Path(tempfile.mkdtemp()) / "case"
                shutil.copytree(root / step.case, folder, symlinks=True)
                if demo is not None:
                    (folder / "demo").symlink_to(demo.resolve())
            outcome = run(step, dh, folder)
            target = out / name / f"{step.case.replace('/', '.')}.{step.number}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"$ {step.command}\n{outcome.text}", "utf-8")
            if len(rows) <= place:
                rows.append([step.case, step.command])
            rows[place].append(str(outcome))
            print(f"{name} {step.case} {step.number}: {outcome}", file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--dh", action="append", metavar="NAME=PROGRAM")
    parser.add_argument("--out", type=Path, default=Path("cases-out"))
    parser.add_argument("--demo", type=Path, help="what `dh demo` made, for the cases that use it")
    words = parser.parse_args()
    here = str(Path(sys.executable).with_name("dh"))
    programs = dict(text.split("=", 1) for text in words.dh or [f"here={here}"])
    rows = run_all(words.cases, programs, words.out, words.demo)
    print("| case | command | " + " | ".join(programs) + " |")
    print("|---" * (2 + len(programs)) + "|")
    for row in rows:
        print("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |")


if __name__ == "__main__":
    main()

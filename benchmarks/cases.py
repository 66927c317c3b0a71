"""Every situation of a folder of cases, run with one or more `dh`s, side by side in one table.

    python benchmarks/cases.py ../shared/cases [--dh old=/path/to/old/.venv/bin/dh] …

A case is a folder with a README.txt; each line of it that begins with `$ dh ` is run as it stands,
in a copy of the folder. What no folder holds stands in `faults.py`. The table has, per command, the
exit code, whether there was a traceback, and the last words; whole outputs go below `--out`. What a
case says is right is for people to read.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from faults import FAULTS

LIMIT = 240
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
        shown = shown or max(words[-4:], key=len, default="")
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


def run(command: str, dh: str, place: Path, **settings: str) -> Outcome:
    """Run a command in `place`, `dh` being the program; 77 is what it cannot do here."""
    program = place.parent / "bin/dh"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {dh} "$@"\n')
    program.chmod(0o755)
    own = {"OMP_NUM_THREADS": "2", "COLUMNS": "160", **settings}
    own["PATH"] = f"{program.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "-c", command],
        cwd=place,
        env=os.environ | own,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            text, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            text, _ = process.communicate()
            return Outcome(124, text.decode("utf-8", "replace"))
    return Outcome(process.returncode, text.decode("utf-8", "replace"))


def places(root: Path, demo: Path) -> Iterator[tuple[Step, Path]]:
    """Every command and fault, each with the folder to run it in: one per case."""
    last, folder = "", root
    for step in steps(root):
        if step.case != last:
            last, folder = step.case, Path(tempfile.mkdtemp()) / "case"
            shutil.copytree(root / step.case, folder, symlinks=True)
            (folder / "demo").symlink_to(demo)
        yield step, folder
    for name, script in FAULTS.items():
        folder = Path(tempfile.mkdtemp()) / "fault"
        folder.mkdir()
        yield Step(f"faults/{name}", 1, script), folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", type=Path)
    parser.add_argument("--dh", action="append", metavar="NAME=PROGRAM")
    parser.add_argument("--out", type=Path, default=Path("cases-out"))
    parser.add_argument("--demo", type=Path, required=True, help="what `dh demo` made")
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    words = parser.parse_args()
    here = str(Path(sys.executable).with_name("dh"))
    programs = dict(text.split("=", 1) for text in words.dh or [f"here={here}"])
    settings = {"CASES": str(words.cases.resolve()), "DEMO": str(words.demo.resolve())}
    rows: dict[Step, list[str]] = {}
    for name, dh in programs.items():
        for step, folder in places(words.cases, words.demo.resolve()):
            if words.only not in step.case:
                continue
            outcome = run(step.command, dh, folder, **settings)
            target = words.out / name / f"{step.case.replace('/', '.')}.{step.number}.txt"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"$ {step.command}\n{outcome.text}", "utf-8")
            rows.setdefault(step, []).append(str(outcome))
            print(f"{name} {step.case} {step.number}: {outcome}", file=sys.stderr)
    print("| case | " + " | ".join(programs) + " |")
    print("|---" * (1 + len(programs)) + "|")
    for step, outcomes in rows.items():
        cells = [f"{step.case} {step.number}", *outcomes]
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


if __name__ == "__main__":
    main()

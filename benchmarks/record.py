"""Where and how a benchmark was run, commands of dh, the peak of memory, and rows as CSV."""

from __future__ import annotations

import csv
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def about(*packages: str) -> dict[str, str]:
    """Columns that say on what and how a row was measured."""
    git = ["git", "-C", str(Path(__file__).parent)]
    changed = [*git, "diff", "--quiet", "HEAD", "--", ":!results"]  # rows are not the program
    dirty = "-dirty" if subprocess.run(changed).returncode else ""
    commit = subprocess.check_output([*git, "describe", "--always"], text=True)
    versions = [f"python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in packages]
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "machine": _machine(),
        "versions": ", ".join(versions),
        "commit": commit.strip() + dirty,
        "command": shlex.join(["python", script, *sys.argv[1:]]),
    }


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"


def dh(*words: str) -> str:
    """What a command of dh prints on stdout."""
    return subprocess.check_output([sys.executable, "-m", "dhcli", *words], text=True)


def peak_mb() -> float:
    """The most memory this process has had. Not getrusage's: that begins with its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def add_row(path: Path, row: dict[str, Any]) -> None:
    """Print `row`, and add it to the CSV at `path`, with a header where that is new."""
    for key, value in row.items():
        print(f"{key:>18}  {value}")
    print(flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)

"""Where a benchmark was run, and its rows as CSV."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def about(*packages: str) -> dict[str, str]:
    """Columns that say on what and how a row was measured."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    versions = [f"python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in packages]
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "machine": _machine(),
        "versions": ", ".join(versions),
        "commit": subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip(),
        "command": " ".join(["python", script, *sys.argv[1:]]),
    }


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write `rows`, which have the same keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

"""The benchmarks find everything that they import; running them takes minutes each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_every_benchmark_can_be_imported() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert "predict" in names
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {', '.join(names)}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-500:]

"""The benchmarks find everything that they import; most take minutes each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_every_benchmark_can_be_imported() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert "predict" in names
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {', '.join(names)}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and kills")
def test_trainings_that_are_killed_resume_to_the_bit(tmp_path: Path) -> None:
    words = [FOLDER / "faults.py", "--kills", "5", "--out", tmp_path / "faults.csv"]

    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert (tmp_path / "faults.csv").exists()

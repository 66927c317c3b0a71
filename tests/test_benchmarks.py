"""The benchmarks find everything that they import; most take minutes each."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dhcli.config.load import load_config

FOLDER = Path(__file__).parents[1] / "benchmarks"


def test_every_benchmark_can_be_imported() -> None:
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    assert "predict" in names
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import {', '.join(names)}"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr[-500:]


@pytest.mark.parametrize(("table", "preset"), [("family", "demo"), ("kitti", "kitti-tiny-light")])
def test_every_system_of_a_table_is_a_configuration(table: str, preset: str) -> None:
    systems = yaml.safe_load((FOLDER / f"{table}.yaml").read_text())["systems"]

    for sets in systems.values():
        overrides = [f"{key}={json.dumps(value)}" for key, value in sets.items()]
        config = load_config(preset, overrides=overrides).config
        assert config.model.kind == sets.get("model.kind", "two_stage")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks, and kills")
def test_trainings_that_are_killed_resume_to_the_bit(tmp_path: Path) -> None:
    words = [FOLDER / "faults.py", "--kills", "5", "--out", tmp_path / "faults.csv"]

    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert (tmp_path / "faults.csv").exists()

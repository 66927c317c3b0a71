"""docs/design.md: its errors are those that `dh` gives, and its file is the preset."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.config.load import load_config

PAGE = (Path(__file__).parents[1] / "docs/design.md").read_text("utf-8")
SHOWN = re.findall(r"^\$ dh (presets show .+)\n(error: .+)\n(?:hint: (.+)\n)?", PAGE, re.MULTILINE)
"""Command, error and hint ("" without) of each example that needs no network to be built."""


def test_the_page_has_examples() -> None:
    assert len(SHOWN) >= 10
    assert len(SHOWN) == PAGE.count("$ dh presets show")


@pytest.mark.parametrize(("command", "error", "hint"), SHOWN)
def test_an_error_is_what_dh_says(command: str, error: str, hint: str) -> None:
    result = CliRunner().invoke(app, shlex.split(command))

    said = " ".join(result.stderr.split())
    assert result.exit_code == 2
    assert said == f"{error} hint: {hint}" if hint else said == error


def test_its_steps_are_the_preset(tmp_path: Path) -> None:
    blocks = re.findall(r"^( *)```yaml\n(.*?)^ *```", PAGE, re.MULTILINE | re.DOTALL)
    written = "".join(re.sub(f"^{space}", "", text, flags=re.MULTILINE) for space, text in blocks)
    (tmp_path / "own.yaml").write_text(written, "utf-8")
    assert set(yaml.safe_load(written)) == {"extends", "about", "data", "model", "train"}

    own = load_config(file=tmp_path / "own.yaml").config
    preset = load_config("design-yolof-pvt").config

    assert own.model == preset.model
    assert own.data == preset.data
    assert own.input == preset.input
    assert own.train.optimizer == preset.train.optimizer
    assert own.train.lr == preset.train.lr

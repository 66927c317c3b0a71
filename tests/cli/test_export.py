"""`dh export` as people and programs see it; the export itself is tested in tests/export."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from dhcli.cli import app
from dhcli.export import onnx as export
from dhcli.export.onnx import Agreement
from dhcli.weights.model_file import ModelFile, save_model

GOOD = Agreement((96, 64), torch=5, onnx=5, same=5, box=1e-5, score=2e-7)
BAD = Agreement((64, 96), torch=50, onnx=40, same=3, box=1e-5, score=2e-7)
EMPTY = Agreement((64, 64), torch=0, onnx=0, same=0, box=0.0, score=0.0)


@pytest.fixture
def run(
    tmp_path: Path, small_model: Callable[..., ModelFile], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """`dh export` of a small model whose comparison comes out as given."""
    save_model(tmp_path / "m.safetensors", small_model("Car"))

    def invoke(rows: Sequence[Agreement], *words: str) -> Result:
        def pretend(model: ModelFile, out: Path, **_: Any) -> list[Agreement]:
            if all(row.good for row in rows):
                out.write_bytes(b"onnx")
            return list(rows)

        monkeypatch.setattr(export, "export_onnx", pretend)
        return CliRunner().invoke(app, ["export", str(tmp_path / "m.safetensors"), *words])

    return invoke


def test_agreement_is_shown_and_the_file_named(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run([GOOD, GOOD])

    assert result.exit_code == 0, result.stderr
    assert "96×64" in result.stdout
    assert "1.0e-05 px" in result.stdout
    assert result.stdout.count("good") == 2
    assert f"wrote {tmp_path / 'm.onnx'}" in result.stderr


def test_disagreement_is_shown_and_fails(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run([GOOD, BAD], "--to", "onnx")

    assert result.exit_code == 1
    assert "BAD" in result.stdout
    assert "nothing was written" in result.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_json_is_one_document(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run([GOOD, BAD], "--json")

    document = json.loads(result.stdout)
    assert document["out"] is None
    assert [row["good"] for row in document["pictures"]] == [True, False]


def test_an_empty_comparison_is_said_to_be_empty(run: Callable[..., Result]) -> None:
    assert "little was compared" in run([EMPTY]).stderr
    assert "little was compared" not in run([EMPTY, GOOD]).stderr


def test_an_unknown_target_is_a_usage_error(run: Callable[..., Result]) -> None:
    result = run([GOOD], "--to", "onxx")

    assert result.exit_code == 2
    assert "onnx" in result.stderr

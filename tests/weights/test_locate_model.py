"""A run folder stands for its model."""

from __future__ import annotations

from pathlib import Path

import pytest

from dhcli.errors import ModelError
from dhcli.weights.locate_model import locate_model


def test_a_run_means_its_best_model_and_else_its_last(tmp_path: Path) -> None:
    last, best = tmp_path / "last.safetensors", tmp_path / "best.safetensors"

    last.touch()
    assert locate_model(tmp_path) == (last, f"{tmp_path}: no best model yet, so its last, {last}")
    best.touch()
    assert locate_model(tmp_path) == (best, f"{tmp_path}: its best model, {best}")


@pytest.mark.parametrize(
    ("there", "hint"),
    [
        ("photo.jpg", "name a run folder or a model file"),
        ("model.safetensors", "did you mean {folder}/model.safetensors?"),
        ("custom/best.safetensors", "did you mean {folder}/custom?"),
    ],
)
def test_another_folder_is_one_error_that_says_what_was_looked_for(
    there: str, hint: str, tmp_path: Path
) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    (tmp_path / there).touch()

    with pytest.raises(ModelError, match=r"without best.safetensors or last.safetensors") as caught:
        locate_model(tmp_path)

    assert "\n" not in str(caught.value)
    assert caught.value.hint == hint.format(folder=tmp_path)

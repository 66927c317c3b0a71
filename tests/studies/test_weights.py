"""Fig. 4 of the branches of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dhcli.config.detecting import DetectOptions
from dhcli.errors import ConfigError
from dhcli.studies.subjects import open_subjects
from dhcli.studies.weights import study_weights
from tests.studies.conftest import CONV, FC

CPU = DetectOptions(device="cpu")


def test_first_layer_of_each_branch_is_compared(study_model: Callable[..., Path]) -> None:
    subjects = open_subjects([study_model("fc", FC), study_model("conv", CONV)], None, CPU)

    study = study_weights(subjects)

    layers = [row[:2] for row in study.sheets[0].rows]
    assert layers == [("fc/fc", "trunk.1"), ("conv/conv", "trunk.0.main.0")]
    weight = subjects[0].module.trunk[1].weight.detach().numpy()  # (24, 16 · 49)
    cells = [weight[:, cell::49].ravel() for cell in range(49)]
    pearson = [row[6] for row in study.numbers.rows[: 49 * 49]]
    np.testing.assert_allclose(np.reshape(pearson, (49, 49)), np.corrcoef(cells), atol=1e-5)
    assert [layer["side"] for layer in study.facts["layers"]] == [7, 7]
    assert len(study.facts["layers"][0]["by_distance"]) == 6


def test_layer_is_taken_where_a_branch_has_it(study_model: Callable[..., Path]) -> None:
    subjects = open_subjects([study_model("ext")], None, CPU)

    study = study_weights(subjects, "trunk.0.shortcut.0")

    (row,) = study.sheets[0].rows
    assert row[:2] == ("conv", "trunk.0.shortcut.0")
    assert row[2:] == pytest.approx([1] * 6)  # a 1×1 convolution is the same at every cell


def test_layer_that_reads_no_map_is_an_error_that_lists_those_that_do(
    study_model: Callable[..., Path],
) -> None:
    subjects = open_subjects([study_model("ext")], None, CPU)
    for name in ("trunk.3", "cls", "tronk"):
        with pytest.raises(ConfigError, match=f"layer `{name}` that reads") as raised:
            study_weights(subjects, name)
        assert "fc: trunk.1; conv: trunk.0.main.0, trunk.0.main.3" in str(raised.value.hint)


def test_branch_without_such_a_layer_is_an_error(
    study_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.studies.weights.cell_layers", lambda *_: {})
    with pytest.raises(ConfigError, match="has a layer that reads the cells of a map"):
        study_weights(open_subjects([study_model("fc", FC)], None, CPU))

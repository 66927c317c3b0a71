"""AP over λ: which runs make a grid, and where each number goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dhcli.config.heads import ReadOut, all_read_outs
from dhcli.errors import ConfigError, ModelError
from dhcli.report.study_lambda import draw_lambda_grid
from dhcli.studies.balance import PANELS, find_runs, lambda_study
from dhcli.weights.model_file import ModelFile, save_model


@pytest.fixture
def make_run(tmp_path: Path, small_model: Callable[..., ModelFile]) -> Callable[..., Path]:
    def make(name: str, *branches: dict[str, Any], **settings: Any) -> Path:
        model = small_model("car", branches=list(branches))
        if settings:
            train = model.config.train.model_copy(update=settings)
            model = replace(model, config=model.config.model_copy(update={"train": train}))
        save_model(tmp_path / "grid" / name / "best.safetensors", model)
        return tmp_path / "grid" / name

    return make


def ext(fc: float, conv: float) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        {"kind": "fc", "width": 8, "focus": "cls", "lambda": fc},
        {"kind": "conv", "width": 8, "residual": 1, "norm": "gn", "focus": "reg", "lambda": conv},
    )


def test_each_number_stands_at_its_pair_and_the_unavailable_is_blank(
    make_run: Callable[..., Path],
) -> None:
    for fc, conv in ((0.7, 0.8), (1.0, 0.8), (0.7, 1.0)):
        make_run(f"{fc}-{conv}", *ext(fc, conv))
    runs = find_runs([make_run("x", *ext(0.9, 0.8)).parent], print)
    codes = {"conv": 1, "fc": 2, "complementary": 3}

    def measure(run: Any) -> dict[ReadOut, Any]:
        every = all_read_outs(run.config.model.head)
        aps = {r: run.fc / 10 + run.conv / 100 + codes.get(r.scores, 9) / 1e4 for r in every}
        numbers = {r: {"AP": ap, "AP50": ap + 0.1, "AP75": 0.0} for r, ap in aps.items()}
        return {r: SimpleNamespace(stats=stats, split="val") for r, stats in numbers.items()}

    study = lambda_study(runs, [measure(run) for run in runs], Path("photos"))

    grids = {sheet.title[:3]: sheet.rows for sheet in study.sheets}
    nan = None
    assert [row[0] for row in grids["(a)"]] == [1.0, 0.8]  # the largest λ_conv on top
    expected = {
        "(a)": [(nan, nan, nan), (0.0781, 0.0981, 0.1081)],
        "(b)": [(0.0802, nan, nan), (0.0782, 0.0982, nan)],
        "(c)": [(0.0802, nan, nan), (0.0782, 0.0982, 0.1082)],
        "(d)": [(nan, nan, nan), (0.0783, 0.0983, 0.1083)],
    }
    for panel, rows in expected.items():
        for row, wanted in zip(grids[panel], rows, strict=True):
            assert row[1:] == tuple(x if x is None else pytest.approx(x) for x in wanted)
    assert study.facts["λ_fc"] == [0.7, 0.9, 1.0]
    cells = sum(x is not None for rows in expected.values() for row in rows for x in row)
    assert len(study.numbers.rows) == cells


@pytest.mark.parametrize(
    "branches",
    [
        ({"kind": "fc", "width": 8, "lambda": 0.5},),
        (
            {"kind": "fc", "width": 8, "focus": "reg", "lambda": 0.8},
            {"kind": "conv", "width": 8, "residual": 1, "norm": "gn", "focus": "cls"},
        ),
    ],
)
def test_a_run_that_is_no_double_head_ext_is_named(
    make_run: Callable[..., Path], branches: tuple[dict[str, Any], ...]
) -> None:
    make_run("good", *ext(0.7, 0.8))
    run = make_run("other", *branches)

    with pytest.raises(ConfigError, match="is not a Double-Head-Ext") as caught:
        find_runs([run.parent], print)

    assert caught.value.where == str(run)


def test_two_runs_of_a_pair_are_named(make_run: Callable[..., Path]) -> None:
    runs = [make_run("one", *ext(0.7, 0.8)), make_run("two", *ext(0.7, 0.8))]

    with pytest.raises(ConfigError, match=r"λ_fc 0\.7 and λ_conv 0\.8 as .*one has"):
        find_runs(runs, print)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a run with a model"):
        find_runs([tmp_path], print)


def test_runs_that_differ_in_more_than_lambda_are_told(make_run: Callable[..., Path]) -> None:
    said: list[str] = []
    make_run("one", *ext(0.7, 0.8))
    folder = make_run("two", *ext(0.8, 0.8), seed=5, epochs=3).parent

    find_runs([folder], said.append)

    assert said == ["warning: the runs differ in more than λ: train.epochs"]


def test_the_heat_maps_have_a_panel_each(tmp_path: Path) -> None:
    grids = {panel: np.full((2, 3), np.nan) for panel in PANELS}
    grids[PANELS[0]][0] = (0.1, 0.2, 0.3)

    draw_lambda_grid(grids, (0.6, 0.8, 1), (0.8, 1), tmp_path / "a.png")

    with Image.open(tmp_path / "a.png") as picture:
        width, height = picture.size
    assert width > 3 * height

"""AP over the balance weights λ_fc and λ_conv of Double-Head-Ext, read in four ways (Fig. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut
from dhcli.config.load import config_to_dict
from dhcli.config.schema import Config, TwoStage
from dhcli.errors import ConfigError
from dhcli.inference.evaluate import evaluate_runner
from dhcli.inference.score import Evaluation, Measures, Say, read_truth
from dhcli.report.counting import counting
from dhcli.report.sheet import Column, Row, Sheet
from dhcli.report.study_lambda import draw_lambda_grid
from dhcli.runtime.eager import EagerRunner
from dhcli.studies.study import Study
from dhcli.weights.locate_model import BEST, LAST, locate_model
from dhcli.weights.model_file import read_metadata

Floats = NDArray[np.float64]
NUMBERS = ("AP", "AP50", "AP75")
PANELS = ("(a) conv alone", "(b) fc alone", "(c) scores fc, boxes conv", "(d) fused, boxes conv")
"""The paper's four ways. The fusion is Eq. 4's."""
FREE = frozenset(("model.head.scores", "model.head.boxes", "train.seed", "train.workers"))
"""Settings that runs of one grid may differ in, beside λ, without a word."""
SECTIONS = ("model", "input", "augment", "train")


class Run(NamedTuple):
    """A trained Double-Head-Ext: λ of its branches, and the four ways to read it."""

    folder: Path
    model: Path
    config: Config
    fc: float
    conv: float
    ways: tuple[ReadOut, ...]


def find_runs(folders: Sequence[Path], say: Say) -> list[Run]:
    """The runs of a grid: `folders` are runs, or folders of runs.

    Raises ModelError where one has no model, ConfigError where a run is not a Double-Head-Ext or
    two have the same pair of λ. Says where the runs differ in more than λ.
    """
    runs = [_open(folder) for folder in _run_folders(folders)]
    seen: dict[tuple[float, float], Run] = {}
    for run in runs:
        other = seen.setdefault((run.fc, run.conv), run)
        if other is not run:
            what = f"has λ_fc {run.fc:g} and λ_conv {run.conv:g} as {other.folder} has"
            raise ConfigError(what, where=run.folder, hint="leave one of them out")
    settings = [dict(_settings(run.config)) for run in runs]
    every = {key for one in settings for key in one}
    first = settings[0]
    differ = sorted(key for key in every if any(o.get(key) != first.get(key) for o in settings))
    if differ:
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        say(f"warning: the runs differ in more than λ: {', '.join(differ[:3])}{more}")
    return runs


def evaluate_runs(
    runs: Sequence[Run], data: Path, split: str | None, options: DetectOptions, say: Say
) -> list[dict[ReadOut, Evaluation]]:
    """Every read-out of each run's model, in one pass over the images a run.

    Raises DataError where the data cannot be read, or share no class with a model.
    """
    table, measures = read_truth(data), Measures(split, every=True)
    found = []
    for number, run in enumerate(runs, 1):
        say(f"run {number} of {len(runs)}: {run.model}")
        runner = EagerRunner.open(run.model, options)
        with counting("images") as progress:
            found.append(
                evaluate_runner(
                    runner,
                    table,
                    measures,
                    options=options,
                    say=_silent if number > 1 else say,
                    progress=progress,
                )
            )
    return found


def lambda_study(
    runs: Sequence[Run], found: Sequence[Mapping[ReadOut, Evaluation]], data: Path
) -> Study:
    """AP of each run in the four ways, as four grids.

    `found` has what each read-out of a run's model is worth on `data`.
    """
    fc, conv = sorted({run.fc for run in runs}), sorted({run.conv for run in runs})
    grids = {panel: np.full((len(conv), len(fc)), np.nan) for panel in PANELS}
    rows: list[Row] = []
    for run, every in zip(runs, found, strict=True):
        for panel, way in zip(PANELS, run.ways, strict=True):
            if way not in every:
                continue
            stats = every[way].stats
            grids[panel][conv.index(run.conv), fc.index(run.fc)] = stats["AP"]
            numbers = (stats[name] for name in NUMBERS)
            rows.append((panel, *way, run.fc, run.conv, *numbers, str(run.folder)))
    columns = (
        *map(Column, ("panel", "scores", "boxes")),
        *(Column(name, "score") for name in ("λ_fc", "λ_conv")),
        *(Column(name, "percent") for name in NUMBERS),
        Column("run"),
    )
    return Study(
        "lambda",
        {
            "runs": [str(run.folder) for run in runs],
            "data": str(data),
            "split": next(iter(found[0].values())).split,
            "λ_fc": fc,
            "λ_conv": conv,
        },
        Sheet("AP over λ", columns, tuple(rows)),
        tuple(_grid_sheet(panel, grid, fc, conv) for panel, grid in grids.items()),
        {"lambda.png": partial(draw_lambda_grid, grids, fc, conv)},
    )


def _silent(_: str) -> None:
    """What holds for every run was said of the first."""


def _grid_sheet(panel: str, grid: Floats, fc: Sequence[float], conv: Sequence[float]) -> Sheet:
    """A panel as a table, the largest λ_conv on top."""
    columns = (
        Column("λ_conv", "score", heading="λ_conv \\ λ_fc"),
        *(Column(f"{value:g}", "percent", absent="") for value in fc),
    )
    cells = [[None if np.isnan(x) else float(x) for x in row] for row in grid]
    rows = tuple((value, *row) for value, row in zip(conv, cells, strict=True))
    return Sheet(f"{panel}: AP (percent)", columns, rows[::-1])


def _run_folders(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        inside = sorted({p.parent for name in (BEST, LAST) for p in folder.glob(f"*/{name}")})
        is_run = any((folder / name).is_file() for name in (BEST, LAST))
        yield from [folder] if is_run or not inside else inside


def _open(folder: Path) -> Run:
    model, _ = locate_model(folder)
    config = read_metadata(model).config
    kinds = _branches(config)
    if kinds is None:
        what = "is not a Double-Head-Ext: an fc branch for scores, a conv branch for boxes"
        raise ConfigError(what, where=folder, hint="leave it out of --runs")
    fc, conv = kinds
    pairs = (
        (conv.name, conv.name),
        (fc.name, fc.name),
        (fc.name, conv.name),
        ("complementary", conv.name),
    )
    ways = tuple(ReadOut(*pair) for pair in pairs)
    return Run(folder, model, config, fc.lambda_, conv.lambda_, ways)


def _branches(config: Config) -> tuple[Any, Any] | None:
    """The fc branch that focuses on scores and the conv branch on boxes; None for another head."""
    if not isinstance(config.model, TwoStage):
        return None
    found = {(branch.kind, branch.focus): branch for branch in config.model.head.branches}
    pair = found.get(("fc", "cls")), found.get(("conv", "reg"))
    return None if None in pair else pair


def _settings(config: Config) -> Iterator[tuple[str, str]]:
    """What runs of a grid should share, by key: all but λ and what is `FREE`."""
    whole = config_to_dict(config)
    for section in SECTIONS:
        for key, value in _leaves(whole.get(section), section):
            if key not in FREE and not key.endswith(".lambda"):
                yield key, repr(value)


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _leaves(one, f"{key}.{name}")
    elif isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value):
        for number, one in enumerate(value):
            yield from _leaves(one, f"{key}.{number}")
    else:
        yield key, value

"""Table 1 of the paper in miniature: seven heads, the same budget, drawn shapes, from nothing.

    .venv/bin/python benchmarks/table1.py --out /tmp/table1 [--seeds 0 1] [--device cuda]

Backbone, proposals, samples, optimiser and schedule are those of `benchmarks/table1.yaml`; only the
head changes. RoIs are not enlarged for any branch, which the paper's text does not do either.
A seed draws the initial weights and the order of the images; the images are the same for all.

Interrupted (Ctrl-C, kill), it goes on where it stopped when it is started again with the same
`--out`: a finished training is a line of `results.csv` and is not repeated. Two seeds take about
70 minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from dhcli.atomic import atomic_write
from dhcli.cli.env import describe_machine, describe_torch
from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.data.shapes import draw_shapes
from dhcli.report.console import err
from dhcli.report.training import choose_display
from dhcli.runtime.device import choose_device
from dhcli.training.journal import Journal
from dhcli.training.resume import resume
from dhcli.training.run import Session, train
from dhcli.training.run_folder import CHECKPOINT, CONFIG, METRICS, PREVIOUS

FC: dict[str, Any] = {"kind": "fc", "width": 256}
CONV: dict[str, Any] = {"kind": "conv", "width": 128, "residual": 3, "norm": "bn"}
FC_CLS = {**FC, "focus": "cls", "omega": 2.0}
FC_REG = {**FC, "focus": "reg", "omega": 2.0, "name": "fc_reg"}
CONV_CLS = {**CONV, "focus": "cls", "omega": 2.5, "name": "conv_cls"}
CONV_REG = {**CONV, "focus": "reg", "omega": 2.5}
HEADS: dict[str, list[dict[str, Any]]] = {
    "fc-head": [{**FC, "omega": 2.0, "lambda": 0.5}],
    "conv-head": [{**CONV, "omega": 2.0, "lambda": 0.5}],
    "Double-FC": [FC_CLS, FC_REG],
    "Double-Conv": [CONV_CLS, CONV_REG],
    "Double-Head-Reverse": [FC_REG, CONV_CLS],
    "Double-Head": [FC_CLS, CONV_REG],
    "Double-Head-Ext": [{**FC_CLS, "lambda": 0.7}, {**CONV_REG, "lambda": 0.8}],
}
"""The rows of Table 1 (losses of single heads weighted 1, of double heads 2.0 and 2.5), and Ext."""

PAPER = dict(zip(HEADS, (36.8, 35.9, 38.1, 34.3, 32.0, 39.5, 40.3), strict=True))
"""The paper's AP on COCO val, in percent."""

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
IMAGE_SIZE = (160, 120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--images", type=int, default=1250, help="drawn; a fifth is measured on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    data = (options.out / f"shapes-{options.images}").absolute()
    if not data.exists():
        draw_shapes(data, images=options.images, seed=0, size=IMAGE_SIZE)
    rows = []
    for seed in options.seeds:
        for head in options.heads:
            run = options.out / f"{head}-{seed}"
            config = configure(head, seed, data, options.set)
            stats = finish(run, config, options.device)
            rows.append({"head": head, "seed": seed, **stats})
            write_rows(rows, options.out / "results.csv")
    Console(width=120).print(summary(rows))


def configure(head: str, seed: int, data: Path, overrides: list[str]) -> Config:
    """The settings of one training."""
    settings = {"data.train": str(data), "train.seed": seed, "model.head.branches": HEADS[head]}
    ours = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return load_config(
        str(Path(__file__).with_suffix(".yaml")), overrides=[*ours, *overrides]
    ).config


def finish(run: Path, config: Config, device: str) -> dict[str, float]:
    """The numbers of a training: read if it is finished, else it is begun or continued."""
    if (run / CONFIG).exists() and load_config(file=run / CONFIG).config != config:
        sys.exit(f"{run} was begun with other settings: remove it, or give another --out")
    if (stats := read_stats(run)) is not None:
        return stats
    line = " ".join(sys.argv)
    session = Session(
        "table1",
        line,
        {**describe_machine(), **describe_torch()},
        choose_device(device),
        Journal(choose_display(err, live=False)),
        run,
    )
    if (run / CHECKPOINT).exists():
        outcome = resume(run, config, session)
    else:
        shutil.rmtree(run, ignore_errors=True)
        outcome = train(config, session)
    if outcome.signal is not None:
        sys.exit(f"stopped; to go on: {line}")
    for state in (CHECKPOINT, PREVIOUS):  # large, and of no more use
        (run / state).unlink(missing_ok=True)
    stats = read_stats(run)
    assert stats is not None  # a finished training has been validated
    return stats


def read_stats(run: Path) -> dict[str, float] | None:
    """AP and its kin as the finished training `run` measured them; None if it is not finished."""
    if not (run / METRICS).exists():
        return None
    with (run / METRICS).open() as file:
        last = list(csv.DictReader(file))[-1]
    return {name: float(last[name]) for name in NUMBERS} if last.get("AP") else None


def write_rows(rows: list[dict[str, Any]], path: Path) -> None:
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    with atomic_write(path) as file:
        file.write("\n".join([*lines, ""]).encode())


def summary(rows: list[dict[str, Any]]) -> Table:
    """Mean and spread over the seeds, in percent, best AP first."""
    shown = [name for name in NUMBERS if not any(math.isnan(row[name]) for row in rows)]
    columns = [Column(name, no_wrap=True) for name in ("head", "seeds", *shown, "paper's AP")]
    table = Table(*columns, box=None, padding=(0, 2, 0, 0))
    for head in HEADS:
        mine = [row for row in rows if row["head"] == head]
        if mine:
            cells = [spread([100 * row[name] for row in mine]) for name in shown]
            table.add_row(head, str(len(mine)), *cells, str(PAPER[head]))
    return table


def spread(values: list[float]) -> str:
    """The mean and, of several, half the distance between the least and the largest."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {(max(values) - min(values)) / 2:.1f}"


if __name__ == "__main__":
    main()

"""`dh train`: from annotated images to a model, in a run folder."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dhcli.cli.options import (
    ConfigFile,
    Device,
    JsonFlag,
    Overrides,
    out_option,
    preset_option,
)
from dhcli.config.load import load_config
from dhcli.errors import ConfigError

if TYPE_CHECKING:
    from dhcli.training.loop import TrainingResult
    from dhcli.training.run import Session

TrainFolder = Annotated[
    Path | None,
    typer.Option("--data", "-d", metavar="PATH", help="Dataset to learn from, any known format."),
]
ValFolder = Annotated[
    Path | None,
    typer.Option("--val", metavar="PATH", help="Dataset to validate on; else a split of the data."),
]
StartWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights", "-w", metavar="FILE", help="Model file of the same classes to start from."
    ),
]
ResumeRun = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        help="Resume the run in this folder. Of its settings, those of `train` may change, except "
        "batch_size, accumulate, seed, optimizer and ema.",
    ),
]
Cache = Annotated[
    Literal["none", "ram", "disk"] | None,
    typer.Option(
        "--cache",
        help="Decode every image once, before training: into memory, or a file in the run folder.",
    ),
]
RunFolder = Annotated[
    Path | None, out_option("Folder of the run. Without it: a new one in `runs`, which is said.")
]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write for TensorBoard too.")]


def train(
    data: TrainFolder = None,
    val: ValFolder = None,
    preset: Annotated[str | None, preset_option(", and without --config: custom")] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    weights: StartWeights = None,
    resume: ResumeRun = None,
    out: RunFolder = None,
    cache: Cache = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a detector on your images.

    For example:
      dh train --data photos/
      dh train --preset small --data photos/ --set train.schedule.length=12 --out runs/first
      dh train --resume runs/train/custom

    """
    if resume is not None:
        begun = {"--data": data, "--val": val, "--preset": preset, "--config": config}
        _refuse_beside_resume({**begun, "--weights": weights, "--out": out})
        config = _config_of(resume)
    settings = [*option_settings(data, val, cache), *(overrides or ())]
    resolved = load_config(preset, file=config, overrides=settings)
    from dhcli.training import resume as resuming
    from dhcli.training import run as starting

    session = make_session("train", out, device, tensorboard)
    if resume is not None:
        outcome = resuming.resume(resume, resolved.config, session)
    else:
        outcome = starting.train(resolved.config, session, weights)
    conclude(outcome, as_json=as_json)


def option_settings(data: Path | None, val: Path | None, cache: str | None) -> list[str]:
    """`--data`, `--val` and `--cache` in the form of `--set`."""
    named = {"data.train": data, "data.val": val, "train.cache": cache}
    return [f"{key}={json.dumps(str(value))}" for key, value in named.items() if value is not None]


def make_session(command: str, out: Path | None, device: str, tensorboard: bool) -> Session:
    """Where and how to train, beside the configuration."""
    from dhcli.cli.env import describe_machine, describe_torch, installed_packages
    from dhcli.report.console import err, is_live
    from dhcli.report.training import choose_display
    from dhcli.runtime.eager import choose_device
    from dhcli.training.journal import Journal
    from dhcli.training.run import Session

    line = shlex.join(["dh", *sys.argv[1:]])
    journal = Journal(choose_display(err, live=is_live()))
    machine = {**describe_machine(), **describe_torch(), "packages": installed_packages()}
    return Session(command, line, machine, choose_device(device), journal, out, tensorboard)


def conclude(outcome: TrainingResult, *, as_json: bool) -> None:
    """Print what came of a training and what can be done next; exit 130 or 143 if interrupted.

    Draws `curves.png` in the run folder.
    """
    from dhcli.report.console import err, out, print_json
    from dhcli.report.curves import draw_curves
    from dhcli.report.training import history_table, outcome_json
    from dhcli.training.run_folder import resume_command

    if outcome.position.history:
        draw_curves(outcome.position.history, outcome.run.path / "curves.png")
    if as_json:
        print_json(outcome_json(outcome))
    elif outcome.position.history:
        out.print(history_table(outcome.position.history, outcome.position.best_epoch))
    if outcome.signal is not None:
        err.print(f"interrupted; resume with: {resume_command(outcome.run.path)}")
        raise typer.Exit(128 + outcome.signal)
    for line in _farewell(outcome):
        err.print(line)


def _farewell(outcome: TrainingResult) -> Sequence[str]:
    position, run = outcome.position, outcome.run.path
    model = run / ("last.safetensors" if position.best_ap is None else "best.safetensors")
    lines = []
    if outcome.status == "early":
        lines.append(f"stopped early: {position.stale} validations without a better AP")
    if position.best_ap is not None:
        lines.append(f"best AP {position.best_ap * 100:.1f} % after epoch {position.best_epoch}")
    lines += [f"run folder: {run}", f"model: {model}"]
    return [*lines, f"next: dh predict --weights {shlex.quote(str(model))} IMAGE"]


def _refuse_beside_resume(options: dict[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        what = f"{', '.join(given)} cannot be used with --resume, which keeps the run's settings"
        raise ConfigError(what, hint="`--set train.…` changes how it goes on")


def _config_of(run: Path) -> Path:
    path = run / "config.yaml"
    if not path.is_file():
        hint = "name the folder of a run of `dh train` or `dh finetune`"
        raise ConfigError("is not a run folder: it has no config.yaml", where=run, hint=hint)
    return path

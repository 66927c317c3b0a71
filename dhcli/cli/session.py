"""What `dh train` and `dh finetune` do before and after a training."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from dhcli.training.loop import TrainingResult
    from dhcli.training.run import Session


def given(**options: object) -> dict[str, object]:
    """Those of the options that are given, by their names: `batch_size=2` as `--batch-size`."""
    named = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return {name: value for name, value in named.items() if value is not None}


def choose_preset(
    preset: str | None, config: Path | None, device: str, *, gpu: str, cpu: str
) -> tuple[str | None, list[str]]:
    """What the user names; with neither a preset nor a file, what suits the device.

    Beside it the lines that say what was chosen for the user.
    """
    from dhcli.runtime.device import choose_device

    if preset is not None or config is not None:
        return preset, []
    if choose_device(device).type != "cpu":
        return gpu, []
    return cpu, [f"preset: {cpu}, which suits a CPU; `--preset {gpu}` is made for a GPU"]


def make_session(
    command: str,
    out: Path | None,
    device: str,
    tensorboard: bool,
    *,
    overwrite: bool = False,
    inputs: Sequence[Path | None] = (),
    notes: Sequence[str] = (),
) -> Session:
    """Where and how to train, beside the configuration.

    With `overwrite`, `out` must not hold any of the `inputs`: raises DhError.
    """
    from dhcli.atomic import require_free
    from dhcli.cli.env import describe_machine, describe_torch, installed_packages
    from dhcli.report.console import err, is_live
    from dhcli.report.training import choose_display
    from dhcli.runtime.device import choose_device
    from dhcli.training.journal import Journal
    from dhcli.training.run import Session

    if overwrite and out is not None:
        require_free(out, overwrite=True, inputs=[path for path in inputs if path])
    line = shlex.join(["dh", *sys.argv[1:]])
    journal = Journal(choose_display(err, live=is_live()))
    machine = {**describe_machine(), **describe_torch(), "packages": installed_packages()}
    return Session(
        command,
        line,
        machine,
        choose_device(device),
        journal,
        out,
        tensorboard,
        overwrite,
        notes=notes,
    )


def conclude(outcome: TrainingResult, *, as_json: bool) -> None:
    """Print what came of a training and what can be done next; exit 130 or 143 if interrupted.

    Draws `curves.png` in the run folder.
    """
    from dhcli.report.console import err, print_json
    from dhcli.report.curves import draw_curves
    from dhcli.report.terminal import show
    from dhcli.report.training import history_sheet, outcome_json
    from dhcli.training.run_folder import resume_command

    if outcome.position.history:
        draw_curves(outcome.position.history, outcome.run.path / "curves.png")
    if as_json:
        print_json(outcome_json(outcome))
    elif outcome.position.history:
        show(history_sheet(outcome.position.history, outcome.position.best_epoch), titles=True)
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

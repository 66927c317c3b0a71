"""What `dh train` and `dh finetune` do before and after a training."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dhcli.errors import ConfigError
from dhcli.runtime.launch import own_place, starts_before
from dhcli.weights.configure import configure

if TYPE_CHECKING:
    from dhcli.runtime.team import Team
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


def require_name(restarts: int, run: Path | None) -> None:
    """Raise ConfigError where all may be started again, and no run is named to go on with then."""
    restarts = restarts or int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0)
    if restarts and run is None:
        what = "with --max-restarts, the run to go on with needs a name"
        raise ConfigError(what, hint="`--out FOLDER`")


def begun_before(out: Path | None) -> Path | None:
    """The run to go on with: that of `out`, where all processes are started again.

    None where they are not, or it has come to no state yet.
    """
    if not starts_before() or out is None:
        return None
    command = out / "command.txt"
    is_ours = command.is_file() and command.read_text("utf-8").strip() == command_line()
    return out if is_ours and (out / "checkpoint.pt").is_file() else None


def go_on(run: Path, session: Session) -> TrainingResult:
    """Go on with the run in the folder `run`, as it is configured there."""
    from dhcli.training.resume import resume

    resolved = configure(None, file=run / "config.yaml")
    return resume(run, resolved.config, session)


def command_line() -> str:
    """The command, as it could be typed again."""
    return shlex.join(["dh", *sys.argv[1:]])


def make_session(
    command: str,
    out: Path | None,
    device: str,
    tensorboard: bool,
    team: Team,
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
    from dhcli.runtime.device import own_device
    from dhcli.training.journal import Journal, Silence
    from dhcli.training.run import Session

    if overwrite and out is not None:
        require_free(out, overwrite=True, inputs=[path for path in inputs if path], in_place=True)
    journal = Journal(choose_display(err, live=is_live()) if team.first else Silence(), team)
    machine = {**describe_machine(), **describe_torch(), "packages": installed_packages()}
    return Session(
        command,
        command_line(),
        machine,
        own_device(device, own_place()),
        journal,
        out,
        tensorboard,
        overwrite,
        notes=notes,
        team=team,
    )


def conclude(outcome: TrainingResult, team: Team, *, as_json: bool) -> None:
    """Print what came of a training and what can be done next; exit 130 or 143 if interrupted.

    Draws `curves.png` in the run folder. All this in the first process of `team` only.
    """
    if team.first:
        _conclude(outcome, as_json=as_json)
    if outcome.signal is not None:
        raise typer.Exit(128 + outcome.signal)


def _conclude(outcome: TrainingResult, *, as_json: bool) -> None:
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
        return
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

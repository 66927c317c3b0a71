"""What a command does to run in several processes: it starts them, or is one of them."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dhcli.errors import ConfigError, DhError
from dhcli.runtime.launch import (
    CRASHED,
    LEFT_ALONE,
    Place,
    describe_processes,
    is_launched,
    launch,
    own_place,
)

if TYPE_CHECKING:
    from dhcli.runtime.team import Team


def is_first() -> bool:
    """Whether this process is alone, or the one that speaks to people."""
    return os.environ.get("RANK", "0") == "0"


def speaks() -> bool:
    """Whether this process is to say what every process of the command comes to know.

    Those that `launch` starts are told of what it has said itself before.
    """
    return is_first() and not is_launched()


_speaks: Callable[[], bool] = is_first


def may_say(error: Exception) -> bool:
    """Whether this process is the one to say why the command ends: what all know is said once.

    That another has ended is said by it, or by who started it.
    """
    left_alone = getattr(error, "exit_code", None) == LEFT_ALONE
    return not (left_alone and is_launched()) and _speaks()


@contextmanager
def together(nproc: int | None, device: str, restarts: int = 0) -> Iterator[Team]:
    """The team of this process while the block runs, alone where nobody asks for more.

    Where more are asked for, runs this command in `nproc` processes, and exits as they did.
    Raises ConfigError where a launcher has started another number.
    """
    global _speaks
    place = own_place()
    if place.size == 1 and not is_launched() and ((nproc or 1) > 1 or restarts):
        raise typer.Exit(launch(nproc or 1, restarts, _warn))
    _check(place, nproc, restarts)
    if place.size == 1:
        from dhcli.runtime.team import ALONE

        yield ALONE
        return
    from dhcli.runtime.device import own_device
    from dhcli.runtime.processes import joined

    with joined(place, own_device(device, place)) as (team, _speaks):
        try:
            yield team
        except Exception as error:
            if _is_expected(error):
                raise
            traceback.print_exc()
            raise SystemExit(CRASHED) from error


def say_of(team: Team) -> Callable[[str], None]:
    """What takes lines for people: only those of the first process are printed."""
    from dhcli.report.console import err

    return err.print if team.first else lambda _: None


def shared_out(team: Team, device: str, weights: Path) -> str:
    """The device of this process where images are shared out, which is said; `device` if alone.

    Raises ConfigError where there are fewer GPUs than processes, or `weights` is an exported file
    that would run on one.
    """
    if team.size == 1:
        return device
    place = own_place()
    say_of(team)(f"{describe_processes(place)} share the images")
    from dhcli.runtime.device import own_device
    from dhcli.runtime.runner import is_onnx

    if is_onnx(weights):
        if device not in ("auto", "cpu"):
            what = "several processes run an exported file on the CPU only"
            raise ConfigError(what, where="--device", hint="one process, or the model file")
        return "cpu"
    return str(own_device(device, place))


def _check(place: Place, nproc: int | None, restarts: int) -> None:
    if is_launched():
        return
    if nproc is not None and nproc != place.local_size and place.size > 1:
        what = f"`--nproc {nproc}`, but a launcher has started {place.local_size} processes here"
        raise ConfigError(what, hint="leave --nproc out")
    if restarts:
        raise ConfigError("`--max-restarts` is for torchrun to know", hint="name it before `-m`")


def _is_expected(error: Exception) -> bool:
    """Whether the command line says it to people, and another try would end alike."""
    from dhcli.runtime.memory import is_shortage

    ways_out = (DhError, typer.Exit, typer.Abort, typer.TyperException)
    return isinstance(error, ways_out) or is_shortage(error)


def _warn(text: str) -> None:
    from dhcli.report.console import err

    err.print(f"warning: {text}")

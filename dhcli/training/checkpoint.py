"""The whole state of a training, so that it resumes as if it had never stopped.

What torch.save writes, then `SEAL` and the SHA-256 of all before it, which torch passes over.
Tensors, numbers, text, lists and dicts only: it loads with `weights_only=True`. There is no state
of random generators in it, because every iteration seeds them from (seed, iteration).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from dhcli.atomic import atomic_write, write_error
from dhcli.errors import ModelError
from dhcli.training.run_folder import PREVIOUS
from dhcli.weights.locate_model import LAST
from dhcli.weights.recognise import load_plain, save_plain

LAYOUT = 2
"""Of 1 are states without a checksum, which are read too."""
SEAL = b"\ndh-sum\n"
PARTS = {"layout", "model", "optimizer", "scaler", "ema", "position", "meter", "config", "data"}


class UnusableError(ModelError):
    """A state that is not there, or cannot be what was saved."""


@dataclass
class Position:
    """How far training is.

    epoch       whole epochs done
    iteration   iterations done in the epoch under way; all of them: its validation is due
    best_ap     best AP of a validation, None before the first
    best_epoch  the epoch it was reached after
    stale       validations since then
    skipped     iterations in a row whose loss was not finite
    history     one row per validation, as in metrics.csv
    points      operating points of the last validation, for the model files; {} before it
    """

    epoch: int = 0
    iteration: int = 0
    best_ap: float | None = None
    best_epoch: int = 0
    stale: int = 0
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    points: dict[str, Any] = field(default_factory=dict)


class _Summed:
    """Passes bytes on to `file` and keeps their checksum."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state whole, or leave the file that was there.

    That file is then `PREVIOUS` beside it. Raises DhError where it cannot be written.
    """
    with atomic_write(path, previous=path.with_name(PREVIOUS)) as file:
        summed = _Summed(file)
        save_plain({"layout": LAYOUT, **state}, summed)
        file.write(SEAL + summed.sum.digest())


def choose_checkpoint(path: Path) -> str | None:
    """Where the state at `path` is damaged or gone, put `PREVIOUS` beside it in its place.

    A line that says so, or None. Only for who may write the run. Raises ModelError where neither
    can be used.
    """
    previous = path.with_name(PREVIOUS)
    try:
        load_checkpoint(path)
    except UnusableError as error:
        if not previous.exists():
            raise
        try:
            load_checkpoint(previous)
            previous.replace(path)
        except UnusableError:
            what = f"{error.what}, and {previous.name} cannot be used either"
            raise UnusableError(what, where=path, hint=error.hint) from error
        except OSError as failed:
            raise write_error(path, failed) from failed
        return f"{error}; resumes from the state saved before it, {previous.name}"
    return None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state, tensors on the CPU, without running any code in it.

    Raises UnusableError where there is none, it is damaged or something else, and ModelError where
    another dh wrote it.
    """
    if not path.is_file():
        more = " and `--overwrite`" if any(path.parent.glob("*.safetensors")) else ""
        hint = "the run ended before its first checkpoint: start it again with the same `--out`"
        hint += f"{more}; its command is in {path.parent / 'command.txt'}"
        raise UnusableError("there is no such checkpoint", where=path, hint=hint)
    sealed = _check_seal(path)
    try:
        state = load_plain(path)
    except ValueError as error:
        if sealed:  # so it is what was saved: memory, perhaps
            raise ModelError(f"cannot be loaded: {error}", where=path) from error
        raise _foreign(path) from error
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise _foreign(path)
    if state["layout"] not in (1, LAYOUT):
        what = f"was written by another version of dh (layout {state['layout']}, not {LAYOUT})"
        raise ModelError(what, where=path, hint="resume it with the version that started it")
    if state["layout"] == LAYOUT and not sealed:
        raise _damaged(path)
    return state


def _check_seal(path: Path) -> bool:
    """Whether the file ends with a checksum.

    Raises UnusableError where that is not the one of its content, ModelError where it cannot be
    read.
    """
    try:
        with path.open("rb") as file:
            left = max(file.seek(0, os.SEEK_END) - len(SEAL) - sha256().digest_size, 0)
            file.seek(left)
            end = file.read()
            if not end.startswith(SEAL):
                return False
            file.seek(0)
            summed = sha256()
            while block := file.read(min(left, 1 << 20)):
                summed.update(block)
                left -= len(block)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=path) from error
    if end != SEAL + summed.digest():
        raise _damaged(path)
    return True


def _damaged(path: Path) -> UnusableError:
    model = shlex.quote(str(path.with_name(LAST)))
    hint = f"start a new run from its model: `dh train --weights {model} --data …`"
    return UnusableError("is damaged: its checksum is wrong", where=path, hint=hint)


def _foreign(path: Path) -> UnusableError:
    hint = "name the folder of a run of `dh train` that wrote a checkpoint.pt"
    return UnusableError("is not a checkpoint of dh, or a torn one", where=path, hint=hint)

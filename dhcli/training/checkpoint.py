"""The whole state of a training, so that it resumes as if it had never stopped.

Tensors, numbers, text, lists and dicts only: it loads with `weights_only=True`. There is no state
of random generators in it, because every iteration seeds them from (seed, iteration).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dhcli.atomic import atomic_write
from dhcli.errors import ModelError
from dhcli.weights.recognise import load_plain

LAYOUT = 1
PARTS = {"layout", "model", "optimizer", "scaler", "ema", "position", "meter", "config", "data"}


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


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state whole, or leave the file that was there.

    Raises DhError where it cannot be written.
    """
    with atomic_write(path) as file:
        try:
            torch.save({"layout": LAYOUT, **state}, file)
        except RuntimeError as error:  # torch's writer hides the disk's error behind its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a state, tensors on the CPU, without running any code in it.

    Raises ModelError where there is none, or the file is something else.
    """
    if not path.is_file():
        hint = "the run ended before its first checkpoint: start it again with the same `--out`; "
        hint += f"its command is in {path.parent / 'command.txt'}"
        raise ModelError("there is no such checkpoint", where=path, hint=hint)
    try:
        state = load_plain(path)
    except ValueError as error:
        raise _foreign(path) from error
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise _foreign(path)
    if state["layout"] != LAYOUT:
        what = f"was written by another version of dh (layout {state['layout']}, not {LAYOUT})"
        raise ModelError(what, where=path, hint="resume it with the version that started it")
    return state


def _foreign(path: Path) -> ModelError:
    hint = "name the folder of a run of `dh train` that wrote a checkpoint.pt"
    return ModelError("is not a checkpoint of dh", where=path, hint=hint)

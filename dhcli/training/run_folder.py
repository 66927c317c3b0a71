"""The folder of a run: files written whole, and two that only grow, line by line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from errno import EACCES, EAGAIN, ENOLCK, ENOSYS, ENOTSUP
from pathlib import Path
from typing import Any, TextIO

from dhcli.atomic import atomic_write, clean, require_folder, tell_removed, write_error
from dhcli.errors import DhError

try:
    import fcntl
except ImportError:  # not POSIX
    fcntl = None  # type: ignore[assignment]

CONFIG, CHECKPOINT, METRICS = "config.yaml", "checkpoint.pt", "metrics.csv"
PREVIOUS = "checkpoint-previous.pt"
LOG, EVENTS = "train.log", "events.jsonl"
COMMAND, MACHINE, LOCK = "command.txt", "env.json", "run.lock"
DECODED = ("decoded-train.bin", "decoded-val.bin")
BEGUN = {CONFIG, METRICS, LOG, EVENTS, COMMAND, MACHINE, LOCK, *DECODED}
"""What a run holds that has not come to a model yet."""


class RunFolder:
    """An open run.

    `train.log` and `events.jsonl` grow by lines, and are opened for the first of them; every other
    file is written beside its place and renamed, so whoever looks sees whole files. Raises DhError
    where something cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, TextIO] = {}
        self._lock: TextIO | None = None

    def __reduce__(self) -> tuple[type[RunFolder], tuple[Path]]:
        return RunFolder, (self.path,)  # another process has neither its files nor its lock

    def claim(self) -> None:
        """Be the one process that trains in the folder, until `close` or the process ends.

        Then what killed processes left in it is removed. Raises DhError where another process
        trains, or nothing can be written. Where the file system has no locks, nobody is kept out.
        """
        if fcntl is None or self._lock is not None:
            return
        try:
            self._lock = (self.path / LOCK).open("a+", encoding="utf-8")
        except OSError as error:
            raise write_error(self.path / LOCK, error) from error
        try:
            # Not flock, which loading processes would inherit and hold when this one is killed. NFS
            # shares it between hosts, unless mounted with `nolock`.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (EACCES, EAGAIN):
                raise self._taken() from error
            if error.errno not in (ENOLCK, ENOTSUP, ENOSYS):
                raise write_error(self.path / LOCK, error) from error
        else:
            self._move_in()

    def _move_in(self) -> None:
        """Write into the lock who has it, and remove what those before left."""
        assert self._lock is not None
        try:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {platform.node()}\n")
            self._lock.flush()
            clean(self.path)
            for file in (self.path / name for name in DECODED):
                if file.exists():
                    file.unlink()
                    tell_removed(file)
        except OSError as error:
            raise write_error(self.path / LOCK, error) from error

    def _taken(self) -> DhError:
        """The error that says who trains here; gives the file of the lock back."""
        assert self._lock is not None
        self._lock.seek(0)
        who = self._lock.read(200).strip()
        self._lock.close()
        self._lock = None
        what = f"another process is training in this run folder{who and f' ({who})'}"
        hint = "wait until it ends, or stop it; another run needs another `--out`"
        return DhError(what, where=self.path, hint=hint)

    def place(self, name: str) -> Path:
        """Where the file `name` is to be written. Raises DhError where the folder has gone."""
        if not self.path.is_dir():
            hint = "put it back where it was, and resume the run from its last checkpoint"
            raise DhError("the run folder is no longer there", where=self.path, hint=hint)
        return self.path / name

    def log(self, text: str) -> None:
        """Add a line, or several, to `train.log`, each with the time."""
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        self._append(LOG, "".join(f"{now} {line}\n" for line in text.splitlines()))

    def event(self, kind: str, values: Mapping[str, Any]) -> None:
        """Add an object to `events.jsonl`; numbers that are not finite become null."""
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        row = {"event": kind, "time": now, **_finite(values)}
        self._append(EVENTS, json.dumps(row, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write the file `name` whole."""
        with atomic_write(self.place(name)) as file:
            file.write(text.encode("utf-8"))

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write `metrics.csv`: one row per validation, the columns of all rows, None left empty."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.write_text(METRICS, text.getvalue())

    def require_space(self, needed: int) -> None:
        """Raise DhError where the disk has fewer than `needed` bytes left."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            what = f"the run needs about {needed / 1e6:.0f} MB, {free / 1e6:.0f} MB are free"
            hint = "make room, or name a folder on another disk with `--out`"
            raise DhError(what, where=self.path, hint=hint)

    def close(self) -> None:
        """Close the growing files, and let others train here."""
        for file in self._files.values():
            with suppress(OSError):  # told when it was written
                file.close()
        self._files.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _append(self, name: str, text: str) -> None:
        path = self.place(name)
        if name not in self._files:
            self._files[name] = _open_lines(path)
        try:
            self._files[name].write(text)
            self._files[name].flush()
        except OSError as error:
            raise write_error(path, error) from error


def make_run(command: str, name: str, out: Path | None, *, overwrite: bool = False) -> RunFolder:
    """A new folder: `out`, else `runs/<command>/<name>`, with `-2`, `-3` … where it is taken.

    With `overwrite`, what is in `out` is gone then, whole.

    A run that ended before its first checkpoint is begun anew. Raises DhError if `out` holds other
    files already, another process is at it, or nothing can be written there.
    """
    place = _claim(Path("runs", command, name)) if out is None else _take(out, overwrite=overwrite)
    run = RunFolder(place)
    run.claim()
    try:
        if overwrite:
            _empty(run.path)
        for name in BEGUN - {LOCK}:
            (run.path / name).unlink(missing_ok=True)
        (run.path / LOG).touch()  # so that no other run takes the folder for empty
    except OSError as error:
        raise write_error(run.path / LOG, error) from error
    return run


def _claim(path: Path) -> Path:
    number, candidate = 1, path
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            number += 1
            candidate = path.with_name(f"{path.name}-{number}")
        except OSError as error:
            raise write_error(candidate, error) from error
        else:
            return candidate


def require_new_run(out: Path | None, *, overwrite: bool = False) -> None:
    """Raise DhError where no new run can be put into `out`, before the data is read."""
    if out is None:
        return
    require_folder(out)
    if overwrite:
        return
    if out.is_dir() and any(out.iterdir()) and not _is_barely_begun(out):
        there = f", or resume that run: `{resume_command(out)}`" if _is_run(out) else ""
        hint = f"name another folder{there}; `--overwrite` deletes this one first"
        raise DhError("already exists and is not empty", where=out, hint=hint)


def _is_run(path: Path) -> bool:
    """Whether `path` holds a run that can be resumed."""
    return (path / CHECKPOINT).exists() or (path / PREVIOUS).exists()


def _is_barely_begun(path: Path) -> bool:
    """Whether `path` holds a run that ended before its first checkpoint or model, and no more."""
    names = {file.name for file in path.iterdir()}
    unfinished = {name for name in names if name.startswith(".") and name.endswith(".part")}
    return bool(names & {LOG, LOCK}) and names - unfinished <= BEGUN


def resume_command(run: Path) -> str:
    """The command that resumes the run in the folder `run`."""
    return f"dh train --resume {shlex.quote(str(run))}"


def _empty(path: Path) -> None:
    """Remove what is in `path`, but for the lock."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def _take(path: Path, *, overwrite: bool) -> Path:
    require_new_run(path, overwrite=overwrite)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    return path


def _open_lines(path: Path) -> TextIO:
    """Open for appending; a line that a killed run left half-written is ended first."""
    try:
        file = path.open("a+", encoding="utf-8")
        if file.tell():
            with path.open("rb") as raw:
                raw.seek(-1, io.SEEK_END)
                if raw.read() != b"\n":
                    file.write("\n")
    except OSError as error:
        raise write_error(path, error) from error
    return file


def _finite(value: Any) -> Any:
    """`value` with NaN and infinities, which JSON does not have, as None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

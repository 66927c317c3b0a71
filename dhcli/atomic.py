"""Writing files and folders so that a reader sees the old one or the new one, never half of one.

What is being written lies beside its place as `.NAME.XXXXXXXX.part`, locked. Parts without a lock
are what a killed process left: they go when something is next written into their folder, and are
named to who listens.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from errno import EACCES, ENOENT, EROFS
from pathlib import Path
from typing import BinaryIO

from dhcli.errors import DhError

try:
    import fcntl
except ImportError:  # Windows has no flock; nothing is cleaned up there
    fcntl = None  # type: ignore[assignment]

_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")
_RESULTS = (
    *("predictions.bbox.json", "predictions.csv", "drawn", "yolo", "voc", "kitti"),  # of predict
    *("metrics.json", "study.json", "statistics.html", "events.jsonl", "train.log"),
)
"""One of these is in every folder of results that a command writes, but for converted datasets."""
_SKEW = 3600.0
"""Seconds that the clock of a file server may go before ours; what is from later is left over."""
_cleaned: set[Path] = set()
"""Folders where this process has looked for what others left."""
_told: list[Callable[[str], None]] = []
"""Who hears of what is cleaned, the last one alone; files are written by threads, too."""


@contextmanager
def cleaning_told(say: Callable[[str], None]) -> Iterator[None]:
    """Within the block, `say` gets a line on what killed processes left and is removed."""
    _told.append(say)
    try:
        yield
    finally:
        _told.remove(say)


class _WholeFile(io.BufferedWriter):
    """A file whose every byte goes through `write`, which writes all or raises.

    Pillow writes to a file's descriptor itself where it has one, and takes a short write, that of
    a full disk, for a whole one.
    """

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


@contextmanager
def atomic_write(path: Path, *, previous: Path | None = None) -> Iterator[BinaryIO]:
    """A binary file that takes its place at `path` when the block ends without an error.

    Written beside it, flushed to disk and renamed; within an `atomic_folder`, that flushes all at
    its end. The file that was there is then at `previous`, if that is given. On any error the old
    file stays and nothing is left behind. Raises DhError where the folder cannot be written or the
    disk is full.
    """
    temporary: Path | None = None
    lasts = not any(map(_PART.fullmatch, path.parts))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean(path.parent)
        descriptor, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
        temporary = Path(name)
        with _WholeFile(io.FileIO(descriptor, "w")) as file:
            with suppress(OSError):  # some network drives have no locks: nothing is cleaned there
                _lock(descriptor)
            yield file
            file.flush()
            if lasts:
                os.fsync(descriptor)
        temporary.chmod(0o666 & ~_umask())
        if previous is not None and path.exists():
            _keep(path, previous)
        temporary.replace(path)
        temporary = None
        if lasts:
            _sync_names(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A new folder that takes its place at `path` when the block ends without an error.

    With `overwrite`, what was there is gone then, whole. A link stays, and leads to the new folder.
    Raises DhError if `path` is there already and is not an empty folder, or cannot be written.
    """
    require_free(path, overwrite=overwrite)
    path = path.resolve() if path.is_symlink() else path
    with folder_beside(path) as temporary:
        begun = temporary.stat()
        yield temporary
        if not os.path.samestat(begun, temporary.stat()):  # removed, and made anew by a late file
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(temporary))
        temporary.chmod(0o777 & ~_umask())
        os.sync()  # one wait for all files, where fsync would wait for each
        if overwrite and path.exists():
            _exchange(path, temporary)
        else:
            temporary.replace(path)
        _sync_names(path.parent)


def _keep(path: Path, previous: Path) -> None:
    """Have the file at `path` as `previous`, too; where there are no hard links, there alone."""
    previous.unlink(missing_ok=True)
    try:
        previous.hardlink_to(path)
    except OSError:  # FAT, some network drives, a file of another user
        path.replace(previous)


def _exchange(path: Path, new: Path) -> None:
    """Put the folder `new` in the place of the one at `path`, which goes, or stays on an error."""
    with folder_beside(path) as beside:
        old = path.replace(beside / path.name)
        try:
            new.replace(path)
        except BaseException:
            old.replace(path)
            raise


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, from which finished files are moved by renaming.

    It is gone when the block ends. Raises DhError where it, or what the block writes, cannot be
    written.
    """
    temporary: Path | None = None
    lock = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clean(path.parent)
        temporary = Path(tempfile.mkdtemp(".part", f".{path.name}.", path.parent))
        if fcntl is not None:
            lock = os.open(temporary, os.O_RDONLY)
            with suppress(OSError):
                _lock(lock)
        yield temporary
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if lock >= 0:
            os.close(lock)


def require_free(
    path: Path, *, overwrite: bool = False, inputs: Sequence[Path] = (), in_place: bool = False
) -> None:
    """Raise DhError where no new folder can be put at `path`, before work that would be lost.

    That is where a folder that is not empty is there, unless `overwrite`: then where one of the
    `inputs`, the folder that the command runs in, or a part of an input that is no earlier result
    would be lost with it. A mount point, and the folder that the command runs in, cannot be
    replaced even where they are empty, but filled `in_place`.
    """
    require_folder(path)
    if path.is_dir() and any(path.iterdir()):
        _require_overwrite(path, overwrite=overwrite)
        if lost := _lost_with(path, inputs):
            what = f"{lost}, and cannot be replaced"
            raise DhError(what, where=path, hint="name another place")
    is_mount = os.path.ismount(path)
    if not in_place and (is_mount or path.resolve() == Path.cwd()):
        what = "a disk is mounted" if is_mount else "this command runs"
        hint = f"name a folder in it, such as {path / 'new'}"
        raise DhError(f"is where {what}, and cannot be replaced", where=path, hint=hint)


def _lost_with(path: Path, inputs: Sequence[Path]) -> str | None:
    """Which of the inputs, or what part of one, would be lost with the folder `path`."""
    place = path.resolve()
    for kept in (*inputs, Path.cwd()):
        if kept.resolve().is_relative_to(place):
            return f"holds {kept}"
    if not any((path / name).exists() for name in _RESULTS):
        for kept in inputs:
            if kept.is_dir() and place.is_relative_to(kept.resolve()):
                return f"is part of {kept}"
    return None


def require_free_file(path: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> None:
    """Raise DhError where no new file can be put at `path`; otherwise as `require_free`."""
    if path.is_dir():
        raise DhError("is a folder", where=path, hint="name a file")
    require_folder(path.parent)
    if path.exists() and path.stat().st_size:
        _require_overwrite(path, overwrite=overwrite)
        if any(kept.exists() and kept.samefile(path) for kept in inputs):
            raise DhError("is one of the inputs", where=path, hint="name another place")


def _require_overwrite(path: Path, *, overwrite: bool) -> None:
    if not overwrite:
        hint = "name another place; `--overwrite` deletes the old one and writes a new one"
        raise DhError("already exists", where=path, hint=hint)


def require_folder(path: Path) -> None:
    """Raise DhError if `path` is not a folder that can be made or written into."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise DhError("cannot be written: not a folder", where=there, hint="name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        number = EROFS if _is_mounted_read_only(there) else EACCES
        raise write_error(path, OSError(number, os.strerror(number)))


def _is_mounted_read_only(folder: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def write_error(path: Path, error: OSError) -> DhError:
    """The DhError that says why `path` could not be written."""
    return DhError(
        f"cannot be written: {error.strerror or error}",
        where=path,
        hint="check that the disk has room and that you may write there",
    )


def clean(folder: Path) -> None:
    """Remove what killed processes left in `folder`, and name it; looked for once per process.

    A lock says that a process still writes. NFS and most others share locks between hosts, or have
    none, and then nothing is removed; mounted so that each host has its own (`nolock`,
    `localflock`), a folder should be written by one host at a time. Windows has no such locks.
    """
    if fcntl is None or folder in _cleaned:
        return
    _cleaned.add(folder)
    parts = [entry for entry in folder.iterdir() if _PART.fullmatch(entry.name)]
    for entry in parts:
        with suppress(OSError):  # locked, gone, or not ours
            if -_SKEW < time.time() - entry.lstat().st_mtime < 1:  # perhaps about to be locked
                _cleaned.discard(folder)
            else:
                _remove_unlocked(entry)


def _remove_unlocked(part: Path) -> None:
    """Remove a file or folder and say so. Raises OSError where a process holds it."""
    descriptor = os.open(part, os.O_RDONLY)
    try:
        _lock(descriptor)
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
    finally:
        os.close(descriptor)
    tell_removed(part)


def tell_removed(left: Path) -> None:
    """Have it said that `left`, of a command that was killed, is removed."""
    if _told:
        _told[-1](f"removed what a killed command left: {left}")


def _lock(descriptor: int) -> None:
    """Hold a file until its descriptor is closed. Raises OSError where another process does."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_names(folder: Path) -> None:
    """Have the names in `folder` on the disk: a rename is not, by itself."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

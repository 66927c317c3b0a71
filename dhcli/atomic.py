"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES
from pathlib import Path
from typing import BinaryIO

from dhcli.errors import DhError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes its place at `path` when the block ends without an error.

    Written beside it, flushed to disk and renamed. On any error the old file stays and nothing is
    left behind. Raises DhError where the folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            temporary = Path(file.name)
            yield file  # type: ignore[misc]
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that takes its place at `path` when the block ends without an error.

    Raises DhError if `path` is there already and is not an empty folder, or cannot be written.
    """
    require_free(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def require_free(path: Path) -> None:
    """Raise DhError where no new folder can be made at `path`, before work that would be lost."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise DhError("is there already", where=path, hint="name another folder, or remove it")
    require_folder(path)


def require_file(path: Path) -> None:
    """Raise DhError where no file can be written at `path`, before work that would be lost."""
    if path.is_dir():
        raise DhError("is a folder", where=path, hint="name a file")
    require_folder(path.parent)


def require_folder(path: Path) -> None:
    """Raise DhError where `path` is no folder that can be made or written into."""
    there = next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))
    if not there.is_dir():
        raise DhError("cannot be written: not a folder", where=there, hint="name another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise write_error(path, PermissionError(EACCES, os.strerror(EACCES)))


def write_error(path: Path, error: OSError) -> DhError:
    """The DhError that says why `path` could not be written."""
    return DhError(
        f"cannot be written: {error.strerror or error}",
        where=path,
        hint="check that the disk has room and that you may write there",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

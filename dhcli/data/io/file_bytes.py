"""A buffer that stays on disk: spans of it are read when they are asked for."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from pathlib import Path

from dhcli.errors import DataError

Stamp = tuple[int, int]
"""Size and time of change of a file: what tells that it is still the same."""


class FileBytes:
    """The bytes of files, one file after another: `buffer[start:stop]` without the memory.

    A span lies within one file. Raises DataError where a file is no longer as it was when it was
    taken up.
    """

    def __init__(self, files: Sequence[tuple[Path, Stamp]]) -> None:
        self.files = tuple(files)
        self._ends = list(accumulate(size for _, (size, _) in self.files))

    @classmethod
    def of(cls, path: Path) -> FileBytes:
        """The file `path` as it is now."""
        return cls([(path, _stamp(path))])

    @classmethod
    def join(cls, parts: Sequence[FileBytes]) -> FileBytes:
        return cls([file for part in parts for file in part.files])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @contextmanager
    def reading(self) -> Iterator[Callable[[int, int], bytes]]:
        """A function that reads from `start` to `stop`, while the block runs."""
        with ExitStack() as stack:
            opened: dict[int, int] = {}

            def read(start: int, stop: int) -> bytes:
                number = bisect_right(self._ends, start)
                if number not in opened:
                    opened[number] = self._open(number)
                    stack.callback(os.close, opened[number])
                before = self._ends[number - 1] if number else 0
                return os.pread(opened[number], stop - start, start - before)

            yield read

    def _open(self, number: int) -> int:
        path, stamp = self.files[number]
        if _stamp(path) != stamp:
            raise DataError(
                "was changed while it was in use",
                where=path,
                hint="run again, and do not change it meanwhile",
            )
        return os.open(path, os.O_RDONLY)


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror}", where=path) from error
    return found.st_size, found.st_mtime_ns

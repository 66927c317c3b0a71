"""The progress of a long step over data, reported to a watcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

Count = Callable[[int, int], None]
"""Takes how many are done, and how many there are."""
Watcher = Callable[[str, int, int], None]
"""Takes what is done, how much of it is, and how much there is."""

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_OFTEN = 64
LARGE = 1 << 20
"""Bytes or characters of a file that takes a while to read."""

T = TypeVar("T")


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Long steps within the block report their progress to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


class Progress:
    """A step called `what`, of `total` units. Costs nothing where nobody watches."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self._watcher = _watcher.get()

    def reached(self, done: int) -> None:
        if self._watcher is not None:
            self._watcher(self.what, done, self.total)


class FileProgress(Progress):
    """How far a file of `size` is read. A small one says nothing: it may be one of many."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path.name, size)
        if size < LARGE:
            self._watcher = None


def track(items: Sequence[T], what: str) -> Iterator[T]:
    """The `items`, telling how far it has come with them."""
    progress = Progress(what, len(items))
    for number, item in enumerate(items):
        if number % _OFTEN == 0:
            progress.reached(number)
        yield item

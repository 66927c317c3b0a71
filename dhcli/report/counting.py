"""How far a count has come: a bar on a terminal, whole lines where there is none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dhcli.data.io.progress import Count
from dhcli.report.console import err, is_live

_PAUSE = 3.0
"""Seconds between lines about a long step."""


@contextmanager
def counting(what: str) -> Iterator[Count]:
    """A counter of `what` (such as "images") that shows itself on stderr while the block runs."""
    if is_live():
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(what), TimeRemainingColumn())
        with Progress(*columns, console=err, transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        yield _Lines(what).count


class _Lines:
    """A line whenever another tenth is done."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.tenths = 0
        self.begun = time.perf_counter()

    def count(self, done: int, total: int) -> None:
        tenths = 10 * done // max(total, 1)
        if tenths > self.tenths:
            self.tenths = tenths
            rate = done / max(time.perf_counter() - self.begun, 1e-9)
            err.print(f"{done}/{total} {self.what}, {rate:.1f} per second")


class LongSteps:
    """Says how far a step over data has come, a line every few seconds: watches data.progress."""

    def __init__(self) -> None:
        self.what = ""
        self.told = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.perf_counter()
        if what != self.what:
            self.what, self.told = what, now
        if now - self.told >= _PAUSE:
            self.told = now
            err.print(f"{what}: {100 * done // max(total, 1)} %")

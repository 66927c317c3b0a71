"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop at the next good moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from dhcli.runtime.launch import HANGUP, end_signals
from dhcli.runtime.team import ALONE, Team


class Stopped(Exception):
    """Training was asked to stop."""


class StopRequest:
    """While it is entered, the first of `end_signals` is kept; a second, but SIGHUP, acts at once.

    `check()` raises Stopped after the first to any process of `team`. Outside the main thread,
    where Python allows no handlers, signals act as ever.

    signal  the one that came, None before; after Stopped it is the same in every process
    """

    def __init__(self, team: Team = ALONE) -> None:
        self.team = team
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in end_signals()}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped if a signal has come to any process; each must ask equally often."""
        if self.team.any(self.signal is not None):
            self.signal = self.team.gather([] if self.signal is None else [self.signal])[0]
            raise Stopped

    def while_waiting(self) -> None:
        """As `check`, wherever this process waits: alone, as the others could not know of it."""
        if self.team.size == 1:
            self.check()

    def _take(self, number: int, _: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        for other in self._before:
            signal.signal(other, signal.SIG_IGN if other == HANGUP else signal.SIG_DFL)

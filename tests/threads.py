"""A team whose processes are threads that take turns: how several decide, without starting any."""

from __future__ import annotations

import pickle
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

from dhcli.runtime.team import Team

T = TypeVar("T")
PATIENCE = 60
"""Seconds that a process waits for the others."""


class PartedError(Exception):
    """A process waits for others of which one has ended: they have not decided alike."""


class _Meeting:
    """Where the threads wait for one another; who holds `turn` runs, as torch's dice are shared."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.turn = threading.Condition()
        self.said: defaultdict[int, dict[int, bytes]] = defaultdict(dict)
        self.somebody_left = False


class ThreadTeam(Team):
    """One of the threads. What it says is pickled, as it is between processes."""

    def __init__(self, rank: int, meeting: _Meeting) -> None:
        super().__init__(rank, meeting.size)
        self.meeting = meeting
        self.exchanges = 0

    def _exchange(self, value: Any) -> list[Any]:
        meeting = self.meeting
        said = meeting.said[self.exchanges]
        self.exchanges += 1
        said[self.rank] = pickle.dumps(value)
        meeting.turn.notify_all()
        meeting.turn.wait_for(lambda: len(said) == self.size or meeting.somebody_left, PATIENCE)
        if len(said) < self.size:
            raise PartedError
        return [pickle.loads(said[rank]) for rank in range(self.size)]


def together(size: int, work: Callable[[Team], T], main: int = 0) -> list[T | BaseException]:
    """What `work` gives or raises in each process; number `main` runs in this thread.

    Signals reach that one alone.
    """
    meeting = _Meeting(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        with meeting.turn:
            try:
                results[rank] = work(ThreadTeam(rank, meeting))
            except Exception as error:  # handed to the test, which looks at it
                results[rank] = error
            meeting.somebody_left = True
            meeting.turn.notify_all()

    others = [threading.Thread(target=run, args=(rank,)) for rank in range(size) if rank != main]
    for thread in others:
        thread.start()
    run(main)
    for thread in others:
        thread.join()
    return results

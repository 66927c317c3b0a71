"""What training measures: means of its losses, and where its time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from dhcli.runtime.team import ALONE, Team


class LossMeter:
    """Sums of loss parts on the device, read only when somebody wants to see them.

    Holds the sums of the epoch and what they were when the interval began, in this process. Means
    and state are those of the whole `team`, so every process must ask for them.
    """

    def __init__(self, team: Team = ALONE) -> None:
        self.team = team
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.count = 0.0
        self._seen = (0.0, [0.0])

    def add(self, losses: Mapping[str, Tensor], share: float = 1.0) -> None:
        """Take in the loss parts of one step, or of that `share` of it which is this process's."""
        if not losses:
            return
        values = torch.stack(list(losses.values()))
        if values.device.type != "mps":  # which has no float64
            values = values.double()
        values = values * share if share != 1 else values
        self.names = list(losses)
        self.sums = values if self.sums is None else self.sums.to(values) + values
        self.count += share

    def interval(self) -> dict[str, float]:
        """Means since the last call; waits for the device."""
        count, seen = self._seen
        sums = self._read()
        self._seen = (self.count, sums)
        seen = seen if len(seen) == len(sums) else [0.0] * len(sums)
        return self._means([now - then for now, then in zip(sums, seen, strict=True)], count)

    def epoch(self) -> dict[str, float]:
        """Means over the epoch; waits for the device."""
        return self._means(self._read(), 0.0)

    def state_dict(self) -> dict[str, Any]:
        """The sums of all processes, as plain lists and numbers."""
        own = {"names": self.names, "sums": self._read(), "count": self.count, "seen": self._seen}
        return reduce(_added, self.team.gather([own]))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`. The others of the team begin empty: it holds theirs, too."""
        if not self.team.first:
            return
        self.names, self.count = list(state["names"]), float(state["count"])
        self.sums = torch.tensor(state["sums"], dtype=torch.float64) if self.names else None
        count, sums = state["seen"]
        self._seen = (float(count), list(sums))

    def _read(self) -> list[float]:
        return [] if self.sums is None else self.sums.tolist()

    def _means(self, sums: list[float], since: float) -> dict[str, float]:
        means = self.team.mean(dict(zip(self.names, sums, strict=True)), self.count - since)
        return means | {"loss": sum(means.values())} if means else {}


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The states of two processes as one."""
    (count, sums), (others_count, others_sums) = one["seen"], other["seen"]
    return {
        "names": one["names"] or other["names"],
        "sums": _sums(one["sums"], other["sums"]),
        "count": one["count"] + other["count"],
        "seen": (count + others_count, _sums(sums, others_sums)),
    }


def _sums(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a + b for a, b in zip_longest(one, other, fillvalue=0.0)]


class Stopwatch:
    """Where the time goes: since the beginning, and since the last lap."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.begun = now()
        self.iterations = 0
        self.restart()

    def restart(self) -> None:
        """Begin a lap."""
        self.lap_begun = self.now()
        self.waited = 0.0
        self.images = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for images."""
        begun = self.now()
        yield
        self.waited += self.now() - begun

    def lap(self) -> tuple[float, float]:
        """Images per second and the share of waiting since the last lap; the next one begins."""
        seconds = max(self.now() - self.lap_begun, 1e-9)
        result = self.images / seconds, self.waited / seconds
        self.restart()
        return result

    def eta(self, remaining: int) -> float:
        """Seconds that `remaining` iterations take at the pace since the beginning."""
        return (self.now() - self.begun) / max(self.iterations, 1) * remaining

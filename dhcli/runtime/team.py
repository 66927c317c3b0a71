"""The processes of one command, and how they agree on what comes next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, TypeVar

from dhcli.data.loading.batching import Share
from dhcli.errors import DhError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Team:
    """The processes that share one work, as one of them sees them.

    Whatever decides what comes next (a loss that is not finite, a signal, the best model, early
    stopping) is asked of the team, never of one process: so all of them go the same way, and none
    waits for one that has left. Every process must call the same methods in the same order; each
    call waits for all.

    rank   0 … size − 1: which one this is
    size   how many there are

    A team of several overrides `_exchange`, and others where they can be had for less: see
    `runtime.processes.ProcessTeam`.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def alone(cls) -> Team:
        """The team of this process and no other."""
        return cls()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks to people."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """Which batches a loader makes in this process."""
        return Share(self.rank, self.size)

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true in any process."""
        return self.total(flag) > 0

    def total(self, count: int) -> int:
        """The sum of all processes' `count`."""
        return sum(self._exchange(count))

    def mean(self, sums: Mapping[str, float], count: float) -> dict[str, float]:
        """Means by name over what all processes counted: Σ sums / Σ count.

        A process that has counted nothing may have no sums. {} where none has counted anything.
        """
        parts = self._exchange((dict(sums), count))
        total = sum(counted for _, counted in parts)
        names = dict.fromkeys(name for own, _ in parts for name in own)
        if not total:
            return {}
        # not sum(), which begins with 0 and so would turn −0 into 0
        return {n: reduce(add, [own[n] for own, _ in parts if n in own]) / total for n in names}

    def gather(self, rows: Sequence[T]) -> list[T]:
        """The rows of every process, in the order of their ranks."""
        return [row for part in self._exchange(list(rows)) for row in part]

    def barrier(self) -> None:
        """Wait until every process is here."""
        self._exchange(None)

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in the first process, where alone it is called.

        A DhError that it raises there is raised in every process.
        """
        made: Any = None
        if self.first:
            try:
                made = make()
            except DhError as error:
                made = error
        sent = self._first_of(made)
        result = made if self.first else sent  # what it made, not a copy
        if isinstance(result, DhError):
            raise result
        return result  # type: ignore[no-any-return]

    def each(self, make: Callable[[], T]) -> T:
        """What `make` gives here, once it is called in every process.

        A DhError that it raises in one, or in several, is raised in every process: the first of
        them, by rank.
        """
        made: Any = None
        error: DhError | None = None
        try:
            made = make()
        except DhError as raised:
            error = raised
        if self.any(error is not None):
            raise self.gather([] if error is None else [error])[0]
        return made  # type: ignore[no-any-return]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor the sum of what all processes have there, the same in all."""
        if self.size > 1:
            every = self._exchange([tensor.cpu() for tensor in tensors])
            for own, *parts in zip(tensors, *every, strict=True):
                own.copy_(reduce(add, parts))

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Put into each tensor what the first process has there."""
        if self.size > 1:
            for own, first in zip(tensors, self._first_of([x.cpu() for x in tensors]), strict=True):
                own.copy_(first)

    def _first_of(self, value: T) -> T:
        """The `value` of the first process."""
        return self._exchange(value)[0]

    def _exchange(self, value: T) -> list[T]:
        """The `value` of every process, in the order of their ranks."""
        return [value]


ALONE = Team.alone()

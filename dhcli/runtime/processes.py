"""A team of several processes over torch.distributed: gloo between CPUs, nccl between GPUs."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import groupby
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from dhcli.errors import DhError
from dhcli.runtime.launch import LAUNCHER, LEFT_ALONE, Place, is_launched
from dhcli.runtime.team import Team

T = TypeVar("T")
ARRIVAL = timedelta(minutes=10)
"""How long the first to come wait for the last."""
PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: some work is the first one's alone."""
BUCKET = 2**23
"""Elements that are sent at a time: 32 MB of float32."""
_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent dies."""


class LeftAloneError(DhError):
    """Another process of the team has ended, or does not answer any more."""

    exit_code: ClassVar[int] = LEFT_ALONE


class ProcessTeam(Team):
    """Processes that `torch.distributed` connects. Raises LeftAloneError where one is gone."""

    def any(self, flag: bool) -> bool:
        return self.total(flag) > 0

    def total(self, count: int) -> int:
        number = torch.tensor(int(count))
        with _together():
            dist.all_reduce(number)
        return int(number)

    def barrier(self) -> None:
        self.total(0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _together():
                dist.all_reduce(flat)
            _fill(bucket, flat)

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            with _together():
                dist.broadcast(flat, src=0)
            _fill(bucket, flat)

    def _exchange(self, value: T) -> list[T]:
        every: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(every, value)
        return every

    def _first_of(self, value: T) -> T:
        box: list[Any] = [value if self.first else None]
        with _together():
            dist.broadcast_object_list(box, src=0)
        return box[0]  # type: ignore[no-any-return]


@contextmanager
def joined(place: Place, device: torch.device) -> Iterator[tuple[Team, Callable[[], bool]]]:
    """The team of the process at `place`, while its processes stay together.

    Beside it a function whose answer is true in the first process that asks, ever: who may say why
    all end. Raises LeftAloneError where the others do not come.
    """
    _end_with_launcher()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(rendezvous("env://", timeout=ARRIVAL))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"dh/{attempt}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        what = f"the {place.size} processes did not find one another: {str(error).splitlines()[0]}"
        raise LeftAloneError(what, hint="can all reach MASTER_ADDR:MASTER_PORT?") from error
    yield ProcessTeam(rank, size), lambda: _is_first_to_ask(store)
    with suppress(RuntimeError):  # after an error none: the others may be gone, and waited for
        dist.destroy_process_group()


def _is_first_to_ask(store: Any) -> bool:
    """Whether nobody has asked before. False where the first process, which counts, is gone."""
    try:
        store.set_timeout(timedelta(seconds=10))
        return bool(store.add("asked", 1) == 1)
    except RuntimeError:
        return False


def _end_with_launcher() -> None:
    """Where the system can (Linux), a launcher that is killed takes its processes with it."""
    if is_launched() and sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(os.environ[LAUNCHER]):
            raise SystemExit(128 + signal.SIGKILL)


@contextmanager
def _together() -> Iterator[None]:
    """Turn torch's words about a lost connection into an error of ours."""
    try:
        yield
    except RuntimeError as error:
        what = "another process has ended, or does not answer"
        hint = "what it said stands above; where memory is short, the system kills without a word"
        raise LeftAloneError(what, hint=hint) from error


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as many together as can be sent at a time; those of one type each."""
    for _, alike in groupby(tensors, key=lambda tensor: tensor.dtype):
        bucket: list[Tensor] = []
        for tensor in alike:
            if bucket and sum(map(Tensor.numel, bucket)) + tensor.numel() > BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


def _fill(bucket: Sequence[Tensor], flat: Tensor) -> None:
    """Cut `flat` into the tensors of `bucket`."""
    parts = torch.split(flat, [tensor.numel() for tensor in bucket])
    for tensor, part in zip(bucket, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))

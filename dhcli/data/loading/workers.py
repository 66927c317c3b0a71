"""The processes that load images: how many, what they may take, and what is said if they fail."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader

from dhcli.errors import DhError

MOST_WORKERS = 8
AHEAD = 2
"""Batches that each process makes before they are asked for."""
GLANCE = 3.0
"""Seconds between two looks at whether a batch is still worth waiting for."""
PATIENCE = 45.0
"""Seconds without any batch after which waiting ends."""
SHARED_MEMORY = Path("/dev/shm")
"""Where Linux keeps what processes share."""
WAY_OUT = "`--workers 0` needs no other process"
MORE_ROOM = f"make /dev/shm larger (docker: `--shm-size 1g`); {WAY_OUT}"


class LoadingError(DhError):
    """The processes that load images cannot do so. Nothing else is wrong: a state can be saved."""


class Workers(NamedTuple):
    """How many processes load images, and how many batches each makes ahead."""

    processes: int
    ahead: int = AHEAD


def count_workers(workers: int) -> int:
    """`workers`, or where that is −1 the cores to spare beside each process that trains, ≤ 8."""
    if workers >= 0:
        return workers
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return max(0, min(MOST_WORKERS, cores // processes - 1))


def affordable(count: int, size: int, held: int) -> Workers:
    """As many of `count` processes as shared memory has room for, none where it has too little.

    A batch is of `size` bytes; `held` of them are kept at a time, and one is on its way.
    """
    free = free_shared_memory()
    if not count or free is None:
        return Workers(count)
    room = free // size - held - 1
    return Workers(max(0, min(count, room)), AHEAD if room >= count * AHEAD else 1)


def free_shared_memory() -> int | None:
    """Bytes of /dev/shm that are free; None where there is no such place."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None


def describe_shortage(asked: int, workers: Workers) -> list[str]:
    """A line where shared memory allows fewer than the `asked` processes, or fewer batches."""
    if not asked or workers == Workers(asked):
        return []
    free = (free_shared_memory() or 0) / 1e6
    what = "by this process itself"
    if workers.processes:
        what = f"by {workers.processes} processes, {workers.ahead} batches ahead each"
    ahead = f"{asked} and {AHEAD}"
    return [f"/dev/shm has {free:.1f} MB free: images are loaded {what}, not {ahead} ({MORE_ROOM})"]


def share(pixels: torch.Tensor) -> None:
    """In a loading process, move a batch's pixels to where the others can see them.

    torch would do so itself, in a thread whose failure nobody hears of. Raises LoadingError where
    there is no room.
    """
    if torch.utils.data.get_worker_info() is None or not pixels.numel():
        return
    try:
        pixels.share_memory_()  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError) as error:
        size = pixels.numel() * pixels.element_size() / 1e6
        what = f"a batch of {size:.1f} MB does not fit into shared memory"
        raise LoadingError(what, hint=MORE_ROOM) from error


def received(loader: DataLoader[Any], heed: Callable[[], None]) -> Iterator[Any]:
    """What `loader` makes; `heed` is called every few seconds of waiting, and may raise.

    An error that a process has handed over is raised. Raises LoadingError where a process died, or
    nothing came for long.
    """
    batches = _started(loader)
    while (batch := _next(batches, heed)) is not None:
        if isinstance(batch, DhError):
            raise batch
        yield batch


def start_worker(_: int) -> None:
    """What a loading process does first."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # Ctrl-C and the SIGTERM of `timeout` go to a whole group: they are for the main process to
    # handle, which would die with a worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator, its processes started, without torch's handler of SIGCHLD.

    That raises wherever the main thread is, in the middle of a step too; `_next` finds a process
    that died between two steps.
    """
    handled = loader.num_workers and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if handled and hasattr(signal, "SIGCHLD") else None
    try:
        return iter(loader)
    except (OSError, RuntimeError) as error:
        if not loader.num_workers:
            raise
        what = f"processes that load images cannot be started: {_reason(error)}"
        raise LoadingError(what, hint=MORE_ROOM) from error
    finally:
        if before is not None:
            signal.signal(signal.SIGCHLD, before)


def _next(batches: Iterator[Any], heed: Callable[[], None]) -> Any:
    """The next batch, None after the last."""
    begun = time.monotonic()
    while True:
        try:
            return next(batches, None)
        except (RuntimeError, OSError, EOFError) as error:
            said = str(error)
            if isinstance(error, RuntimeError) and "DataLoader" not in said:
                raise
            if "timed out" not in said:
                what = f"a process that loads images died: {_reason(error)}"
                hint = f"memory or /dev/shm may be too small: {WAY_OUT}"
                raise LoadingError(what, hint=hint) from error
            if time.monotonic() - begun >= PATIENCE:
                what = f"no image was loaded for {PATIENCE:.0f} seconds: a loading process hangs"
                hint = f"is the disk slow, or a network share gone? {WAY_OUT}"
                raise LoadingError(what, hint=hint) from error
        heed()


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__).splitlines()[0]

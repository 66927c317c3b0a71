"""A command in several processes of this machine: how they are started, and what ends them.

They get the environment that torchrun gives: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
MASTER_ADDR, MASTER_PORT. So a command has one way to find the others, whoever started it. Imports
no torch: whoever starts others computes nothing.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

from dhcli.errors import DhError
from dhcli.words import counted

GRACE = 10.0
"""Seconds that the others get to end by themselves after one has failed."""
GLANCE = 0.05
"""Seconds between two looks at whether all are well."""
LEFT_ALONE, CRASHED = 75, 70
"""Exit codes (sysexits.h): another process has ended; an error that nobody foresaw."""
LAUNCHER, RESTART = "DH_LAUNCHER", "DH_RESTART"
"""What `launch` sets beside torchrun's: its process id, and how often all were started before."""
HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""What a terminal that closes sends, often twice: itself, and by its shell; Windows has none."""


def end_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a command to end; under `nohup` the terminal may close."""
    if HANGUP is None or signal.getsignal(HANGUP) == signal.SIG_IGN:
        return signal.SIGINT, signal.SIGTERM
    return signal.SIGINT, signal.SIGTERM, HANGUP


class Place(NamedTuple):
    """Which of the processes this one is: of all, and of those on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def own_place() -> Place:
    """The place that a launcher (`launch`, torchrun) gave this process; alone where there is none.

    Raises DhError where what it says makes no sense.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return Place()
    said = [os.environ.get(name, os.environ[names[k % 2]]) for k, name in enumerate(names)]
    if not all(text.isdecimal() for text in said) or int(said[0]) >= int(said[1]):
        what = f"no place among several processes: {dict(zip(names, said, strict=True))}"
        raise DhError(what, where="environment", hint="these variables are torchrun's to set")
    return Place(*map(int, said))


def is_launched() -> bool:
    """Whether `launch` started this process, and will say what became of the others."""
    return LAUNCHER in os.environ


def starts_before() -> int:
    """How often all processes were started before, and ended too early: by dh or torchrun."""
    return int(os.environ.get(RESTART) or os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0)


def launch(processes: int, restarts: int, say: Callable[[str], None]) -> int:
    """Run this command anew in `processes` processes; the exit code that one process would have.

    Where one dies, or meets what nobody foresaw, the others are ended, and all are started again,
    up to `restarts` times. What a signal or a DhError ended is not: it would come again.
    Ctrl-C, SIGTERM and SIGHUP are passed on to all, a second one ends them at once.
    Raises DhError where a process was killed.
    """
    for attempt in range(restarts + 1):
        ended = _run(processes, attempt)
        if not ended.accident or attempt == restarts:
            break
        what = ended.killed or "a process ended with an error"
        say(f"{what}; all start again from the last state ({attempt + 1} of {restarts} restarts)")
    if ended.killed and ended.accident:
        hint = "the system kills a process so where memory is short" if ended.code == 137 else None
        raise DhError(ended.killed, hint=hint)
    return 1 if ended.code in (LEFT_ALONE, CRASHED) else ended.code


class _End(NamedTuple):
    """How all came to an end.

    code      the exit code of the one that ended all, 128 + the signal that killed it
    killed    a line where a signal killed it, "" where none did
    accident  whether another try may go well
    """

    code: int
    killed: str
    accident: bool


def _run(processes: int, attempt: int) -> _End:
    command = [sys.executable, "-m", "dhcli", *sys.argv[1:]]
    common = _environment(processes, attempt)
    workers: list[subprocess.Popen[bytes]] = []
    with _passing_signals(workers) as seen:
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            # a session of its own: Ctrl-C goes to a whole group, and would come twice
            workers.append(
                subprocess.Popen(
                    command,
                    env={**common, **own},
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
        return _until_all_ended(workers, seen)


def _until_all_ended(workers: list[subprocess.Popen[bytes]], seen: list[int]) -> _End:
    """Wait for all; after the first failure only for so long."""
    codes: dict[int, int] = {}  # by rank, in the order of their ends
    deadline, late = math.inf, False
    while len(codes) < len(workers):
        time.sleep(GLANCE)
        ended = {rank: worker.poll() for rank, worker in enumerate(workers) if rank not in codes}
        now = {rank: code for rank, code in ended.items() if code is not None}
        codes |= {r: LEFT_ALONE if late and code < 0 else code for r, code in now.items()}
        if any(codes.values()):
            deadline = min(deadline, time.monotonic() + GRACE)
        if late := time.monotonic() > deadline:
            _kill(workers)
    return _judged(codes, seen)


def _judged(codes: Mapping[int, int], seen: list[int]) -> _End:
    """What the first of the exit codes says that is not a consequence of another."""
    failed = [(rank, code) for rank, code in codes.items() if code not in (0, LEFT_ALONE)]
    rank, code = failed[0] if failed else (0, LEFT_ALONE if any(codes.values()) else 0)
    if code >= 0:
        return _End(code, "", accident=code in (LEFT_ALONE, CRASHED) and not seen)
    if seen:  # a second one, which kills all
        return _End(128 + seen[0], "", accident=False)
    killed = f"process {rank + 1} of {len(codes)} was killed ({signal.Signals(-code).name})"
    return _End(128 - code, killed, accident=True)


def _environment(processes: int, attempt: int) -> dict[str, str]:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    given: Mapping[str, str] = os.environ
    return {
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # warnings have traces, and say what we say
        "OMP_NUM_THREADS": str(max(1, cores // processes)),
        **({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}),
        **given,
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        LAUNCHER: str(os.getpid()),
        RESTART: str(attempt),
    }


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _passing_signals(workers: list[subprocess.Popen[bytes]]) -> Iterator[list[int]]:
    """Pass the first of `end_signals` on, kill at the second; the list of those that came."""
    seen: list[int] = []

    def take(number: int, _: FrameType | None) -> None:
        if seen and number == HANGUP:
            return
        seen.append(number)
        if len(seen) > 1:
            _kill(workers)
            return
        for worker in workers:
            worker.send_signal(number)

    before = {number: signal.signal(number, take) for number in end_signals()}
    try:
        yield seen
    finally:
        _kill(workers)
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill()


def describe_processes(place: Place) -> str:
    """One line: how many processes, and where."""
    machines = -(-place.size // place.local_size)
    where = f" on {machines} machines" if machines > 1 else ""
    return counted(place.size, "process") + where

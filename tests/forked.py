"""Real processes that torch.distributed connects, forked from the test: they need no new imports."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import torch

from dhcli.runtime.launch import Place, free_port
from dhcli.runtime.processes import joined
from dhcli.runtime.team import Team

PATIENCE = 60
"""Seconds that all of them may take."""


def forked(size: int, work: Callable[[Team], Any]) -> list[Any]:
    """What `work` gives or raises in each of `size` processes; None where one has died."""
    context = multiprocessing.get_context("fork")
    answers: Any = context.SimpleQueue()
    port = free_port()
    children = [
        context.Process(target=_child, args=(rank, size, port, work, answers))
        for rank in range(size)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
        child.kill()
    found: list[Any] = [None] * size
    while not answers.empty():
        rank, answer = answers.get()
        found[rank] = answer
    return found


def _child(rank: int, size: int, port: int, work: Callable[[Team], Any], answers: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        GLOO_SOCKET_IFNAME="lo",
    )
    with joined(Place(rank, size, rank, size), torch.device("cpu")) as (team, may_speak):
        try:
            answers.put((rank, work(team)))
        except Exception as error:  # handed to the test, which looks at it
            answers.put((rank, (error, may_speak())))
            os._exit(1)

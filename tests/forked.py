"""Real processes that torch.distributed connects, forked from a server that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dhcli.runtime.launch import Place, free_port
from dhcli.runtime.processes import joined
from dhcli.runtime.team import Team

PATIENCE = 120
"""Seconds that all of them may take."""
SERVER = multiprocessing.get_context("forkserver")
"""Not fork: the test's process has threads (hotcoco's) that a child would wait for."""
SERVER.set_forkserver_preload(["dhcli.training.loop", "tests.forked"])


def forked(size: int, work: Callable[[Team], Any]) -> list[Any]:
    """What `work` gives or raises in each of `size` processes; None where one has died.

    `work` can be pickled: a function of a module, or a partial of one. Of an error comes a pair:
    whether that process was the one to say it, too.
    """
    port = free_port()
    with TemporaryDirectory() as folder:
        places = [Path(folder, str(rank)) for rank in range(size)]
        children = [
            SERVER.Process(target=_child, args=(rank, size, port, work, place))
            for rank, place in enumerate(places)
        ]
        for child in children:
            child.start()
        end = time.monotonic() + PATIENCE
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
            child.kill()
            child.join()
        return [pickle.loads(x.read_bytes()) if x.exists() else None for x in places]


def _child(rank: int, size: int, port: int, work: Callable[[Team], Any], place: Path) -> None:
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
            answer = work(team)
        except Exception as error:  # handed to the test, which looks at it
            place.write_bytes(pickle.dumps((error, may_speak())))
            os._exit(1)
        place.write_bytes(pickle.dumps(answer))

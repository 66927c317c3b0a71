"""Teams of real processes: what they agree on, and what they hear of one that is gone."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest
import torch

from dhcli.errors import ConfigError, DataError
from dhcli.runtime.device import own_device
from dhcli.runtime.launch import LEFT_ALONE, Place
from dhcli.runtime.processes import BUCKET, LeftAloneError
from dhcli.runtime.team import Team
from tests.forked import forked
from tests.threads import together


def _agreed(team: Team) -> object:
    strided = torch.full((2, 3, 4, 5), float(team.rank)).to(memory_format=torch.channels_last)
    numbers = [torch.tensor([team.rank + 1]), strided, torch.zeros(0), torch.ones(3) / 8]
    team.add_up(numbers)
    large = torch.full((BUCKET + 5,), float(team.rank))
    team.copy_first([large, numbers[3][:2]])
    return (
        [x.tolist() for x in numbers],
        large.sum().item(),
        (team.rank == 0, team.first, team.size),
        (team.any(team.rank == team.size - 1), team.any(False), team.total(team.rank + 2)),
        team.gather(["row"] * team.rank),
        team.mean({"a": float(team.rank)}, 1),
        team.from_first(lambda: team.rank),
        team.barrier(),
    )


@pytest.mark.parametrize("size", [2, 3])
def test_processes_agree_as_threads_do(size: int) -> None:
    """`add_up` and `copy_first` at once over many types, sizes and strides."""
    assert forked(size, _agreed) == together(size, _agreed)


def _reading(team: Team) -> str:
    def read() -> str:
        if team.rank == 1:
            raise DataError("is broken", where="7.png", hint="look at it")
        return "pixels"

    return team.each(read)


def test_an_error_in_one_process_is_raised_in_all_and_said_once() -> None:
    first, other = forked(2, _reading)

    for error, _ in (first, other):
        assert isinstance(error, DataError)
        assert (error.what, error.where, error.hint) == ("is broken", "7.png", "look at it")
    assert first[1] + other[1] == 1


def _dying(dead: int, team: Team) -> None:
    team.barrier()  # all have joined: not to be found at all is another error
    if team.rank == dead:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3):
        team.barrier()


@pytest.mark.parametrize("dead", [0, 1])
def test_a_process_that_is_killed_ends_the_others_within_seconds(dead: int) -> None:
    begun = time.monotonic()
    found = forked(2, partial(_dying, dead))

    assert time.monotonic() - begun < 60  # not half an hour
    assert found[dead] is None
    error, _ = found[1 - dead]
    assert isinstance(error, LeftAloneError)
    assert error.exit_code == LEFT_ALONE


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)

    assert own_device("auto", Place(3, 4, 1, 2)) == torch.device("cuda", 1)
    assert own_device("cpu", Place(3, 4, 1, 2)) == torch.device("cpu")
    assert own_device("cuda:1", Place()) == torch.device("cuda", 1)
    with pytest.raises(ConfigError, match="3 processes on this machine need a GPU each; it has 2"):
        own_device("auto", Place(0, 3, 0, 3))
    with pytest.raises(ConfigError, match="is one GPU"):
        own_device("cuda:1", Place(0, 2, 0, 2))

"""Processes that load images and fail: an error at once, between two steps, and never a wait."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dhcli.config.schema import Augment, Input
from dhcli.data.loading import workers
from dhcli.data.loading.loader import BatchMaker, TrainLoader, most_bytes
from dhcli.data.loading.workers import LoadingError, Workers, affordable, describe_shortage
from dhcli.data.table import DetectionTable, make_table

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
INPUT = Input(min_size=32, max_size=32)


@pytest.fixture
def table(tmp_path: Path) -> DetectionTable:
    """Eight images of 32 × 32."""
    for number in range(8):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    files = [f"{number}.png" for number in range(8)]
    return make_table(tmp_path, files, [(32, 32)] * 8, [0] * 8, [], [], ["x"])


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dhcli.data.loading.loader.GLANCE", 0.1)
    monkeypatch.setattr(workers, "PATIENCE", 0.5)


def _loader(table: DetectionTable, count: int = 1) -> TrainLoader:
    return TrainLoader(table, INPUT, Augment(), batch_size=1, seed=0, workers=count)


def _first(loader: TrainLoader) -> tuple[Iterator[Any], int]:
    """An epoch whose first batch is taken, and the process that made it."""
    before = set(multiprocessing.active_children())
    batches = loader.epoch(0)
    next(batches)
    (child,) = set(multiprocessing.active_children()) - before
    assert child.pid is not None
    return batches, child.pid


def test_a_process_that_was_killed_is_an_error_at_the_next_batch_only(
    table: DetectionTable,
) -> None:
    batches, pid = _first(_loader(table))

    os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)  # here torch's own handler would raise

    with pytest.raises(LoadingError, match="process that loads images died") as caught:
        list(batches)
    assert "--workers 0" in str(caught.value.hint)


@pytest.fixture
def stuck(table: DetectionTable, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainLoader]:
    """A loader whose process never comes to the end of its second batch."""
    make = BatchMaker.make

    def wait(self: BatchMaker, *key: Any) -> Any:
        if key[1] == list(_loader(table, 0)._batches_of(0)[1]):
            time.sleep(60)
        return make(self, *key)

    monkeypatch.setattr(BatchMaker, "make", wait)
    before = set(multiprocessing.active_children())
    yield _loader(table)
    for child in set(multiprocessing.active_children()) - before:
        child.kill()


def test_a_process_that_stands_still_is_an_error(stuck: TrainLoader) -> None:
    with pytest.raises(LoadingError, match="no image was loaded for"):
        list(stuck.epoch(0))


def test_who_waits_is_asked_whether_to_go_on(stuck: TrainLoader) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    stuck.heed = stop
    with pytest.raises(KeyboardInterrupt):
        list(stuck.epoch(0))


def test_a_batch_that_finds_no_room_is_an_error_and_not_a_wait(
    table: DetectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)

    with pytest.raises(LoadingError, match="does not fit into shared memory") as caught:
        list(_loader(table).epoch(0))

    assert "--shm-size" in str(caught.value.hint)


def test_processes_that_cannot_be_started_are_an_error(
    table: DetectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.utils.data.dataloader._MultiProcessingDataLoaderIter", full)

    with pytest.raises(LoadingError, match=r"cannot be started: No space left on device"):
        list(_loader(table).epoch(0))


@pytest.mark.parametrize(
    ("room", "held", "kept"),
    [
        (100, 1, Workers(4, 2)),
        (10, 1, Workers(4, 2)),
        (9, 1, Workers(4, 1)),
        (9, 5, Workers(3, 1)),
        (2, 1, Workers(0, 1)),
        (0, 1, Workers(0, 1)),
    ],
)
def test_as_many_processes_as_shared_memory_has_room_for(
    room: int, held: int, kept: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "free_shared_memory", lambda: room * 1000 + 999)

    found = affordable(4, 1000, held)

    assert found == kept
    assert bool(describe_shortage(4, found)) == (kept != Workers(4))


def test_small_shared_memory_is_seen_before_a_process_is_started(
    table: DetectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 16_384})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    before = set(multiprocessing.active_children())

    loader = TrainLoader(
        table, Input(min_size=64, max_size=64), Augment(), batch_size=8, seed=0, workers=1
    )

    assert len(list(loader.epoch(0))) == 1
    assert set(multiprocessing.active_children()) <= before  # others may end meanwhile
    [line] = loader.lines
    assert "/dev/shm has 0.0 MB free: images are loaded by this process itself" in line


def test_a_batch_is_never_larger_than_expected() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        least, more, divisor = (int(x) for x in rng.integers(1, 300, 3))
        input = Input(min_size=least, max_size=least + more, divisor=divisor)

        expected = most_bytes(2, input, None)

        assert expected >= 2 * 3 * least * (least + more)

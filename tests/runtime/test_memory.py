"""Freed memory is kept, where the C library is glibc."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dhcli.runtime.memory import memory_free, memory_held, memory_used, most_held

CPU = torch.device("cpu")

HELD = """
from dhcli.runtime.memory import give_holes_back, keep_freed_memory
{keep}
small, large = bytearray(24 << 20), bytearray(64 << 20)
above = bytearray(1 << 20)
del small, large
{then}
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmRSS")))
"""


def held_after(keep: str, then: str = "") -> float:
    """Megabytes that a process holds which frees 24 and 64 of them, below one in use."""
    command = [sys.executable, "-c", HELD.format(keep=keep, then=then)]
    return int(subprocess.check_output(command)) / 1024


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")
def test_freed_memory_stays_with_the_process_up_to_the_largest_block() -> None:
    before = held_after("")

    assert held_after("keep_freed_memory()") - before == pytest.approx(88, abs=4)
    assert held_after("keep_freed_memory(32 << 20)") - before == pytest.approx(24, abs=4)
    assert held_after("keep_freed_memory()", "give_holes_back()") == pytest.approx(before, abs=4)


def test_memory_is_a_plausible_number_of_bytes() -> None:
    assert 2**25 < memory_used(torch.device("cpu")) < 2**42


def test_processes_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dhcli.runtime.memory.available_memory", lambda: 900)

    assert memory_free(CPU) == 900
    assert memory_free(CPU, sharing=3) == 300


def test_where_nobody_says_half_of_the_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dhcli.runtime.memory.available_memory", lambda: None)
    monkeypatch.setattr("dhcli.runtime.memory.total_memory", lambda: 1000)

    assert memory_free(CPU) == 500


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux keeps the mark")
def hold(megabytes: int) -> None:
    """Take that much memory and give it back, past the C library, which may keep it."""
    with mmap.mmap(-1, megabytes << 20) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1


def test_the_most_held_is_that_of_the_work_alone() -> None:
    hold(96)  # more than the work will take, and gone
    before = memory_held(CPU)

    most = most_held(CPU, lambda: hold(48))

    assert (most - before) / 2**20 == pytest.approx(48, abs=8)
    assert memory_held(CPU) < most


def test_without_a_mark_it_is_the_most_ever_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.runtime.memory._PROCESS", tmp_path / "absent")

    assert most_held(CPU, list) == memory_used(CPU)
    assert memory_held(CPU) == memory_used(CPU)

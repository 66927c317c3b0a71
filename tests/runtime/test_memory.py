"""Freed memory is kept, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from dhcli.runtime.memory import memory_used

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

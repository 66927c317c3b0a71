"""Freed memory is kept, where the C library is glibc."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

HELD = """
from dhcli.engine.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
large = bytearray(64 << 20)
del large
lines = open("/proc/self/status").read().splitlines()
print(next(line.split()[1] for line in lines if line.startswith("VmRSS")))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt(3) is glibc's")
def test_freed_memory_stays_with_the_process() -> None:
    held = [
        int(subprocess.check_output([sys.executable, "-c", HELD.format(keep=keep)]))
        for keep in (True, False)
    ]
    assert held[0] - held[1] > 60 << 10  # kilobytes

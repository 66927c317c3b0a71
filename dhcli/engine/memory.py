"""The C library's way with memory that is freed."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of mallopt(3)


def keep_freed_memory() -> None:
    """Have the process keep freed blocks of up to 100 MB for what is allocated next.

    glibc gives them back to the system, which maps and clears every page again at each step of
    training: a fifth of its time. Larger blocks still go back, since they would leave large holes.
    Elsewhere than on Linux with glibc, nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 100 * 2**20)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)

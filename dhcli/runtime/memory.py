"""How much memory this process uses, and how it deals with what it no longer needs."""

from __future__ import annotations

import ctypes
import platform
import re
import resource
import sys
from collections.abc import Callable
from errno import ENOMEM
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dhcli.data.io.memory import available_memory, total_memory
from dhcli.errors import DhError

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's mallopt(3)."""
_NEVER = -1
_PROCESS = Path("/proc/self")
_SHORTAGE = (
    "can't allocate memory",
    "not enough memory",
    "Insufficient memory",
    "std::bad_alloc",
    "Storage size calculation overflowed",
    "could not create a memory object",
    "can't start new thread",
)
"""What torch, oneDNN, OpenCV and Python say where memory is short."""
_TRIED = re.compile(r"(?:tried to allocate|allocate) (\d+) bytes")
LESS = (
    "fewer images per batch (`--batch-size 1`), smaller ones (`--image-size N` in training), or "
    "fewer processes (`--workers 0`)"
)
TRAINING = 64 * 2**20
"""Blocks up to this size are kept in training. Larger ones, of which a step has many of different
lifetimes, leave holes: keeping all takes 0.6 GB of 5 at 2 × 800 × 1216, and is no faster."""


def keep_freed_memory(largest: int | None = None) -> None:
    """Keep freed memory for what is allocated next, instead of giving it back to the system.

    Each activation of a detector is larger than what glibc keeps: it would be given back at once,
    and the next would be cleared by the system page by page, a tenth of the time of a detection
    on a CPU. Blocks of more than `largest` bytes still go back; None: no block does. Does nothing
    where the C library is another.
    """
    libc = _glibc()
    if libc is None:
        return
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    if largest is None:
        libc.mallopt(_MMAP_MAX, 0)
    else:
        libc.mallopt(_MMAP_THRESHOLD, largest)


def give_holes_back() -> None:
    """Give the system the memory that is free between blocks in use.

    A training step does so between losses and gradients, where most is in use: holes too small
    for a gradient are a tenth of its memory there. Does nothing where the C library is another.
    """
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def is_shortage(error: BaseException) -> bool:
    """Whether Python, numpy, torch or OpenCV says, each in its way, that memory is too small."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == ENOMEM
    return type(error).__name__ in ("RuntimeError", "error") and any(
        words in str(error) for words in _SHORTAGE
    )


def is_gpu_shortage(error: BaseException) -> bool:
    """Whether torch says that the memory of a GPU is too small: after that it can be used again."""
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def shortage(error: BaseException, what: str = "there is too little memory") -> DhError:
    """What is said of a lack of memory, with the bytes that could not be had if they are told."""
    found = _TRIED.search(str(error))
    tried = "" if found is None else f" ({int(found[1]) / 1e9:,.1f} GB more were needed)"
    return DhError(f"{what}{tried}", hint=LESS)


def memory_used(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, else the most that this process held."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_held(device: torch.device) -> int:
    """Bytes that torch holds on a GPU now, else that this process does."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    return _of_status("VmRSS") or memory_used(device)


def memory_free(device: torch.device, sharing: int = 1) -> int:
    """Bytes that this process could have beside those that it holds, as one of `sharing`.

    Where the system does not say, half of the machine's memory is taken to be free.
    """
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = available_memory()
    return (total_memory() // 2 if free is None else free) // sharing


def most_held(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that torch on a GPU, else this process, holds at most while it does `work`.

    Where the system keeps no such mark that can be set back (it is Linux's), it is the most that
    the process has ever held.
    """
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    is_reset = _forget_peak()
    work()
    return (_of_status("VmHWM") if is_reset else None) or memory_used(device)


def _forget_peak() -> bool:
    """Have Linux count VmHWM, the most this process held, anew: proc(5), clear_refs."""
    try:
        (_PROCESS / "clear_refs").write_text("5", "ascii")
    except OSError:
        return False
    return True


def _of_status(name: str) -> int | None:
    """Bytes that a line of /proc/self/status tells of; None where there is none."""
    try:
        lines = (_PROCESS / "status").read_text("utf-8").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith(f"{name}:"))
    return next((int(words[1]) * 1024 for words in found), None)


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None

"""How much memory there is for processes: the machine's, or a control group's share of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_STATE = Path("/proc/meminfo")
_OWN_GROUPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


class _Files(NamedTuple):
    """Where control groups of one version say what they may use, and what they do."""

    folder: str
    limit: str
    used: str
    caches: tuple[str, str]


_BY_CONTROLLER = {
    "": _Files("", "memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": _Files(
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
}
"""By what a line of /proc/self/cgroup names: version 2, and 1."""


def available_memory() -> int | None:
    """Bytes that processes can have now without swapping; None where the system does not say."""
    free = [left for _, left in _group_limits()]
    if _STATE.exists():
        state = dict(line.split(":") for line in _STATE.read_text("ascii").splitlines())
        free.append(int(state["MemAvailable"].split()[0]) * 1024)
    return max(0, min(free)) if free else None


def total_memory() -> int:
    """Bytes of the machine's memory, or of a control group's share of it."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _group_limits())])


def _group_limits() -> Iterator[tuple[int, int]]:
    """Of each control group that this process is in: its limit, and what is left of it, in bytes.

    Cached files are left: the system drops them first.
    """
    lines = _OWN_GROUPS.read_text("utf-8").splitlines() if _OWN_GROUPS.exists() else []
    for line in lines:
        _, controller, path = line.split(":", 2)
        if (files := _BY_CONTROLLER.get(controller)) is None:
            continue
        top = _GROUPS / files.folder
        own = top / path.lstrip("/")
        for group in (own, *own.parents):
            if not group.is_relative_to(top):
                break
            if (limit := _number(group / files.limit)) is not None:
                used = (_number(group / files.used) or 0) - _cached(group, files)
                yield limit, limit - used


def _number(path: Path) -> int | None:
    """What the file says; None where it is absent, or says that there is no limit."""
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _cached(group: Path, files: _Files) -> int:
    try:
        rows = (group / "memory.stat").read_text("ascii").splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) for row in rows if row.split()[0] in files.caches)

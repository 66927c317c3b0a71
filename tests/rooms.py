"""How much of each room the tests run, from what `coverage json` wrote: see `make coverage`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any


def room_of(path: str) -> str:
    """The room that a file of dhcli lies in: `cli`, `data/io` …; `dhcli` for those in none."""
    folders = PurePath(path).parent.parts[1:]
    return "/".join(folders[: 2 if folders[:1] == ("data",) else 1]) or "dhcli"


def by_room(report: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(room, statements, those that no test ran) of each room, and of all in the last row."""
    rooms: dict[str, tuple[int, int]] = {}
    for path, file in sorted(report["files"].items()):
        there, missed = rooms.get(room_of(path), (0, 0))
        counts = file["summary"]
        rooms[room_of(path)] = there + counts["num_statements"], missed + counts["missing_lines"]
    total = tuple(map(sum, zip(*rooms.values(), strict=True)))
    return [(room, *counts) for room, counts in [*sorted(rooms.items()), ("all", total)]]


def table(rows: list[tuple[str, int, int]]) -> str:
    """The rows as a table of Markdown, each with its share of statements that tests ran."""
    head = "| room | statements | not run | covered |\n|---|---:|---:|---:|\n"
    return head + "".join(
        f"| {room} | {there:,} | {missed:,} | {100 * (1 - missed / max(there, 1)):.1f} % |\n"
        for room, there, missed in rows
    )


if __name__ == "__main__":
    sys.stdout.write(table(by_room(json.loads(Path(sys.argv[1]).read_text("utf-8")))))

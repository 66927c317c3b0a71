"""Files with a JSON object a line: `.jsonl`, `.odgt`, `.manifest`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dhcli.data.io.files import read_head, read_text
from dhcli.data.io.json_text import ODD, oddity
from dhcli.data.io.progress import FileProgress
from dhcli.errors import DataError

_LOOK_AT = 20


def lines_speak_of(path: Path, suffixes: tuple[str, ...], *names: str) -> bool:
    """Whether `path` ends in one of `suffixes`, and has objects that soon speak of all `names`."""
    if not path.name.lower().endswith(suffixes):
        return False
    head = read_head(path, 1 << 20)
    if not all(f'"{name}"' in head for name in names):
        return False
    return head.lstrip().startswith("{") or any(map(_is_object, head.split("\n")[:_LOOK_AT]))


def _is_object(line: str) -> bool:
    try:
        return line.lstrip().startswith("{") and isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_json_lines(
    path: Path,
    what: str,
    add: Callable[[dict[str, Any], int], None],
    refuse: Callable[[DataError], None],
) -> None:
    """Hand each object of the file, a `what`, and its line to `add`.

    Or, where it is no object or not built as `add` has it, the error to `refuse`.
    """
    text = read_text(path)
    progress, read = FileProgress(path, len(text)), 0
    # Not `splitlines`: JSON may have other ends of lines within its strings.
    for line, row in enumerate(text.split("\n"), 1):
        read += len(row) + 1
        progress.reached(min(read, len(text)))
        if not row.strip():
            continue
        try:
            add(json.loads(row), line)
        except json.JSONDecodeError as error:
            refuse(DataError(f"is not JSON: {error.msg.lower()}", where=f"{path}:{line}"))
        except RecursionError:
            refuse(DataError("is nested too deep", where=f"{path}:{line}"))
        except ODD as error:
            refuse(DataError(f"{what} {oddity(error)}", where=f"{path}:{line}"))

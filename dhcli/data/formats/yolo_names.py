"""How the classes of a YOLO dataset are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dhcli.data.io.files import confine, list_files, read_lines
from dhcli.errors import DataError

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels/classes.txt", "names")


def class_names(root: Path, settings: Mapping[str, Any]) -> list[str]:
    """Class names in order, [] where no file tells them."""
    names = settings.get("names")
    if isinstance(names, dict):
        return _names_of_map(names, root)
    if isinstance(names, list):
        return [str(name).strip() for name in names]
    files = [root / name for name in (*_NAME_FILES, *list_files(root, ".names"))]
    if isinstance(names, str) and (place := confine(names)):
        files.insert(0, root / place)
    return next((read_lines(file) for file in files if file.is_file()), [])


def _names_of_map(names: Mapping[str, Any], root: Path) -> list[str]:
    try:
        numbers = {int(number): str(name).strip() for number, name in names.items()}
    except ValueError:
        raise DataError("`names` maps something that is no number", where=root) from None
    last = max(numbers, default=-1)
    if min(numbers, default=0) < 0 or last >= 2 * len(numbers) + 1000:
        raise DataError("`names` has a class number out of range", where=root)
    return [numbers.get(number, str(number)) for number in range(last + 1)]


def check_distinct(names: list[str], root: Path) -> None:
    twice = next((name for index, name in enumerate(names) if name in names[:index]), None)
    if twice is not None:
        raise DataError(f"two classes are called `{twice}`", where=root)

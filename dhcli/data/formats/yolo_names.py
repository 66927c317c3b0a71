"""How the classes of a YOLO dataset are called, by their numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from dhcli.data.formats.class_lists import ClassList, require_agreement
from dhcli.data.formats.columns import whole_or
from dhcli.data.formats.locate import find_image
from dhcli.data.formats.yolo_images import is_label_line
from dhcli.data.formats.yolo_settings import Settings
from dhcli.data.io.files import (
    IMAGE_SUFFIXES,
    find_folders,
    join_path,
    list_files,
    read_bytes,
    read_text,
)
from dhcli.errors import DataError
from dhcli.words import counted

MOST_CLASSES = 1_000_000

Names = Mapping[int, str]
"""Number → name of a class; numbers that have no name are not there."""

_NOTES = "notes.json"
NAME_FILES = frozenset(
    (
        *("classes.txt", "obj.names", "names.txt", "names", "labels.txt"),
        *("_darknet.labels", _NOTES),
    )
)
"""What files of names are called, in any case."""
_YAML = (".yaml", ".yml")
_FOLDERS = (".", "data", "labels", "images")
_NO_NAMES = (*IMAGE_SUFFIXES, ".txt")
"""How lines end that are no names of classes, but of files."""
_NUMBERED = re.compile(r"(\d{1,6})(?:\s*[:,;=]\s*|\s+)(\S.*)")


class _Category(msgspec.Struct):
    id: Annotated[int, msgspec.Meta(ge=0, lt=MOST_CLASSES)]
    name: str


class _Notes(msgspec.Struct):
    categories: list[_Category]


_NOTES_DECODER = msgspec.json.Decoder(_Notes)


def class_names(root: Path, settings: Settings, folders: Iterable[str]) -> Names:
    """The names of classes, {} if no file has them.

    They are looked for in the settings and in files of the dataset and its `folders`, and all that
    tell some must agree: else raises DataError with two of them and their first difference.
    """
    sources = [*_of_settings(root, settings), *_of_folders(root, folders)]
    if not sources:
        others = (_of_file(root, name) for name in list_files(root, ".names"))
        sources = [source for source in others if source.names]
    require_agreement(root, sources)
    if not sources:
        _require_no_names(root, settings)
    names = sources[0].names if sources else {}
    _compare_count(root, settings, names)
    _require_distinct(root, names)
    return names


def _require_no_names(root: Path, settings: Settings) -> None:
    """Raise DataError where data.yaml has `names` that are a text, and no file of this name."""
    told = settings.told.get("names")
    if isinstance(told, str) and told and settings.name.lower().endswith(_YAML):
        what = f"`names: {told[:40]}` is no list of names, and no file of names in the dataset"
        hint = f"write it as a list: `names: [{told}]`" if "." not in told else None
        raise DataError(what, where=root / settings.name, hint=hint)


def _of_settings(root: Path, settings: Settings) -> Iterator[ClassList]:
    told = settings.told.get("names")
    if isinstance(told, str) and (file := find_image(root, told)):
        source = _of_file(root, file)
    elif isinstance(told, dict | list):
        pairs = told if isinstance(told, dict) else dict(enumerate(told))
        source = ClassList(settings.name, names_of_map(pairs, root / settings.name))
    else:
        return
    if source.names:
        yield source


def _of_folders(root: Path, folders: Iterable[str]) -> Iterator[ClassList]:
    places = dict.fromkeys((*find_folders(root, _FOLDERS), *sorted(folders)))
    for place in places:
        for name in list_files(root / place, *NAME_FILES):
            if name.lower() in NAME_FILES:
                source = _of_file(root, join_path(place, name))
                if source.names:
                    yield source


def _of_file(root: Path, file: str) -> ClassList:
    """The names in a file: Label Studio's notes.json, or a line each."""
    if file.lower().endswith(_NOTES):
        try:
            notes = _NOTES_DECODER.decode(read_bytes(root / file))
        except (msgspec.MsgspecError, DataError):  # somebody's own notes
            return ClassList(file, {})
        return ClassList(file, {each.id: each.name.strip() for each in notes.categories})
    names = _numbered(read_text(root / file).splitlines())
    others = (is_label_line(n) or n.lower().endswith(_NO_NAMES) for n in names.values())
    return ClassList(file, {} if any(others) else names)


def _numbered(lines: Iterable[str]) -> Names:
    """The lines that say anything, by their numbers from 0.

    Where each of several lines begins with its own number, as `0: cat` does, that is no part of the
    name.
    """
    names = {n: name for n, line in enumerate(lines) if (name := line.strip())}
    told = {n: found for n, name in names.items() if (found := _NUMBERED.fullmatch(name))}
    if len(names) > 1 and all(n in told and int(told[n][1]) == n for n in names):
        return {n: found[2] for n, found in told.items()}
    return names


def names_of_map(names: Mapping[Any, Any], where: Path) -> Names:
    """The names that YAML maps numbers to, by these. Raises DataError for another map."""
    for number, name in names.items():
        if not isinstance(name, str):
            raise DataError(f"class {number} is not text", where=where)
    try:
        numbers = {int(number): name for number, name in names.items()}
    except ValueError:
        raise DataError("`names` maps something that is not a number", where=where) from None
    if min(numbers, default=0) < 0 or max(numbers, default=-1) >= 2 * len(numbers) + 1000:
        raise DataError("`names` has a class number out of range", where=where)
    return {number: name for number, name in sorted(numbers.items()) if name.strip()}


def _compare_count(root: Path, settings: Settings, names: Names) -> None:
    """Raise DataError where `nc`, or darknet's `classes`, is another number than there are."""
    count = whole_or(settings.told.get("nc"), -1)
    if names and count >= 0 and count not in (len(names), max(names) + 1):
        raise DataError(
            f"tells of {counted(count, 'class')} (`nc`), and names {len(names)}",
            where=root / settings.name,
            hint="correct the wrong one",
        )


def _require_distinct(root: Path, names: Names) -> None:
    seen: set[str] = set()
    for name in names.values():
        if name in seen:
            raise DataError(f"two classes are called `{name}`", where=root)
        seen.add(name)

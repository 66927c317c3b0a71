"""Hugging Face's image folder: `metadata.jsonl`, or `metadata.csv`, among the images of a split.

A line an image, `{"file_name": "a.jpg", "objects": {"bbox": [[x, y, width, height]], "categories":
[0]}}`; the classes may also be called `category`, `label` or `labels`, be names or numbers, and
`objects` be a list of objects with a `bbox` each, or be left out around its columns. The names of
numbers stand in the README.md, in what Hugging Face calls a `class_label`; without that, classes
are called by their numbers. Lists called difficult, truncated, occluded, crowd or ignore
(`iscrowd`) are marks, `score` is a score. In CSV the column `objects` is JSON. Other columns are
not kept.

Folders called train, val or test are the splits, those in the names of files too.

Pixels: from 0, the maximum excluded. Classes: in the order of the README, then by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.config.text import read_as_written
from dhcli.data.formats.boxes import from_xywh, to_xywh
from dhcli.data.formats.class_lists import ClassList, require_agreement
from dhcli.data.formats.columns import MARKS, NO_NAME, Columns, class_of, flags_told, side_of
from dhcli.data.formats.corners import with_notes_on_corners
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, Row, rows_of, writing
from dhcli.data.formats.yolo_names import names_of_map
from dhcli.data.io.files import read_head, split_name
from dhcli.data.io.json_lines import lines_speak_of, read_json_lines
from dhcli.data.io.json_text import ODD, oddity
from dhcli.data.io.text_rows import first_row, number_of, read_rows
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError
from dhcli.words import counted

HOLDS = Holds("from 0: x y width height", classes=False, splits=False)

_FILE, _OBJECTS = "file_name", "objects"
_NAME = "metadata.jsonl"
_CLASS_KEYS = ("categories", "category", "labels", "label")
_LABEL = "class_label"
_LONGEST_CARD = 1 << 20
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


def _is_ours(path: Path) -> bool:
    if path.suffix.lower() == ".csv":
        header = first_row(path)
        return path.stem.lower() == "metadata" and {_FILE, _OBJECTS} <= set(header)
    return lines_speak_of(path, (".jsonl",), _FILE, "bbox")


def read_imagefolder(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    reader = _Reader(Columns(root, path), _class_names(root, path))
    if path.suffix.lower() == ".csv":
        _read_csv(path, reader)
    else:
        read_json_lines(path, "an image", reader.add, reader.columns.refuse)
    if path.parent == root:
        reader.split_by_folders()
    reader.columns.locate()
    table = reader.columns.table(reader.columns.classes_after(reader.listed()))
    return with_notes_on_corners(table)


def _read_csv(path: Path, reader: _Reader) -> None:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    for line, row in rows:
        try:
            told: dict[str, Any] = dict(zip(header, row, strict=True))
            told[_OBJECTS] = json.loads(told[_OBJECTS]) if told[_OBJECTS] else {}
            reader.add(told, line)
        except RecursionError:
            reader.columns.refuse(DataError("is nested too deep", where=f"{path}:{line}"))
        except ODD as error:
            what = f"an image {oddity(error)}"
            reader.columns.refuse(DataError(what, where=f"{path}:{line}"))


class _Reader:
    """Turns rows into columns; `names` are those of classes that are numbers."""

    def __init__(self, columns: Columns, names: Mapping[int, str]) -> None:
        self.columns = columns
        self._names = names
        self._met: dict[int, str] = {}

    def listed(self) -> list[str]:
        """The classes in the order of their numbers, where any is told by one."""
        numbered = {**self._names, **self._met} if self._met else {}
        return [name for _, name in sorted(numbered.items())]

    def split_by_folders(self) -> None:
        """Put images into the splits that the folders in their names are called."""
        for number, file in enumerate(self.columns.files):
            named = (split_name(folder) for folder in file.split("/")[:-1])
            if split := next((name for name in named if name), None):
                self.columns.splits[split].append(number)

    def add(self, row: dict[str, Any], line: int) -> None:
        """Add an image and its boxes."""
        name = row[_FILE]
        if not isinstance(name, str):
            raise TypeError(f"`{_FILE}` is not text")
        told = row.get(_OBJECTS, row) or {}
        if isinstance(told, dict) and told and "bbox" not in told:
            raise KeyError(_OBJECTS if told is row else "bbox")  # it is not known to have none
        rows = list(_rows(told))
        image = self.columns.image(name, *(side_of(row.get(side)) for side in ("width", "height")))
        self.columns.add_each("an object", line, image, rows, partial(self._add, line, image))

    def _add(self, line: int, image: int, told: Mapping[str, Any]) -> None:
        x, y, width, height = map(number_of, told["bbox"])
        box, score = from_xywh(x, y, width, height), told.get("score")
        self.columns.add(self._class_of(told), box, flags_told(told), line, image, score)

    def _class_of(self, told: Mapping[str, Any]) -> str:
        value = next((told[key] for key in _CLASS_KEYS if key in told), None)
        if value is None:
            self.columns.counts[f"box of no class: called `{NO_NAME}`"] += 1
            return NO_NAME
        if isinstance(value, int) and not isinstance(value, bool):
            what = "box of a class without a name: called by its number"
            self.columns.counts[what] += value not in self._names
            return self._met.setdefault(value, self._names.get(value, str(value)))
        return class_of(value)


def _rows(objects: Any) -> Iterator[Mapping[str, Any]]:
    """The objects, told one by one or as columns.

    Raises ValueError for columns unlike long, and for one box in place of a list of them.
    """
    if isinstance(objects, list):
        yield from objects
        return
    boxes = objects.get("bbox") or ()
    if any(isinstance(box, int | float) for box in boxes):
        raise ValueError("`bbox` is one box, not a list of boxes")
    columns = {name: each for name, each in objects.items() if isinstance(each, list)}
    marks = (*_CLASS_KEYS, "bbox", "score")
    for name, column in columns.items():
        if len(column) != len(boxes) and (name in marks or flags_told({name: True})):
            raise ValueError(f"{len(column)} of `{name[:20]}` for {counted(len(boxes), 'box')}")
    for number in range(len(boxes)):
        yield {name: each[number] for name, each in columns.items() if number < len(each)}


def _class_names(root: Path, path: Path) -> Mapping[int, str]:
    """The names of classes by their numbers, as a README.md lists them; {} where none does.

    Raises DataError where one speaks of them and cannot be read, or two do not agree.
    """
    for folders in ((root, path.parent), (root.parent,)):
        cards = [folder / "README.md" for folder in dict.fromkeys(folders)]
        lists = [
            ClassList(card.relative_to(root.parent).as_posix(), names)
            for card in cards
            if (names := _names_of_card(card))
        ]
        require_agreement(root.parent, lists)
        if lists:
            return lists[0].names
    return {}


def _names_of_card(readme: Path) -> Mapping[int, str]:
    """The names of classes by their numbers in a README.md; {} where it has none."""
    matter = _FRONT_MATTER.match(read_head(readme, _LONGEST_CARD))
    if matter is None or _LABEL not in matter[1]:
        return {}
    try:
        told = read_as_written(f"\n{matter[1]}")  # its lines are those of the file
    except ValueError as error:
        raise DataError(str(error), where=readme) from None
    return next(filter(None, _names_in(told, readme)), {})


def _names_in(told: Any, readme: Path) -> Iterator[Mapping[int, str]]:
    """The names by their numbers of each `class_label` in a tree of YAML, in its order."""
    for key, value in told.items() if isinstance(told, dict) else enumerate(told):
        names = value.get("names") if key == _LABEL and isinstance(value, dict) else None
        if isinstance(names, dict | list):
            yield names_of_map(names if isinstance(names, dict) else dict(enumerate(names)), readme)
        elif isinstance(value, dict | list):
            yield from _names_in(value, readme)


def write_imagefolder(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images with metadata.jsonl beside them, one folder per split."""
    folders = [split or "." for split in placing.split_of_images()]
    placing.place(folders)
    marks = [name for name, flag in MARKS.items() if table.has(flag).any()]
    for folder in dict.fromkeys(folders):
        images = [image for image, own in enumerate(folders) if own == folder]
        lines = (
            f"{json.dumps(_told(table, image, placing.names[image], marks))}\n"
            for image in writing(images)
        )
        placing.write_lines(f"{folder}/{_NAME}", lines)


def _told(table: DetectionTable, image: int, name: str, marks: Sequence[str]) -> dict[str, Any]:
    width, height = table.sizes[image].tolist()
    rows = list(rows_of(table, image))
    objects = _objects(rows, marks)
    return {_FILE: name, "width": width, "height": height, _OBJECTS: objects}


def _objects(rows: Sequence[Row], marks: Sequence[str]) -> dict[str, list[Any]]:
    """The boxes of an image as columns: the same in every image, as Hugging Face wants it."""
    objects: dict[str, list[Any]] = {
        "bbox": [to_xywh(row.box) for row in rows],
        "categories": [row.name for row in rows],
    }
    objects |= {name: [MARKS[name] in row.flags for row in rows] for name in marks}
    if any(row.score is not None for row in rows):
        objects["score"] = [row.score for row in rows]
    return objects


LAYOUT = FilePerSplit(
    "metadata.jsonl with file_name and bbox, or metadata.csv with objects",
    (_NAME, ".jsonl", ".csv"),
    _is_ours,
)
FORMAT = Format("Hugging Face image folder", LAYOUT, read_imagefolder, write_imagefolder, HOLDS)

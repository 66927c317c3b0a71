"""CreateML: a JSON list of images with their boxes, as centre and size, beside the images.

`[{"image": "a.jpg", "annotations": [{"label": "cat", "coordinates": {"x": …, "y": …, …}}]}]`, a
file a split, in its folder (`train/_annotations.createml.json`). Older files say `imagefilename`
and `annotation`. `confidence` is a score. Marks and regions to ignore have no place in the format.

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.columns import Columns, class_of, number_of
from dhcli.data.formats.format import Format
from dhcli.data.formats.locate import find_files, locate_images, read_as_splits
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, rows_of, writing
from dhcli.data.io.json_text import JsonText, begins_as
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag

LOOKS_FOR = "*.json, a list of images with annotations (CreateML)"
HOLDS = Holds(
    "from 0: centre, width, height",
    marks=Flag(0),
    regions=LEFT_OUT,
    classes=False,
    sizes=False,
    splits=False,
)

_SIDES = ("x", "y", "width", "height")
_IMAGE_KEYS = ("image", "imagefilename", "filename")


def sniff_createml(path: Path) -> bool:
    """Whether `path` is such a file, or a folder with some."""
    return _is_createml(path) if path.is_file() else bool(find_files(path, ".json", _is_createml))


def _is_createml(path: Path) -> bool:
    lists = any(begins_as(path, "[", key) for key in ("annotations", "annotation"))
    return lists and any(begins_as(path, "[", key) for key in _IMAGE_KEYS)


def read_createml(path: Path) -> DetectionTable:
    """Read one file, or all in a folder as splits.

    Raises DataError with the file and line of what cannot be read.
    """
    files = [] if path.is_file() else find_files(path, ".json", _is_createml)
    return read_as_splits(path, files, _read_file, LOOKS_FOR, "CreateML")


def _read_file(root: Path, path: Path) -> DetectionTable:
    document = JsonText(path)
    columns = Columns()
    annotation = path.relative_to(root).as_posix()
    add = document.taking("an image", partial(_add_image, columns, annotation))
    document.read_array(add)
    columns.files, notes = locate_images(root, path, columns.files)
    return columns.table(root, columns.classes_after(), format="createml", notes=tuple(notes))


def _add_image(columns: Columns, annotation: str, row: dict[str, Any], line: int) -> None:
    name = next((row[key] for key in _IMAGE_KEYS if key in row), None)
    if not isinstance(name, str):
        raise KeyError("image")
    image = columns.image(name, 0, 0, annotation)
    for told in row.get("annotations") or row.get("annotation") or ():
        x, y, width, height = (number_of(told["coordinates"][side]) for side in _SIDES)
        label = columns.label_of(class_of(told["label"]))
        sides = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        box = [round(side, 10) for side in sides]  # 10.05 - 0.05 is not 10
        flags = Flag.IGNORE.value if label == ANY_CLASS else 0
        columns.add_box(label, box, flags, line, image)
        if told.get("confidence") is not None:
            columns.scores.append(number_of(told["confidence"]))


def write_createml(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images with a JSON file beside them, a folder a split."""
    splits = placing.split_of_images()
    folders = [split or "." for split in splits]
    placing.place(folders)
    for folder in dict.fromkeys(folders):
        rows = (
            json.dumps({"image": name, "annotations": list(_annotations(table, image))})
            for image, name in enumerate(writing(placing.names))
            if folders[image] == folder
        )
        lines = (f",\n{row}" if index else f"[\n{row}" for index, row in enumerate(rows))
        placing.write_lines(f"{folder}/_annotations.createml.json", (*lines, "\n]\n"))


def _annotations(table: DetectionTable, image: int) -> Iterator[dict[str, Any]]:
    for row in rows_of(table, image, regions=False):
        x1, y1, x2, y2 = row.box
        numbers = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        told = {"label": row.name, "coordinates": dict(zip(_SIDES, numbers, strict=True))}
        yield told if row.score is None else told | {"confidence": row.score}


FORMAT = Format("CreateML", LOOKS_FOR, sniff_createml, read_createml, write_createml, HOLDS)

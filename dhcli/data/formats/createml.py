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

from dhcli.data.formats.boxes import from_centre
from dhcli.data.formats.columns import Columns, class_of
from dhcli.data.formats.label_studio import is_label_studio
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, rows_of, writing
from dhcli.data.io.json_text import JsonText, begins_as
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import DetectionTable, Flag

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


def _is_createml(path: Path) -> bool:
    lists = any(begins_as(path, "[", key) for key in ("annotations", "annotation"))
    is_list = lists and any(begins_as(path, "[", key) for key in _IMAGE_KEYS)
    return is_list and not is_label_studio(path)


def read_createml(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    columns, document = Columns(root, path), JsonText(path)
    document.read_array(document.taking("an image", partial(_add_image, columns), columns.refuse))
    columns.locate()
    return columns.table(columns.classes_after())


def _add_image(columns: Columns, row: dict[str, Any], line: int) -> None:
    name = next((row[key] for key in _IMAGE_KEYS if key in row), None)
    if not isinstance(name, str):
        raise KeyError("image")
    told = list(row.get("annotations") or row.get("annotation") or ())
    image = columns.image(name)
    columns.add_each("an annotation", line, image, told, partial(_add, columns, line, image))


def _add(columns: Columns, line: int, image: int, told: dict[str, Any]) -> None:
    x, y, width, height = (number_of(told["coordinates"][side]) for side in _SIDES)
    box = from_centre(x, y, width, height)
    columns.add(class_of(told["label"]), box, 0, line, image, told.get("confidence"))


def write_createml(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images with a JSON file beside them, one folder per split."""
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


LAYOUT = FilePerSplit("*.json, a list of images with annotations", (".json",), _is_createml)
FORMAT = Format("CreateML", LAYOUT, read_createml, write_createml, HOLDS)

"""BDD100K, and Scalabel's JSON: a list of frames with their labels, or `frames` and a `config`.

`[{"name": "a.jpg", "labels": [{"category": "car", "box2d": {"x1": …, "y1": …, "x2": …, "y2": …},
"attributes": {"occluded": true, "truncated": false}}]}]`, one file per split (`labels/det_20/
det_train.json`), images anywhere below the root. Labels without `box2d` (lanes, drivable areas,
masks) are left out, counted. Attributes called difficult, truncated, occluded, crowd or ignore are
marks; `score` is a score. Frames of a video lie in the folder `videoName`.

Pixels: from 0, the maximum excluded, as boxes are drawn. (Scalabel's own way to COCO takes it for
included.) Classes: as `config` lists them, then by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.addresses import locate_addresses
from dhcli.data.formats.columns import Columns, class_of, flags_told, marks_of, side_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, rows_of, writing
from dhcli.data.io.json_text import ODD, JsonText, begins_as
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import DetectionTable

HOLDS = Holds("from 0, maximum excluded")

_SIDES = ("x1", "y1", "x2", "y2")
_FOLDERS = ("annotations", "labels", "labels/det_20")


def _is_scalabel(path: Path) -> bool:
    if begins_as(path, "[", "name", "labels"):
        return any(begins_as(path, "[", key) for key in ("box2d", "category", "videoName"))
    return begins_as(path, "{", "frames", "name", "labels")


def read_scalabel(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    reader, document = _Reader(Columns(root, path)), JsonText(path)
    take = document.taking("a frame", reader.add, reader.columns.refuse)
    config: Any = {}
    if document.begins_with("{"):
        config = document.read_object({"frames": take}).get("config")
    else:
        document.read_array(take)
    columns = reader.columns
    columns.files, notes = locate_addresses(root, path, columns.files)
    columns.notes += notes
    return columns.table(columns.classes_after(_listed_classes(config)))


def _listed_classes(config: Any) -> list[str]:
    """The leaves of the tree of categories that a file lists; [] where there is none."""
    names: list[str] = []
    try:
        coming = list(reversed(config["categories"]))
        while coming:
            each = coming.pop()
            below = each.get("subcategories") or ()
            coming += reversed(below)
            names += [] if below else [class_of(each["name"])]
    except ODD:
        return []
    return names


class _Reader:
    """Turns frames into columns."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns

    def add(self, frame: dict[str, Any], line: int) -> None:
        """Add a frame and its boxes."""
        name, video = frame["name"], frame.get("videoName") or frame.get("video_name")
        if not isinstance(name, str):
            raise TypeError("`name` is not text")
        size = frame.get("size") or {}
        file = f"{video}/{name}" if isinstance(video, str) and "/" not in name else name
        labels = list(frame.get("labels") or ())
        image = self.columns.image(file, *(side_of(size.get(side)) for side in ("width", "height")))
        add = partial(self._add_label, line, image)
        self.columns.add_each("a label", line, image, labels, add)

    def _add_label(self, line: int, image: int, told: Mapping[str, Any]) -> None:
        box = told.get("box2d")
        if box is None:
            self.columns.counts["label without box2d: left out"] += 1
            return
        corners = [number_of(box[side]) for side in _SIDES]
        name, marks = class_of(told["category"]), flags_told(told.get("attributes") or {})
        self.columns.add(name, corners, marks, line, image, told.get("score"))


def write_scalabel(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and labels/, a file of frames and their config a split."""
    placing.place("images")
    for split, images in placing.parts().items():
        lines = _document(table, placing, images.tolist())
        placing.write_lines(f"labels/det_{split}.json" if split else "labels/det.json", lines)


def _document(table: DetectionTable, placing: Placing, images: list[int]) -> Iterator[str]:
    """A file in pieces, a frame a line."""
    config = {"categories": [{"name": name} for name in table.classes]}
    yield f'{{\n"config": {json.dumps(config)},\n"frames": ['
    for index, image in enumerate(writing(images)):
        width, height = table.sizes[image].tolist()
        told = {
            "name": placing.names[image],
            "size": {"width": width, "height": height},
            "labels": list(_labels(table, image)),
        }
        yield f"{',' if index else ''}\n{json.dumps(told)}"
    yield "\n]\n}\n"


def _labels(table: DetectionTable, image: int) -> Iterator[dict[str, Any]]:
    for row in rows_of(table, image):
        marks = {"occluded": False, "truncated": False} | dict.fromkeys(marks_of(row.flags), True)
        told = {
            "id": str(row.number),
            "category": row.name,
            "attributes": marks,
            "box2d": dict(zip(_SIDES, row.box, strict=True)),
        }
        yield told if row.score is None else told | {"score": row.score}


LAYOUT = FilePerSplit(
    "*.json, a list of frames with name and labels, or `frames`",
    (".json",),
    _is_scalabel,
    folders=_FOLDERS,
)
FORMAT = Format("BDD100K, Scalabel", LAYOUT, read_scalabel, write_scalabel, HOLDS)

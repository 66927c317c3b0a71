"""Datumaro: `annotations/SUBSET.json` with `categories` and `items`, images in images/SUBSET.

Boxes are read, and polygons, polylines and ellipses as the boxes around them; masks, points,
labels and captions are left out, counted. Annotations of one label and `group` in an item are parts
of one object: one box around all. Attributes called occluded, truncated, difficult, is_crowd or
ignore are marks, `track_id` is kept as the track, `score` as a score. The subset `default` is no
split.

Pixels: from 0, the maximum excluded. Classes: in the order of the labels.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.boxes import Box, from_xywh, hull_of_row, to_xywh
from dhcli.data.formats.columns import (
    DONT_CARE,
    NO_TRACK,
    Columns,
    class_of,
    flags_told,
    marks_of,
    side_of,
    tracks_of,
    whole_or,
)
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, rows_of, track_of, writing
from dhcli.data.io.files import stem_of
from dhcli.data.io.json_text import ODD, JsonText, begins_as
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import ANY_CLASS, DetectionTable

HOLDS = Holds("from 0: x y width height", columns=frozenset(("track",)), split_names="file")

_OUTLINES = ("polygon", "polyline")
_ATTRIBUTES = {"crowd": "is_crowd"}


def _is_datumaro(path: Path) -> bool:
    return begins_as(path, "{", "categories", "items")


def read_datumaro(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    document = JsonText(path)
    # The labels may stand behind the items that speak of them by number.
    labels = _label_names(document.read_object({"items": lambda *_: None}))
    reader = _Reader(Columns(root, path), labels)
    document.read_object(
        {"items": document.taking("an item", reader.add_item, reader.columns.refuse)}
    )
    reader.columns.locate()
    classes = reader.columns.classes_after(labels)
    return reader.columns.table(classes, extras=tracks_of(reader.tracks))


def _label_names(head: dict[str, Any]) -> list[str]:
    try:
        rows = head["categories"]["label"]["labels"]
        return [class_of(row["name"] if isinstance(row, dict) else row) for row in rows]
    except ODD:
        return []


class _Reader:
    """Turns items into columns."""

    def __init__(self, columns: Columns, labels: Sequence[str]) -> None:
        self.columns = columns
        self.tracks = array("q")
        self._labels = labels

    def add_item(self, item: dict[str, Any], line: int) -> None:
        """Add an image and its boxes."""
        told = item.get("image") or item.get("media") or {}
        name = told.get("path") or item["id"]
        height, width = told.get("size") or (0, 0)
        annotations = list(item.get("annotations") or ())
        image = self.columns.image(str(name), side_of(width), side_of(height))
        add = partial(self._add, line, image)
        self.columns.add_each("an annotation", line, image, annotations, add)

    def _add(self, line: int, image: int, told: dict[str, Any]) -> None:
        kind = told["type"]
        box = _box(kind, told)
        if box is None:
            self.columns.counts[f"annotation `{str(kind)[:20]}`: left out"] += 1
            return
        if kind != "bbox":
            what = f"annotation `{kind}`: read as the box around"
            self.columns.counts[what] += 1
        name = self._name(told["label_id"])
        marks = told.get("attributes") or {}
        group = told.get("group") or None  # 0 stands for none
        if self.columns.add(name, box, flags_told(marks), line, image, marks.get("score"), group):
            self.tracks.append(whole_or(marks.get("track_id"), NO_TRACK))

    def _name(self, number: Any) -> str:
        if isinstance(number, int) and 0 <= number < len(self._labels):
            return self._labels[number]
        raise ValueError(f"label_id {str(number)[:20]} is not among the {len(self._labels)} labels")


def _box(kind: Any, told: dict[str, Any]) -> Box | None:
    """The box around an annotation, None if it has none."""
    if kind == "bbox":
        x, y, width, height = map(number_of, told["bbox"])
        return from_xywh(x, y, width, height)
    if kind in _OUTLINES:
        return hull_of_row(told["points"])
    if kind == "ellipse":
        x1, y1, x2, y2 = map(number_of, told["points"])
        return x1, y1, x2, y2
    return None


def write_datumaro(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and annotations/, one file per subset."""
    placing.place("images")
    for split, images in placing.parts().items():
        lines = _document(table, placing, images.tolist())
        placing.write_lines(f"annotations/{split or 'default'}.json", lines)


def _document(table: DetectionTable, placing: Placing, images: Sequence[int]) -> Iterator[str]:
    """A file in pieces, an item a line."""
    names = [*table.classes, *([DONT_CARE] if (table.labels == ANY_CLASS).any() else [])]
    labels = [{"name": name, "parent": "", "attributes": []} for name in names]
    number = {name: index for index, name in enumerate(names)}
    categories = {"label": {"labels": labels, "attributes": []}}
    yield f'{{\n"info": {{}},\n"categories": {json.dumps(categories)},\n"items": ['
    for index, image in enumerate(writing(images)):
        width, height = table.sizes[image].tolist()
        told = {
            "id": stem_of(placing.names[image]),
            "annotations": list(_annotations(table, image, number)),
            "image": {"path": placing.names[image], "size": [height, width]},
        }
        yield f"{',' if index else ''}\n{json.dumps(told)}"
    yield "\n]\n}\n"


def _annotations(
    table: DetectionTable, image: int, number: dict[str, int]
) -> Iterator[dict[str, Any]]:
    for row in rows_of(table, image):
        marks: dict[str, Any] = {"occluded": False}
        marks |= {_ATTRIBUTES.get(name, name): True for name in marks_of(row.flags)}
        if (track := track_of(table, row.number)) != NO_TRACK:
            marks["track_id"] = track
        if row.score is not None:
            marks["score"] = row.score
        yield {
            "id": row.number,
            "type": "bbox",
            "attributes": marks,
            "group": 0,
            "label_id": number[row.name],
            "z_order": 0,
            "bbox": to_xywh(row.box),
        }


LAYOUT = FilePerSplit(
    "annotations/*.json with categories and items", (".json",), _is_datumaro, prefix=""
)
FORMAT = Format("Datumaro", LAYOUT, read_datumaro, write_datumaro, HOLDS)

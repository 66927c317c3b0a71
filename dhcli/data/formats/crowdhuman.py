"""CrowdHuman: `annotation_train.odgt`, a JSON object a line, images in `Images`.

`{"ID": …, "gtboxes": [{"tag": "person", "fbox": [x, y, w, h], "vbox": …, "hbox": …, "extra": …}]}`.
The box is that of the full body, `fbox`; where there is none, the visible one, else the head's. The
others are not kept, counted. The class is the tag; `mask` is none, but a region to ignore, and so
is what `extra` says to `ignore`. Its `occ` is the mark occluded. A file a split.

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.boxes import from_xywh, to_xywh
from dhcli.data.formats.columns import DONT_CARE, Columns, class_of, is_set
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, rows_of, writing
from dhcli.data.io.files import stem_of
from dhcli.data.io.json_lines import lines_speak_of, read_json_lines
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag

HOLDS = Holds(
    "from 0: x y width height",
    marks=Flag.OCCLUDED,
    regions="written as boxes to ignore",
    classes=False,
    scores=False,
    sizes=False,
)

_SUFFIX = ".odgt"
_BOXES = ("fbox", "vbox", "hbox")
_MASK = "mask"


def _is_crowdhuman(path: Path) -> bool:
    return lines_speak_of(path, (_SUFFIX,), "ID", "gtboxes")


def read_crowdhuman(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    columns = Columns(root, path)
    read_json_lines(path, "an image", partial(_add_image, columns), columns.refuse)
    columns.locate()
    return columns.table(columns.classes_after())


def _add_image(columns: Columns, row: dict[str, Any], line: int) -> None:
    name = row["ID"]
    if not isinstance(name, str):
        raise TypeError("`ID` is not text")
    boxes = list(row["gtboxes"] or ())
    image = columns.image(name)
    add = partial(_add_box, columns, line, image)
    columns.add_each("a box", line, image, boxes, add)


def _add_box(columns: Columns, line: int, image: int, told: Mapping[str, Any]) -> None:
    extra = told.get("extra") or {}
    boxes = [key for key in _BOXES if told.get(key)]
    x, y, width, height = map(number_of, told[boxes[0] if boxes else _BOXES[0]])
    flags = Flag.OCCLUDED if is_set(extra.get("occ", 0)) else Flag(0)
    is_mask = told["tag"] == _MASK and is_set(extra.get("ignore", 1))
    if is_mask:
        columns.counts["mask: a region to ignore, of no class"] += 1
    elif is_set(extra.get("ignore", 0)):
        flags |= Flag.IGNORE
    columns.counts["box of the visible part or the head: not kept"] += len(boxes[1:])
    tag = DONT_CARE if is_mask else class_of(told["tag"])
    columns.add(tag, from_xywh(x, y, width, height), int(flags), line, image)


def write_crowdhuman(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as Images/ and annotation_SPLIT.odgt; classes are tags."""
    placing.place("Images")
    for split, images in placing.parts().items():
        name = f"annotation_{split}{_SUFFIX}" if split else f"annotation{_SUFFIX}"
        lines = (
            f"{json.dumps(_told(table, image, placing.names[image]))}\n"
            for image in writing(images.tolist())
        )
        placing.write_lines(name, lines)


def _told(table: DetectionTable, image: int, name: str) -> dict[str, Any]:
    return {"ID": stem_of(name), "gtboxes": list(_boxes(table, image))}


def _boxes(table: DetectionTable, image: int) -> Iterator[dict[str, Any]]:
    start = table.rows(image).start
    for row in rows_of(table, image):
        tag = _MASK if table.labels[row.number] == ANY_CLASS else row.name
        extra = {
            "box_id": row.number - start,
            "occ": int(Flag.OCCLUDED in row.flags),
            "ignore": int(row.is_region),
        }
        yield {"tag": tag, "fbox": to_xywh(row.box), "extra": extra}


LAYOUT = FilePerSplit("annotation_*.odgt with ID and gtboxes", (_SUFFIX,), _is_crowdhuman)
FORMAT = Format("CrowdHuman", LAYOUT, read_crowdhuman, write_crowdhuman, HOLDS)

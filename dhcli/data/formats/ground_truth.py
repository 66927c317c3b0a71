"""SageMaker Ground Truth's manifest, and Rekognition's: one JSON object per line, for one image.

`{"source-ref": "s3://bucket/a.jpg", "NAME": {"image_size": [{"width": …, "height": …}],
"annotations": [{"class_id": 0, "left": …, "top": …, "width": …, "height": …}]}, "NAME-metadata":
{"class-map": {"0": "cat"}}}`, one file per split (`train.manifest`). NAME is the labelling
job's; of several, the first with boxes is read. Images without such labels are not annotated; they
are left out and counted. Confidences are the workers', and are not kept. Images are found by the
ends of their addresses. The format has no place for marks and regions to ignore.

Written: paths from the folder of the manifest; AWS wants `s3://…` before them.

Pixels: from 0, the maximum excluded. Classes: in the order of their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.addresses import locate_addresses
from dhcli.data.formats.boxes import from_xywh, to_xywh
from dhcli.data.formats.columns import Columns, class_of, side_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, rows_of, writing
from dhcli.data.formats.spellings import path_of
from dhcli.data.io.json_lines import lines_speak_of, read_json_lines
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import DetectionTable, Flag

HOLDS = Holds("from 0: left top width height", marks=Flag(0), regions=LEFT_OUT, scores=False)

_SUFFIXES = (".manifest", ".jsonl", ".json")
_SOURCE, _METADATA, _NAMES = "source-ref", "-metadata", "class-map"
_SIDES = ("left", "top", "width", "height")
_JOB = "bounding-box"


def _is_manifest(path: Path) -> bool:
    return lines_speak_of(path, _SUFFIXES, _SOURCE, "annotations", _NAMES)


def read_ground_truth(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    reader = _Reader(Columns(root, path))
    read_json_lines(path, "an image", reader.add, reader.columns.refuse)
    columns = reader.columns
    columns.files, notes = locate_addresses(root, path, columns.files)
    columns.notes += notes
    return columns.table(columns.classes_after(reader.listed()))


class _Reader:
    """Turns lines into columns."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._names: dict[int, str] = {}

    def listed(self) -> list[str]:
        """The classes in the order of their ids."""
        return [name for _, name in sorted(self._names.items())]

    def add(self, row: dict[str, Any], line: int) -> None:
        """Add an image and its boxes."""
        name = next((key for key in row if _has_boxes(row, key)), None)
        address = row[_SOURCE]
        if not isinstance(address, str):
            raise TypeError(f"`{_SOURCE}` is not text")
        if name is None:
            self.columns.counts["image without boxes of a labelling job: left out"] += 1
            return
        labels, metadata = row[name], row.get(f"{name}{_METADATA}") or {}
        names = {int(number): class_of(told) for number, told in metadata[_NAMES].items()}
        for number, told in names.items():
            self._names.setdefault(number, told)
        size = (labels.get("image_size") or [{}])[0]
        sides = (side_of(size.get(side)) for side in _SIDES[2:])
        boxes = list(labels["annotations"])
        image = self.columns.image(path_of(address), *sides)
        add = partial(self._add_box, names, line, image)
        self.columns.add_each("a box", line, image, boxes, add)

    def _add_box(
        self, names: Mapping[int, str], line: int, image: int, told: Mapping[str, Any]
    ) -> None:
        x, y, width, height = (number_of(told[side]) for side in _SIDES)
        number = int(told["class_id"])
        is_named = number in names
        self.columns.counts["box of a class without a name: called by its number"] += not is_named
        name = names[number] if is_named else str(number)
        self.columns.add(name, from_xywh(x, y, width, height), 0, line, image)


def _has_boxes(row: Mapping[str, Any], key: str) -> bool:
    return isinstance(row[key], dict) and isinstance(row[key].get("annotations"), list)


def write_ground_truth(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and one manifest per split."""
    placing.place("images")
    number = {name: index for index, name in enumerate(table.classes)}
    names = {str(index): name for index, name in enumerate(table.classes)}
    for split, images in placing.parts().items():
        lines = (
            f"{json.dumps(_told(table, image, placing.names[image], number, names))}\n"
            for image in writing(images.tolist())
        )
        placing.write_lines(f"{split or 'output'}.manifest", lines)


def _told(
    table: DetectionTable,
    image: int,
    name: str,
    number: Mapping[str, int],
    names: Mapping[str, str],
) -> dict[str, Any]:
    width, height = table.sizes[image].tolist()
    boxes = list(_annotations(table, image, number))
    labels = {
        "image_size": [{"width": width, "height": height, "depth": 3}],
        "annotations": boxes,
    }
    metadata = {
        "objects": [{"confidence": 1}] * len(boxes),
        _NAMES: names,
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": "2000-01-01T00:00:00",
        "job-name": "dh",
    }
    return {_SOURCE: f"images/{name}", _JOB: labels, f"{_JOB}{_METADATA}": metadata}


def _annotations(
    table: DetectionTable, image: int, number: Mapping[str, int]
) -> Iterator[dict[str, Any]]:
    for row in rows_of(table, image, regions=False):
        sides = dict(zip(_SIDES, to_xywh(row.box), strict=True))
        yield {"class_id": number[row.name], **sides}


LAYOUT = FilePerSplit("*.manifest with source-ref and annotations", _SUFFIXES, _is_manifest)
FORMAT = Format("SageMaker Ground Truth", LAYOUT, read_ground_truth, write_ground_truth, HOLDS)

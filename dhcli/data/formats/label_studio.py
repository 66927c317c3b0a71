"""Label Studio: a JSON list of tasks with their annotations, or the short list, JSON_MIN.

`[{"data": {"image": …}, "annotations": [{"result": [{"type": "rectanglelabels", "value": …}]}]}]`;
older files say `completions`. Rectangles are read, turned ones, polygons and ellipses as the box
around them; brushes, points and all else are left out, counted. Choices of a region called
difficult, truncated, occluded, crowd or ignore are marks, `score` is a score. Of several labels of
a region the first counts; a region without is called `object`.

Of several annotations of a task the first counts, skipped ones (`was_cancelled`) left out. A task
without annotation is not annotated and is left out. Predictions are left out. All that is counted.

Images are found by the longest ends of their addresses (`/data/upload/1/…`, `?d=…`, `s3://…`), with
and without what Label Studio puts before the names of uploads (`1a2b3c4d-`).

Written: `label_studio.json` with paths from its folder; Label Studio wants
`/data/local-files/?d=…` before them. A file a split (`label_studio_train.json`).

Pixels: percent of width and height. Classes: sorted by name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from dhcli.data.formats.addresses import locate_addresses
from dhcli.data.formats.boxes import Box, around_ellipse, from_xywh, hull
from dhcli.data.formats.columns import NO_NAME, Columns, class_of, flags_told, marks_of, side_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, rows_of, writing
from dhcli.data.formats.spellings import path_of
from dhcli.data.io.files import IMAGE_SUFFIXES
from dhcli.data.io.json_text import JsonText, begins_as
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import DetectionTable

HOLDS = Holds("percent of the image: x y width height", classes=False, fractions=True)

_TASKS = ("annotations", "completions")
_SHAPES = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "keypointlabels")
_NO_SHAPES = ("choices", "text", "rating", "taxonomy")
_ELLIPSE = ("x", "y", "radiusX", "radiusY")
_SIDES = ("x", "y", "width", "height")
_UPLOAD = re.compile(r"^(.*/)?[0-9a-f]{8}-(?=[^/]+$)")
_WHOLE = 100

_Point = tuple[float, float]


def is_label_studio(path: Path) -> bool:
    """Whether a file is a list of tasks, or of JSON_MIN."""
    if not begins_as(path, "["):
        return False
    if any(begins_as(path, "[", "data", key) for key in _TASKS):
        told = ("result", "predictions", "was_cancelled")
        return any(begins_as(path, "[", key) for key in told)
    return any(begins_as(path, "[", "original_width", shape) for shape in _SHAPES)


def read_label_studio(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    columns, document = Columns(root, path), JsonText(path)
    document.read_array(document.taking("a task", _Reader(columns).add, columns.refuse))
    columns.files, notes = locate_addresses(root, path, columns.files, _without_prefix)
    columns.notes += notes
    sizes = columns.sizes()
    boxes = columns.in_pixels(sizes)
    return columns.table(columns.classes_after(), boxes=boxes, sizes=sizes)


def _without_prefix(name: str) -> str:
    return _UPLOAD.sub(lambda found: found[1] or "", name)


class _Region(NamedTuple):
    """What the results of one region say together."""

    kind: str
    value: dict[str, Any]
    result: Mapping[str, Any]


class _Reader:
    """Turns tasks into columns, of boxes in fractions."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def add(self, task: dict[str, Any], line: int) -> None:
        """Add a task, or a row of JSON_MIN."""
        told = next((task[key] for key in _TASKS if key in task), None)
        if told is None and "data" not in task:
            self._add_image(task, _results_of_row(task), line)
            return
        results = self._chosen(told or ())
        if results is None:
            self._columns.counts["task without annotation: left out"] += 1
        else:
            self._add_image(task["data"], results, line)
        predictions = len(task.get("predictions") or ())
        self._columns.counts["prediction of a model: left out"] += predictions

    def _chosen(self, annotations: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]] | None:
        """The results of the annotation that counts; None where there is none."""
        done = [each for each in annotations if not each.get("was_cancelled")]
        counts = self._columns.counts
        counts["annotation cancelled (was_cancelled): left out"] += len(annotations) - len(done)
        counts["annotation of a task that has one already: left out"] += max(len(done) - 1, 0)
        return done[0].get("result") or () if done else None

    def _add_image(
        self, data: dict[str, Any], results: Sequence[dict[str, Any]], line: int
    ) -> None:
        regions = _regions(results)
        sized = next((r.result for r in regions if side_of(r.result.get("original_width"))), {})
        width, height = (
            side_of(sized.get(f"original_{side}") or data.get(side)) for side in _SIDES[2:]
        )
        before = len(self._columns.files)
        image = self._columns.image(_image_of(data), width, height)
        if image < before:
            what = "annotation of an image that has one already: left out"
            self._columns.counts[what] += 1
            return
        aspect = height / width if width and height else 0
        add = partial(self._add_region, line, image, aspect)
        self._columns.add_each("a result", line, image, regions, add)

    def _add_region(self, line: int, image: int, aspect: float, region: _Region) -> None:
        counts, value = self._columns.counts, region.value
        box = _box(value, aspect)
        if box is None:
            counts[f"result `{region.kind[:20]}`: left out"] += 1
            return
        is_turned = bool(number_of(value.get("rotation") or 0))
        if is_turned and not aspect:
            counts["box turned, in an image of unknown size: read as if it were square"] += 1
        elif is_turned or "points" in value or "radiusX" in value:
            what = "box turned" if "width" in value else f"shape `{region.kind[:20]}`"
            counts[f"{what}: read as the upright box around"] += 1
        marks = flags_told(dict.fromkeys(map(str, value.get("choices") or ()), True))
        score = region.result.get("score")
        self._columns.add(self._name(value), box, marks, line, image, score)

    def _name(self, value: Mapping[str, Any]) -> str:
        told = next((value[key] for key in value if key.endswith("labels") and value[key]), None)
        names = [told] if isinstance(told, str) else told
        if not names:
            self._columns.counts[f"region of no class: called `{NO_NAME}`"] += 1
            return NO_NAME
        self._columns.counts["region of several classes: the first is used"] += len(names) > 1
        return class_of(names[0])


def _results_of_row(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results that a row of JSON_MIN stands for: values in lists, under any name.

    There no id says which region a choice or a text is of: they are left out.
    """
    lists = (value for value in row.values() if isinstance(value, list))
    values = (value for each in lists for value in each if isinstance(value, dict))
    shapes = (value for value in values if not any(key in value for key in _NO_SHAPES))
    return [value | {"value": value} for value in shapes]


def _image_of(data: Mapping[str, Any]) -> str:
    """The path that a task's image is told by: in `image`, else the first that is one's."""
    if isinstance(data.get("image"), str) and (path := path_of(data["image"])):
        return path
    for path in (path_of(text) for text in data.values() if isinstance(text, str)):
        if path.lower().endswith(tuple(IMAGE_SUFFIXES)):
            return path
    raise KeyError("image")


def _regions(results: Sequence[dict[str, Any]]) -> list[_Region]:
    """The regions of an annotation: results with the same id are one, its box, label, choices."""
    regions: dict[str, _Region] = {}
    for number, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict):  # a relation of two regions
            continue
        key = str(result.get("id") or f"result {number}")
        kind = str(result.get("type") or next((k for k in value if k.endswith("labels")), ""))
        region = regions.setdefault(key, _Region(kind, {}, result))
        region.value.update(value)
    return list(regions.values())


def _box(value: Mapping[str, Any], aspect: float) -> Box | None:
    """The box around a shape in fractions of its image; None where it is no shape with an area.

    `aspect` is the height of the image over its width, 0 where that is not known.
    """
    if "points" in value:
        x1, y1, x2, y2 = hull(value["points"])
        return x1 / _WHOLE, y1 / _WHOLE, x2 / _WHOLE, y2 / _WHOLE
    angle, aspect = math.radians(number_of(value.get("rotation") or 0)), aspect or 1
    is_ellipse = "radiusX" in value and "radiusY" in value
    sides = _ELLIPSE if is_ellipse else _SIDES
    if not all(side in value for side in sides):
        return None
    x, y, width, height = (number_of(value[side]) / _WHOLE for side in sides)
    if is_ellipse:
        return _ellipse((x, y), width, height, angle, aspect)
    if angle:
        return _rectangle((x, y), width, height, angle, aspect)
    return from_xywh(x, y, width, height)


def _rectangle(corner: _Point, width: float, height: float, angle: float, aspect: float) -> Box:
    """The box around a rectangle turned about its upper left corner, clockwise."""
    cos, sin, tall = math.cos(angle), math.sin(angle), height * aspect
    corners = ((0.0, 0.0), (width, 0.0), (width, tall), (0.0, tall))
    return hull(
        (corner[0] + across * cos - down * sin, corner[1] + (across * sin + down * cos) / aspect)
        for across, down in corners
    )


def _ellipse(centre: _Point, rx: float, ry: float, angle: float, aspect: float) -> Box:
    """The box around an ellipse turned about its centre."""
    x, y = centre
    _, _, width, tall = around_ellipse(0.0, 0.0, rx, ry * aspect, angle)
    return x - width, y - tall / aspect, x + width, y + tall / aspect


def write_label_studio(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and a list of tasks a split."""
    placing.place("images")
    for split, images in placing.parts().items():
        name = f"label_studio_{split}.json" if split else "label_studio.json"
        rows = (json.dumps(_task(table, image, placing)) for image in writing(images.tolist()))
        lines = (f",\n{row}" if index else f"[\n{row}" for index, row in enumerate(rows))
        placing.write_lines(name, (*lines, "\n]\n") if len(images) else ("[]\n",))


def _task(table: DetectionTable, image: int, placing: Placing) -> dict[str, Any]:
    width, height = (max(side, 1) for side in table.sizes[image].tolist())
    data = {"image": f"images/{placing.names[image]}", "width": width, "height": height}
    results = list(_results(table, image, width, height))
    return {
        "id": image + 1,
        "annotations": [{"id": image + 1, "was_cancelled": False, "result": results}],
        "predictions": [],
        "data": data,
    }


def _results(
    table: DetectionTable, image: int, width: int, height: int
) -> Iterator[dict[str, Any]]:
    """The result of each box, and of its marks, if any, another of the same id."""
    for row in rows_of(table, image):
        x1, y1, x2, y2 = row.box
        numbers = (x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height)
        sides = zip(_SIDES, (number * _WHOLE for number in numbers), strict=True)
        shape = {**dict(sides), "rotation": 0}
        told: dict[str, Any] = {
            "id": f"box{row.number}",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "to_name": "image",
        }
        score = {} if row.score is None else {"score": row.score}
        label = {"from_name": "label", "type": "rectanglelabels"}
        yield told | label | {"value": shape | {"rectanglelabels": [row.name]}} | score
        if marks := marks_of(row.flags):
            choice = {"from_name": "marks", "type": "choices"}
            yield told | choice | {"value": shape | {"choices": marks}}


LAYOUT = FilePerSplit(
    "*.json, a list of tasks with data and annotations, or JSON_MIN", (".json",), is_label_studio
)
FORMAT = Format("Label Studio", LAYOUT, read_label_studio, write_label_studio, HOLDS)

"""VIA, the VGG Image Annotator: a file of images with regions, a project, or annotations alone.

JSON as versions 1 and 2 write it, or their CSV, and the projects of version 3; of these, files that
are shown together and regions of videos are left out, counted. Written as version 2 does.

Rectangles are read, and polygons, polylines, circles and ellipses as the boxes around them; points
and circles told by three points are left out, counted. The class is the region attribute called
class, label, name, type, category or object, else the first; of a checkbox, the first that is set.
A region without is called `object`. Attributes called difficult, truncated, occluded, crowd or
ignore are marks, `score` is a score. A file a split (`via_train.json`), or in folders called as
splits.

Pixels: from 0, the maximum excluded. Classes: as a project lists them, then by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.boxes import Box, around_ellipse, from_xywh, hull, to_xywh
from dhcli.data.formats.columns import MARKS, NO_NAME, Columns, class_of, flags_told, marks_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, Row, rows_of, writing
from dhcli.data.formats.via_project import Project, is_project
from dhcli.data.io.json_text import ODD, JsonText, begins_as, oddity
from dhcli.data.io.text_rows import first_row, header_of, number_of, read_rows
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError

HOLDS = Holds("from 0: x y width height", sizes=False, split_names="file")

_PROJECT = "_via_img_metadata"
_CLASS_KEYS = ("class", "label", "name", "type", "category", "object")
_IMAGE = ("filename", "regions")
_COLUMNS = ("filename", "regionshapeattributes", "regionattributes")
_REGION = ("shape_attributes", "region_attributes")
_NOT_CLASSES = frozenset((*MARKS, "score"))


def _is_via(path: Path) -> bool:
    if path.suffix.lower() == ".csv":
        return set(_COLUMNS) <= set(header_of(first_row(path)))
    return begins_as(path, "{", _PROJECT) or begins_as(path, "{", *_IMAGE) or is_project(path)


def read_via(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    columns = Columns(root, path)
    read = _read_rows if path.suffix.lower() == ".csv" else _read_json
    listed = read(path, columns)
    columns.locate()
    return columns.table(columns.classes_after(listed))


def _read_rows(path: Path, columns: Columns) -> list[str]:
    """Fill `columns` from a CSV of a region a row."""
    rows = read_rows(path)
    header = header_of(next(rows, (0, []))[1])
    for line, row in rows:
        try:
            told = dict(zip(header, row, strict=True))
            name, shape, attributes = (told[column] for column in _COLUMNS)
            region = dict(zip(_REGION, map(json.loads, (shape, attributes)), strict=True))
            regions = [region] if region[_REGION[0]] else []  # an image without
            _add_image(columns, {"filename": name, "regions": regions}, line)
        except RecursionError:
            columns.refuse(DataError("is nested too deep", where=f"{path}:{line}"))
        except ODD as error:
            columns.refuse(DataError(f"a region {oddity(error)}", where=f"{path}:{line}"))
    return []


def _read_json(path: Path, columns: Columns) -> list[str]:
    """Fill `columns` from a JSON file; return the classes that it lists."""
    if is_project(path):
        return _read_project(path, columns)
    document = JsonText(path)
    add = document.taking("an image", partial(_add_image, columns), columns.refuse)
    listed: list[str] = []
    if begins_as(path, "{", _PROJECT):
        project = document.read_object({_PROJECT: add})
        listed = _listed_classes(project.get("_via_attributes"))
    else:
        document.read_values(add)
    return listed


def _read_project(path: Path, columns: Columns) -> list[str]:
    """Fill `columns` from a project of version 3; return the classes that it lists."""
    project = Project(path, columns.refuse)
    for name in project.images.values():
        columns.image(name)
    for line, image, region in project.regions():
        if image is None:
            columns.counts["region of a video or of several images: left out"] += 1
            continue
        _add_image(columns, {"filename": image, "regions": [region]}, line)
    return _listed_classes({"region": project.attributes})


def _listed_classes(attributes: Any) -> list[str]:
    """The options of the attribute that tells the class."""
    try:
        region = attributes["region"]
        key = _class_key(region)
        return [class_of(name) for name in region[key]["options"]] if key else []
    except ODD:
        return []


def _class_key(attributes: Mapping[str, Any]) -> str | None:
    """The attribute that tells the class."""
    names = {name.lower(): name for name in _may_tell_class(attributes)}
    return next((names[key] for key in (*_CLASS_KEYS, *names) if key in names), None)


def _may_tell_class(attributes: Iterable[str]) -> list[str]:
    return [name for name in attributes if name.lower() not in _NOT_CLASSES]


def _add_image(columns: Columns, row: dict[str, Any], line: int) -> None:
    name = row["filename"]
    if not isinstance(name, str):
        raise TypeError("`filename` is not text")
    regions = row.get("regions") or ()
    each = list(regions.values() if isinstance(regions, dict) else regions)
    image = columns.image(name)
    columns.add_each("a region", line, image, each, partial(_add_region, columns, line, image))


def _add_region(columns: Columns, line: int, image: int, region: dict[str, Any]) -> None:
    shape, told = region["shape_attributes"], region.get("region_attributes") or {}
    box = _box(shape)
    kind = shape.get("name")
    if box is None:
        columns.counts[f"shape `{str(kind)[:20]}`: left out"] += 1
        return
    if kind != "rect":
        columns.counts[f"shape `{str(kind)[:20]}`: read as the box around"] += 1
    class_name = _class_name(columns, told)
    columns.add(class_name, box, flags_told(told), line, image, told.get("score"))


def _class_name(columns: Columns, attributes: Mapping[str, Any]) -> str:
    key, options = _class_key(attributes), _may_tell_class(attributes)
    value = attributes[key] if key else None
    if key and key.lower() not in _CLASS_KEYS and len(options) > 1:
        several = ", ".join(f"`{name}`" for name in options)
        columns.counts[f"region with attributes {several}: `{key}` is taken for the class"] += 1
    if isinstance(value, dict):  # a checkbox: name → whether it is set
        value = next((name for name, is_on in value.items() if is_on), None)
    if value in (None, ""):
        columns.counts[f"region of no class: called `{NO_NAME}`"] += 1
        return NO_NAME
    return class_of(value)


def _box(shape: Mapping[str, Any]) -> Box | None:
    """The box around a shape, None for a point."""
    kind = shape["name"]
    if kind == "rect":
        x, y, width, height = (number_of(shape[key]) for key in ("x", "y", "width", "height"))
        return from_xywh(x, y, width, height)
    if kind in ("polygon", "polyline"):
        return hull(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
    if kind not in ("circle", "ellipse"):
        return None
    x, y = number_of(shape["cx"]), number_of(shape["cy"])
    if kind == "circle":
        radius = number_of(shape["r"])
        return around_ellipse(x, y, radius, radius)
    rx, ry = number_of(shape["rx"]), number_of(shape["ry"])
    return around_ellipse(x, y, rx, ry, number_of(shape.get("theta") or 0))


def write_via(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and a VIA project a split."""
    placing.place("images")
    for split, images in placing.parts().items():
        name = f"via_{split}.json" if split else "via.json"
        placing.write_lines(name, _document(table, placing, split, images.tolist()))


def _document(
    table: DetectionTable, placing: Placing, split: str, images: list[int]
) -> Iterator[str]:
    """A project in pieces, an image a line."""
    core = {"buffer_size": 18, "filepath": {}, "default_filepath": "images/"}
    settings = {"core": core, "project": {"name": split or "dataset"}}
    region: dict[str, Any] = {
        "class": {
            "type": "dropdown",
            "description": "",
            "options": dict.fromkeys(table.classes, ""),
            "default_options": {},
        }
    }
    used = [name for name, flag in MARKS.items() if table.has(flag).any()]
    used += ["score"] if table.scores is not None else []
    region |= {name: {"type": "text", "description": "", "default_value": ""} for name in used}
    attributes = {"region": region, "file": {}}
    yield f'{{\n"_via_settings": {json.dumps(settings)},\n"{_PROJECT}": {{'
    keys = []
    for index, image in enumerate(writing(images)):
        name = placing.names[image]
        size = _bytes_of(table.path(image))
        keys.append(f"{name}{size}")
        regions = [_region(row) for row in rows_of(table, image)]
        told = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
        yield f"{',' if index else ''}\n{json.dumps(keys[-1])}: {json.dumps(told)}"
    yield f'\n}},\n"_via_attributes": {json.dumps(attributes)},\n'
    yield f'"_via_data_format_version": "2.0.10",\n"_via_image_id_list": {json.dumps(keys)}\n}}\n'


def _region(row: Row) -> dict[str, Any]:
    sides = zip(("x", "y", "width", "height"), to_xywh(row.box), strict=True)
    shape = {"name": "rect", **dict(sides)}
    told: dict[str, Any] = {"class": row.name} | dict.fromkeys(marks_of(row.flags), "1")
    if row.score is not None:
        told["score"] = row.score
    return {"shape_attributes": shape, "region_attributes": told}


def _bytes_of(path: Path) -> int:
    """The size of a file in bytes, -1 where it is not there, as VIA has it."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


LAYOUT = FilePerSplit(
    "*.json with regions and shape_attributes, or a project",
    (".json", ".csv"),
    _is_via,
    prefix="via_",
)
FORMAT = Format("VIA", LAYOUT, read_via, write_via, HOLDS)

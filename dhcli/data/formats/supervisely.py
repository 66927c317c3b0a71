"""Supervisely: `meta.json`, and one folder per dataset with `ann/NAME.json` beside `img/NAME`.

Rectangles are read, and polygons, lines and bitmaps as the boxes around them; other figures are
left out, counted. Tags called difficult, truncated, occluded, crowd or ignore are marks, `score` is
a score. Datasets called train, val or test are the splits; so are tags of images with these names.

Pixels: from 0, the maximum included, as Supervisely's own SDK has it: 1 is added to it.
Classes: in the order of `meta.json`.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.boxes import Box, add, from_xywh, hull
from dhcli.data.formats.columns import (
    DONT_CARE,
    MARKS,
    Columns,
    class_of,
    flags_told,
    marks_of,
    side_of,
)
from dhcli.data.formats.layouts import FilePerImage, Format, Part
from dhcli.data.formats.placing import Holds, Placing, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_SUFFIXES,
    FilesByStem,
    join_path,
    list_files,
    list_folders,
    split_folders,
    stem_of,
    usual_split,
)
from dhcli.data.io.json_text import ODD, JsonText, begins_as, oddity
from dhcli.data.io.progress import track
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import ANY_CLASS, DetectionTable
from dhcli.errors import DataError

HOLDS = Holds("from 0, maximum included", splits=False)

_META = "meta.json"
_OUTLINES = ("rectangle", "polygon", "line", "polyline")
_SPLIT_TAGS = ("train", "val", "test")
_PNG_HEAD = 24
_LOOK_AT = 20
_SHORTEST_BITMAP = 4096


def _is_annotation(path: Path) -> bool:
    return begins_as(path, "{", "objects", "size")


def _parts(root: Path) -> list[Part]:
    """The datasets in `root`, itself among them: the folders that have `ann`."""
    splits = {folder: split for split, folder in split_folders(root)}
    found = []
    is_ours = False
    for folder in (".", *list_folders(root)):
        place = root / folder / "ann"
        names = list_files(place, ".json")
        if names:
            is_ours = is_ours or any(_is_annotation(place / name) for name in names[:_LOOK_AT])
            places = join_path(folder, "ann"), join_path(folder, "img")
            found.append(Part(splits.get(folder, ""), *places))
    return found if is_ours else []


def _around(path: Path) -> tuple[Path, list[Part]]:
    return path.parent.parent, [Part("", path.parent.name, "img", [path.name])]


def read_supervisely(root: Path, parts: list[Part]) -> DetectionTable:
    """Read annotation files. Raises DataError with the file and line of what cannot be read."""
    reader = _Reader(root)
    for part in parts:
        reader.read_part(part)
    return reader.columns.table(reader.columns.classes_after(_meta_classes(root)))


def _meta_classes(root: Path) -> list[str]:
    """Titles of the classes in meta.json, here or one folder up; [] where there is none."""
    file = next((p for p in (root / _META, root.parent / _META) if p.is_file()), None)
    if file is None:
        return []
    rows: list[tuple[Any, int]] = []
    document = JsonText(file)
    document.read_object({"classes": lambda row, start, _: rows.append((row, start))})
    try:
        return [class_of(row["title"]) for row, _ in rows]
    except ODD as error:
        raise document.fail(f"a class {oddity(error)}", rows[0][1]) from None


class _Reader:
    """Reads annotation files into columns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.columns = Columns(root)
        self._images: dict[str, FilesByStem] = {}

    def read_part(self, part: Part) -> None:
        """Read the annotation files of a dataset."""
        for name in track(part.files(self.root, ".json"), "annotation files read"):
            before = len(self.columns.labels)
            try:
                number = self._read(part, name)
            except DataError as error:
                self.columns.refuse_file(error, before)
                continue
            if part.split:
                self.columns.splits[part.split].append(number)

    def _read(self, part: Part, name: str) -> int:
        """Read one annotation file; return the number of its image."""
        document = JsonText(self.root / part.labels / name)
        if '"objects"' not in document.text:
            raise document.fail("has no `objects`", document.start)
        coming = len(self.columns.files)  # the file may tell of the image behind its objects
        refuse = partial(self.columns.refuse, image=coming)
        objects = document.taking("an object", partial(self._add, coming), refuse)
        head = document.read_object({"objects": objects})
        size = head.get("size")
        width, height = (
            side_of(size.get(side) if isinstance(size, dict) else 0) for side in ("width", "height")
        )
        try:
            tags = _tags(head)
        except ODD as error:
            raise document.fail(f"a tag of the image {oddity(error)}", document.start) from None
        file = f"{part.images}/{self._image_of(part.images, name[: -len('.json')])}"
        number = self.columns.add_image(file, width, height, f"{part.labels}/{name}")
        for tag in set(map(usual_split, tags)) & set(_SPLIT_TAGS):
            self.columns.splits[tag].append(number)
        return number

    def _image_of(self, folder: str, said: str) -> str:
        """The name of an image that an annotation is called after, at times without the suffix."""
        if (self.root / folder / said).is_file():
            return said
        if folder not in self._images:
            self._images[folder] = FilesByStem(self.root / folder, *IMAGE_SUFFIXES)
        return self._images[folder].find(stem_of(said)) or said

    def _add(self, image: int, told: dict[str, Any], line: int) -> None:
        kind = told.get("geometryType") or ("bitmap" if told.get("bitmap") else "rectangle")
        box = _box(kind, told)
        if box is None:
            self.columns.counts[f"figure `{str(kind)[:20]}`: left out"] += 1
            return
        if kind != "rectangle":
            self.columns.counts[f"figure `{kind}`: read as the box around"] += 1
        name, tags = class_of(told["classTitle"]), _tags(told)
        marks = flags_told(dict.fromkeys(tags, True))
        self.columns.add(name, box, marks, line, image, tags.get("score"))


def _tags(told: dict[str, Any]) -> dict[str, Any]:
    """Names of the tags of an image or object, and their values."""
    tags = told.get("tags")
    pairs = (
        (tag.get("name"), tag.get("value")) if isinstance(tag, dict) else (tag, None)
        for tag in (tags if isinstance(tags, list) else ())
    )
    return {str(name): value for name, value in pairs}


def _box(kind: Any, told: dict[str, Any]) -> Box | None:
    """The box around a figure, its maximum excluded; None if it has none."""
    if kind in _OUTLINES:
        x1, y1, x2, y2 = hull(told["points"]["exterior"])
        return x1, y1, add(x2, 1), add(y2, 1)
    if kind != "bitmap":
        return None
    x, y = map(number_of, told["bitmap"]["origin"])
    width, height = _bitmap_size(told["bitmap"]["data"])
    return from_xywh(x, y, width, height)


def _bitmap_size(data: str) -> tuple[int, int]:
    """Width and height of a bitmap, from the head of the PNG that it is; no more is unpacked."""
    packed = base64.b64decode(data[:_SHORTEST_BITMAP], validate=False)
    try:
        head = zlib.decompressobj().decompress(packed, _PNG_HEAD)
    except zlib.error as error:
        raise ValueError(f"a bitmap: {error}") from None
    if len(head) < _PNG_HEAD or not head.startswith(b"\x89PNG"):
        raise ValueError("a bitmap that is not a PNG")
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


def write_supervisely(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as a project, one dataset per split."""
    folders = [split or "dataset" for split in placing.split_of_images()]
    placing.place([f"{folder}/img" for folder in folders])
    placing.write(_META, json.dumps(_meta(table), ensure_ascii=False, indent=1))
    for image, (folder, name) in enumerate(zip(folders, writing(placing.names), strict=True)):
        width, height = table.sizes[image].tolist()
        told = {
            "description": "",
            "tags": [],
            "size": {"height": height, "width": width},
            "objects": list(_objects(table, image)),
        }
        placing.write(f"{folder}/ann/{name}.json", json.dumps(told, ensure_ascii=False))


def _meta(table: DetectionTable) -> dict[str, Any]:
    names = [*table.classes, *([DONT_CARE] if (table.labels == ANY_CLASS).any() else [])]
    marks = [name for name, flag in MARKS.items() if table.has(flag).any()]
    tags = [{"name": name, "value_type": "none", "color": _colour(name)} for name in marks]
    if table.scores is not None:
        tags.append({"name": "score", "value_type": "any_number", "color": _colour("score")})
    classes = [{"title": name, "shape": "rectangle", "color": _colour(name)} for name in names]
    return {"classes": classes, "tags": tags}


def _colour(name: str) -> str:
    """A colour that stays with a name."""
    return f"#{zlib.crc32(name.encode('utf-8', 'replace')) & 0xFFFFFF:06X}"


def _objects(table: DetectionTable, image: int) -> Iterator[dict[str, Any]]:
    for row in rows_of(table, image):
        x1, y1, x2, y2 = row.box
        tags: list[dict[str, Any]] = [{"name": m, "value": None} for m in marks_of(row.flags)]
        if row.score is not None:
            tags.append({"name": "score", "value": row.score})
        yield {
            "description": "",
            "tags": tags,
            "geometryType": "rectangle",
            "classTitle": row.name,
            "points": {"exterior": [[x1, y1], [x2 - 1, y2 - 1]], "interior": []},
        }


LAYOUT = FilePerImage("ann/*.json beside img/, below a meta.json", _is_annotation, _parts, _around)
FORMAT = Format("Supervisely", LAYOUT, read_supervisely, write_supervisely, HOLDS)

"""LabelMe: one JSON file per image, beside it or in a folder of its own.

Rectangles, polygons, circles and masks are read, all as the box around them; points and lines have
none and are left out, counted. Shapes of one label and `group_id` are parts of one object: one box
around all. A shape's `flags`, and X-AnyLabeling's `attributes`, called difficult, truncated,
occluded, crowd or ignore are marks, its `score` is a score. Folders called train, val or test are
the splits.

The image is the one that `imagePath` names, else the one called as the file; this one too where the
other has a file of its own name, as after renaming. A second file of an image is an error of it.

An image without a file is not annotated and is left out, counted.

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dhcli.data.formats.boxes import Box, hull
from dhcli.data.formats.columns import Columns, class_of, flags_told, marks_of, side_of
from dhcli.data.formats.layouts import FilePerImage, Format, Part, folders_beside
from dhcli.data.formats.placing import Holds, Placing, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    confine,
    find_folders,
    first_folder,
    join_path,
    list_files,
    split_folders,
    stem_of,
)
from dhcli.data.io.json_text import JsonText, begins_as
from dhcli.data.io.progress import track
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError
from dhcli.words import named

HOLDS = Holds("from 0, maximum excluded", classes=False, splits=False)

_FOLDERS = (".", "annotations", "labels", "json")
_LOOK_AT = 5
_NO_AREA = ("point", "line", "linestrip", "points")


def _is_labelme(path: Path) -> bool:
    return begins_as(path, "{", "shapes") and (
        begins_as(path, "{", "imagePath") or begins_as(path, "{", "imageData")
    )


def read_labelme(root: Path, parts: list[Part]) -> DetectionTable:
    """Read JSON files.

    Raises DataError with the file and line of what cannot be read, or where every image is within
    its file alone.
    """
    reader = _Reader(root, Columns(root))
    left = folders_beside(root, parts, ".json")
    reader.columns.left_out["folder of JSON files beside those of the splits: left out"] += left
    for part in parts:
        start = len(reader.columns.files)
        reader.read_folder(part.labels, part.images, part.files(root, ".json"))
        reader.columns.end_split(part.split, start)
    reader.look_inside()
    return reader.columns.table(reader.columns.classes_after())


def _parts(root: Path) -> list[Part]:
    """Where such files lie."""
    found = []
    for split, base in [("", "."), *split_folders(root)]:
        options = [join_path(base, folder) for folder in _FOLDERS]
        folder = next((f for f in find_folders(root, options) if _holds_some(root / f)), None)
        if folder is not None:
            found.append(Part(split, folder, _images(root, base, folder)))
    return found


def _images(root: Path, base: str, folder: str) -> str:
    """Where the images lie of files in `folder`: there, or elsewhere in `base`."""
    beside = [folder, *(join_path(base, name) for name in (".", *IMAGE_FOLDERS))]
    return first_folder(root, beside, *IMAGE_SUFFIXES) or folder


def _around(path: Path) -> tuple[Path, list[Part]]:
    root = path.parent
    return root, [Part("", ".", _images(root, ".", "."), [path.name])]


def _holds_some(folder: Path) -> bool:
    return any(_is_labelme(folder / name) for name in list_files(folder, ".json")[:_LOOK_AT])


class _Reader:
    """Reads the JSON files of a folder into columns."""

    def __init__(self, root: Path, columns: Columns) -> None:
        self.root = root
        self.columns = columns
        self.inside: list[str] = []  # files whose images lie nowhere else
        self._names: frozenset[str] = frozenset()  # of the files in the folder
        self._file_of: dict[str, str] = {}  # image → the one of them that tells of it

    def look_inside(self) -> None:
        """Raise DataError where every image is within its file alone; note where some are."""
        if self.inside and len(self.inside) == len(self.columns.files):
            folder = self.root / self.inside[0].rpartition("/")[0]
            raise DataError(
                "has its images inside the JSON files alone (`imageData`)",
                where=self.root,
                hint=f"put them beside: {unpacking(folder)}",
            )
        if self.inside:
            what = "image inside its JSON file alone (`imageData`), to be put beside it"
            self.columns.notes.append(named(self.inside, what))

    def read_folder(self, folder: str, place: str, names: Sequence[str]) -> None:
        """Read the files `names` in `folder`, of images in `place`."""
        images, used = FilesByStem(self.root / place, *IMAGE_SUFFIXES), set()
        self._names, self._file_of = frozenset(names), {}
        for name in track(names, "annotation files read"):
            before = len(self.columns.labels)
            try:
                used.add(self._read(folder, name, place, images))
            except DataError as error:
                found = images.find(name[: -len(".json")])
                used.add(found and join_path(place, found))
                self.columns.refuse_file(error, before)
        unused = sorted({join_path(place, name) for name in images.values()} - used)
        if len(names) > 1:
            self.columns.left_out["image without annotation file: left out"] += unused

    def _read(self, folder: str, name: str, place: str, images: FilesByStem) -> str | None:
        """Read a file; return its image, None where it is not of LabelMe."""
        annotation = join_path(folder, name)
        document = JsonText(self.root / annotation)
        if '"shapes"' not in document.text:
            if images.find(name[: -len(".json")]):
                document.read_object({})  # raises where it is cut short, or no JSON at all
            self.columns.left_out["file without `shapes`, not of LabelMe: left out"].append(name)
            return None
        refuse = partial(self.columns.refuse, image=len(self.columns.files))
        head = document.read_object({"shapes": document.taking("a shape", self._add, refuse)})
        file = self._image_of(str(head.get("imagePath") or ""), folder, name, place, images)
        before = self._file_of.setdefault(file, name)
        if before != name:
            raise self._twice(annotation, file, before)
        if head.get("imageData") and not (self.root / file).is_file():
            self.inside.append(annotation)
        width, height = (side_of(head.get(side)) for side in ("imageWidth", "imageHeight"))
        self.columns.add_image(file, width, height, annotation)
        return file

    def _image_of(self, said: str, folder: str, name: str, place: str, images: FilesByStem) -> str:
        """The image of the file `name`, whose `imagePath` is `said`.

        Where that image has a file called as it, `said` is old, as after renaming: the image
        called as the file `name` counts. Raises DataError where there is none such.
        """
        stem = name[: -len(".json")]
        own = images.find(stem)
        file = confine(said, "" if folder == "." else folder)
        if file is None or not (self.root / file).is_file():
            suffix = Path(said[-80:].replace("\\", "/")).suffix.lower()
            suffix = suffix if suffix in IMAGE_SUFFIXES else ".jpg"
            found = own or images.find(stem_of(said))
            return join_path(place, found) if found else join_path(folder, stem + suffix)
        other = f"{stem_of(file)}.json"
        if other == name or other not in self._names:
            return file
        if own is None:
            raise self._twice(join_path(folder, name), file, other)
        what = "file whose `imagePath` has a file of its own: read for the image of its name"
        self.columns.left_out[what].append(name)
        return join_path(place, own)

    def _twice(self, annotation: str, image: str, other: str) -> DataError:
        what = f"is of the image {image}, as {other} is"
        return DataError(what, where=self.root / annotation)

    def _add(self, shape: dict[str, Any], line: int) -> None:
        kind = shape.get("shape_type") or "polygon"
        if kind in _NO_AREA:
            self.columns.counts["point or line: left out"] += 1
            return
        box = _circle(shape["points"]) if kind == "circle" else hull(shape["points"])
        self.columns.counts[f"shape `{kind}`: read as the box around"] += kind != "rectangle"
        name, group = class_of(shape["label"]), shape.get("group_id")
        told = {"difficult": shape.get("difficult")} | (shape.get("attributes") or {})
        marks = flags_told(told | (shape.get("flags") or {}))
        coming = len(self.columns.files)  # the file tells of the image behind its shapes
        self.columns.add(name, box, marks, line, coming, shape.get("score"), group)


def unpacking(folder: Path) -> str:
    """The command that puts the images of the JSON files in a folder beside them."""
    code = (
        "import base64, json, pathlib, sys; "
        '[f.with_suffix(pathlib.PureWindowsPath(d.get("imagePath") or "").suffix or ".png")'
        '.write_bytes(base64.b64decode(d["imageData"])) '
        'for f in pathlib.Path(sys.argv[1]).glob("*.json") '
        'for d in [json.loads(f.read_text("utf-8"))] if d.get("imageData")]'
    )
    return shlex.join(["python3", "-c", code, str(folder)])


def _circle(points: Any) -> Box:
    """The box around a circle told as its centre and a point on it."""
    (x, y), (edge_x, edge_y) = ((number_of(x), number_of(y)) for x, y in points)
    radius = math.hypot(edge_x - x, edge_y - y)
    return x - radius, y - radius, x + radius, y + radius


def write_labelme(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images with their JSON files beside them, one folder per split."""
    folders = [split or "." for split in placing.split_of_images()]
    placing.place(folders)
    for image, (folder, name) in enumerate(zip(folders, writing(placing.names), strict=True)):
        width, height = table.sizes[image].tolist()
        told = {
            "version": "5.2.1",
            "flags": {},
            "shapes": list(_shapes(table, image)),
            "imagePath": name,
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        text = json.dumps(told, indent=2, ensure_ascii=False)
        placing.write(f"{folder}/{stem_of(name)}.json", text)


def _shapes(table: DetectionTable, image: int) -> Iterator[dict[str, Any]]:
    for row in rows_of(table, image):
        shape = {
            "label": row.name,
            "points": [row.box[:2], row.box[2:]],
            "group_id": None,
            "shape_type": "rectangle",
            "flags": dict.fromkeys(marks_of(row.flags), True),
        }
        yield shape if row.score is None else shape | {"score": row.score}


LAYOUT = FilePerImage(
    "*.json with shapes and imagePath, one per image", _is_labelme, _parts, _around
)
FORMAT = Format("LabelMe", LAYOUT, read_labelme, write_labelme, HOLDS)

"""CVAT's XML 1.1: `annotations.xml` of images with shapes, or of tracks through frames.

Boxes are read, and polygons, polylines, ellipses, masks and cuboids as the boxes around them;
points and skeletons are left out, counted. Shapes of one label and `group_id` in an image are parts
of one object: one box around all. `occluded` is a mark, and so are attributes called difficult,
truncated, crowd or ignore; an attribute `score` is a score. The `subset` of an image is its split.
Of a track, the frames that the file tells of are read, those `outside` left out; its number is
kept. A frame is the image with its number in the name, else that at its place by name.

Pixels: from 0, the maximum excluded. Classes: in the order of the labels.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

from dhcli.data.formats.boxes import Box, around_ellipse, from_xywh, hull, turned
from dhcli.data.formats.columns import (
    DONT_CARE,
    MARKS,
    NO_TRACK,
    Columns,
    class_of,
    flags_told,
    is_set,
    marks_of,
    side_of,
    tracks_of,
    whole_or,
)
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    confine,
    first_folder,
    join_path,
    list_images,
    read_head,
    usual_split,
)
from dhcli.data.io.json_text import ODD, oddity
from dhcli.data.io.text_rows import number_of
from dhcli.data.io.xml_text import XmlReader, escape_xml
from dhcli.data.table import ANY_CLASS, DetectionTable

HOLDS = Holds("from 0, maximum excluded", splits=False, split_names="any")

_ROOT_TAG = re.compile(r"<annotations[\s>]")
_SHAPES = frozenset(
    ("box", "polygon", "polyline", "ellipse", "mask", "cuboid", "points", "skeleton")
)
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_FRAME = re.compile(r"(\d+)\D*$")
_NO_IMAGE = -1
_MOST_FRAMES = 10_000_000
_NO_SUBSET = ("", "default")


def _is_cvat(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and _ROOT_TAG.search(read_head(path, 4096)) is not None


def read_cvat(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    reader = _Reader(root, path)
    reader.parse()
    columns = reader.columns
    columns.locate()
    return columns.table(columns.classes_after(reader.labels), extras=tracks_of(reader.tracks))


class _Reader(XmlReader):
    """Takes the elements of a file, outermost first, and fills columns."""

    def __init__(self, root: Path, path: Path) -> None:
        super().__init__(path)
        self.columns = Columns(root, path)
        self.tracks = array("q")
        self.labels: list[str] = []
        self._root = root
        self._frames = _frame_names(root, path)
        self._open: list[str] = []
        self._size = {"width": "", "height": ""}
        self._image = 0
        self._track: dict[str, str] = {}
        self._shape: dict[str, str] = {}
        self._marks: dict[str, str] = {}
        self._mark = ""

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        self.said.clear()
        if not self._open and tag != "annotations":
            raise self.fail(f"begins with <{tag[:40]}>, not <annotations>")
        self._open.append(tag)
        if tag == "image" and len(self._open) == 2:
            self._begin_image(attributes)
        elif tag == "track" and len(self._open) == 2:
            self._track = attributes
        elif tag in _SHAPES and len(self._open) == 3:
            self._shape, self._marks = attributes, {}
        elif tag == "attribute":
            self._mark = attributes.get("name", "")

    def end(self, tag: str) -> None:
        text = "".join(self.said).strip()
        self.said.clear()
        within = self._open[:-1]
        self._open.pop()
        if tag in _SHAPES and len(within) == 2:
            try:
                self._add(tag)
            except ODD as error:
                image = None if self._track else self._image
                self.columns.refuse(self.fail(f"a <{tag}> {oddity(error)}"), image)
        elif tag == "track":
            self._track = {}
        elif tag == "attribute" and within[-1:] != ["attributes"]:
            self._marks[self._mark] = text
        elif tag == "name" and within[-1:] == ["label"]:
            self.labels.append(text)
        elif tag in self._size and within[-1:] == ["original_size"]:
            self._size[tag] = text

    def _begin_image(self, told: dict[str, str]) -> None:
        if "name" not in told:
            self._image = _NO_IMAGE
            self.columns.refuse(self.fail("an <image> has no `name`"))
            return
        width, height = side_of(told.get("width")), side_of(told.get("height"))
        subset = told.get("subset", "")
        inside = confine(f"{subset}/{told['name']}", "images")
        within = inside is not None and (self._root / inside).is_file()  # as projects have it
        name = f"{subset}/{told['name']}" if within else told["name"]
        self._image = self.columns.add_image(name, width, height)
        if subset.lower() not in _NO_SUBSET:
            self.columns.splits[usual_split(subset)].append(self._image)

    def _add(self, tag: str) -> None:
        shape = self._shape
        if self._track and is_set(shape.get("outside", "0")):
            return
        if not self._track and self._image == _NO_IMAGE:
            return
        box = _box(tag, shape)
        if box is None:
            self.columns.counts[f"shape <{tag}>: left out"] += 1
            return
        if tag != "box" or number_of(shape.get("rotation", 0)):
            what = f"<{tag}>" if tag != "box" else "<box>, turned"
            self.columns.counts[f"shape {what}: read as the box around"] += 1
        name = class_of((self._track or shape)["label"])
        flags = flags_told(self._marks | {"occluded": shape.get("occluded", "0")})
        image = self._frame(shape["frame"]) if self._track else self._image
        group, score = _group_of(self._track or shape), self._marks.get("score")
        if self.columns.add(name, box, flags, self.line, image, score, group):
            self.tracks.append(whole_or(self._track.get("id"), NO_TRACK))

    def _frame(self, told: str) -> int:
        """The image of a frame; with the first, all that lie there."""
        number = int(told)
        if not 0 <= number < _MOST_FRAMES:
            raise ValueError(f"frame {told[:20]}")
        width, height = (side_of(self._size[side]) for side in ("width", "height"))
        if not self.columns.files:
            for name in self._frames.values():
                self.columns.image(name, width, height)
        name = self._frames.get(number, f"frame_{number:06d}.png")
        return self.columns.image(name, width, height)


def _group_of(told: dict[str, str]) -> str:
    """The group that a shape or track is in, "" for none, which CVAT also calls 0."""
    group = told.get("group_id") or told.get("group") or ""
    return "" if group == "0" else group


def _frame_names(root: Path, path: Path) -> dict[int, str]:
    """Frame number → image, of the folder of images of a video."""
    here = path.parent.relative_to(root).as_posix()
    options = [join_path(here, name) for name in IMAGE_FOLDERS]
    folder = first_folder(root, options, *IMAGE_SUFFIXES)
    names = list_images(root / folder) if folder else []
    found = [_FRAME.search(Path(name).stem) for name in names]
    numbers = [int(match[1][-9:]) for match in found if match]
    if len(set(numbers)) < len(names):
        return dict(enumerate(names))
    return dict(sorted(zip(numbers, names, strict=True)))


def _box(tag: str, shape: dict[str, str]) -> Box | None:
    """The box around a shape, None if it has none."""
    if tag == "box":
        x1, y1, x2, y2 = (number_of(shape[side]) for side in _CORNERS)
        turn = _turn(shape)
        return (x1, y1, x2, y2) if not turn else turned((x1, y1, x2, y2), turn)
    if tag in ("polygon", "polyline"):
        return hull(point.split(",") for point in shape["points"].split(";"))
    if tag == "ellipse":
        x, y, rx, ry = (number_of(shape[key]) for key in ("cx", "cy", "rx", "ry"))
        return around_ellipse(x, y, rx, ry, _turn(shape))
    if tag == "mask":
        x, y, width, height = (number_of(shape[key]) for key in ("left", "top", "width", "height"))
        return from_xywh(x, y, width, height)
    if tag == "cuboid":
        corners = [key[1:] for key in shape if key.startswith("x") and f"y{key[1:]}" in shape]
        return hull((shape[f"x{corner}"], shape[f"y{corner}"]) for corner in corners)
    return None


def _turn(shape: dict[str, str]) -> float:
    """By how many radians a shape is turned about its centre."""
    return math.radians(number_of(shape.get("rotation", 0)))


def write_cvat(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and annotations.xml, in the style of images."""
    placing.place("images")
    placing.write_lines("annotations.xml", _document(table, placing))


def _document(table: DetectionTable, placing: Placing) -> Iterator[str]:
    yield '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    yield from _labels(table)
    subsets = placing.split_of_images()
    for image, (name, subset) in enumerate(zip(writing(placing.names), subsets, strict=True)):
        width, height = table.sizes[image].tolist()
        split = f" subset={_attribute(subset)}" if subset else ""
        size = f'width="{width}" height="{height}"'
        yield f'  <image id="{image}" name={_attribute(name)}{split} {size}>\n'
        for row in rows_of(table, image):
            yield _box_xml(row)
        yield "  </image>\n"
    yield "</annotations>\n"


def _labels(table: DetectionTable) -> Iterator[str]:
    """What a task tells of its labels, with the attributes that are used."""
    named = {name: "checkbox" for name, flag in MARKS.items() if table.has(flag).any()}
    named.pop("occluded", None)  # which has a place of its own
    named |= {"score": "text"} if table.scores is not None else {}
    yield f"  <meta>\n    <task>\n      <size>{len(table)}</size>\n      <labels>\n"
    names = [*table.classes, *([DONT_CARE] if (table.labels == ANY_CLASS).any() else [])]
    for name in names:
        yield f"        <label>\n          <name>{escape_xml(name)}</name>\n"
        yield "          <attributes>\n"
        for attribute, kind in named.items():
            default = "false" if kind == "checkbox" else ""
            yield (
                f"            <attribute><name>{attribute}</name><mutable>False</mutable>"
                f"<input_type>{kind}</input_type><default_value>{default}</default_value>"
                f"<values>{default}</values></attribute>\n"
            )
        yield "          </attributes>\n        </label>\n"
    yield "      </labels>\n    </task>\n  </meta>\n"


def _box_xml(row: Row) -> str:
    marks = marks_of(row.flags)
    told = {name: "true" for name in marks if name != "occluded"}
    told |= {} if row.score is None else {"score": decimal(row.score)}
    sides = zip(_CORNERS, map(decimal, row.box), strict=True)
    corners = " ".join(f'{side}="{value}"' for side, value in sides)
    head = f'label={_attribute(row.name)} occluded="{int("occluded" in marks)}" source="manual"'
    attributes = "".join(
        f'      <attribute name="{name}">{value}</attribute>\n' for name, value in told.items()
    )
    return f'    <box {head} {corners} z_order="0">\n{attributes}    </box>\n'


def _attribute(text: str) -> str:
    quoted = escape_xml(text).replace('"', "&quot;").replace("\n", "&#10;").replace("\t", "&#9;")
    return f'"{quoted}"'


LAYOUT = FilePerSplit("annotations.xml with <annotations>", (".xml",), _is_cvat)
FORMAT = Format("CVAT", LAYOUT, read_cvat, write_cvat, HOLDS)

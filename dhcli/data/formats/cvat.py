"""CVAT's XML 1.1: `annotations.xml` of images with shapes, or of tracks through frames.

Boxes are read, and polygons, polylines, ellipses, masks and cuboids as the boxes around them;
points and skeletons are left out, counted. `occluded` is a mark, and so are attributes called
difficult, truncated, crowd or ignore; an attribute `score` is a score. The `subset` of an image is
its split. Of a track, the frames that the file tells of are read, those `outside` left out; its
number is kept. A frame is the image with its number in the name, else that at its place by name.

Pixels: from 0, the maximum excluded. Classes: in the order of the labels.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path

from dhcli.data.formats.columns import (
    DONT_CARE,
    MARKS,
    NO_TRACK,
    Columns,
    class_of,
    flags_told,
    hull,
    is_set,
    marks_of,
    number_of,
    side_of,
    tracks_of,
    whole_or,
)
from dhcli.data.formats.format import Format
from dhcli.data.formats.locate import find_files, locate_images, read_as_splits
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    confine,
    first_folder,
    join_path,
    list_images,
    read_head,
)
from dhcli.data.io.json_text import ODD, oddity
from dhcli.data.io.xml_text import escape_xml, parse_xml
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError

LOOKS_FOR = "annotations.xml with <annotations> (CVAT)"
HOLDS = Holds("from 0, maximum excluded", splits=False)

_ROOT_TAG = re.compile(r"<annotations[\s>]")
_SHAPES = frozenset(
    ("box", "polygon", "polyline", "ellipse", "mask", "cuboid", "points", "skeleton")
)
_CORNERS = ("xtl", "ytl", "xbr", "ybr")
_FRAME = re.compile(r"(\d+)\D*$")
_MOST_FRAMES = 10_000_000
_NO_SUBSET = ("", "default")


def sniff_cvat(path: Path) -> bool:
    """Whether `path` is such a file, or a folder with some."""
    return _is_cvat(path) if path.is_file() else bool(find_files(path, ".xml", _is_cvat))


def _is_cvat(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and _ROOT_TAG.search(read_head(path, 4096)) is not None


def read_cvat(path: Path) -> DetectionTable:
    """Read one file, or all in a folder as splits.

    Raises DataError with the file and line of what cannot be read.
    """
    files = [] if path.is_file() else find_files(path, ".xml", _is_cvat)
    return read_as_splits(path, files, _read_file, LOOKS_FOR, "CVAT")


def _read_file(root: Path, path: Path) -> DetectionTable:
    reader = _Reader(root, path)
    parse_xml(path, reader.begin, reader.end)
    columns = reader.columns
    columns.files, notes = locate_images(root, path, columns.files)
    return columns.table(
        root,
        columns.classes_after(reader.labels),
        extras=tracks_of(reader.tracks),
        format="cvat",
        notes=tuple(notes),
    )


class _Reader:
    """Takes the elements of a file, outermost first, and fills columns."""

    def __init__(self, root: Path, path: Path) -> None:
        self.columns = Columns()
        self.tracks = array("q")
        self.labels: list[str] = []
        self._root, self._path = root, path
        self._annotation = path.relative_to(root).as_posix()
        self._frames = _frame_names(root, path)
        self._open: list[str] = []
        self._size = {"width": "", "height": ""}
        self._image = 0
        self._track: dict[str, str] = {}
        self._shape: dict[str, str] = {}
        self._marks: dict[str, str] = {}
        self._mark = ""

    def begin(self, tag: str, attributes: dict[str, str], line: int) -> None:
        """Take the beginning of an element."""
        if not self._open and tag != "annotations":
            what = f"begins with <{tag[:40]}>, not <annotations>"
            raise DataError(what, where=f"{self._path}:{line}")
        self._open.append(tag)
        if tag == "image" and len(self._open) == 2:
            self._begin_image(attributes, line)
        elif tag == "track" and len(self._open) == 2:
            self._track = attributes
        elif tag in _SHAPES and len(self._open) == 3:
            self._shape, self._marks = attributes, {}
        elif tag == "attribute":
            self._mark = attributes.get("name", "")

    def end(self, tag: str, text: str, line: int) -> None:
        """Take the end of an element."""
        within = self._open[:-1]
        self._open.pop()
        if tag in _SHAPES and len(within) == 2:
            try:
                self._add(tag, line)
            except ODD as error:
                where = f"{self._path}:{line}"
                raise DataError(f"a <{tag}> {oddity(error)}", where=where) from None
        elif tag == "track":
            self._track = {}
        elif tag == "attribute" and within[-1:] != ["attributes"]:
            self._marks[self._mark] = text
        elif tag == "name" and within[-1:] == ["label"]:
            self.labels.append(text)
        elif tag in self._size and within[-1:] == ["original_size"]:
            self._size[tag] = text

    def _begin_image(self, told: dict[str, str], line: int) -> None:
        if "name" not in told:
            raise DataError("an <image> has no `name`", where=f"{self._path}:{line}")
        width, height = side_of(told.get("width")), side_of(told.get("height"))
        subset = told.get("subset", "")
        inside = confine(f"{subset}/{told['name']}", "images")
        within = inside is not None and (self._root / inside).is_file()  # as projects have it
        name = f"{subset}/{told['name']}" if within else told["name"]
        self._image = self.columns.add_image(name, width, height, self._annotation)
        if subset.lower() not in _NO_SUBSET:
            self.columns.splits[subset].append(self._image)

    def _add(self, tag: str, line: int) -> None:
        shape = self._shape
        if self._track and is_set(shape.get("outside", "0")):
            return
        box = _box(tag, shape)
        if box is None:
            self.columns.counts[f"shape <{tag}>: left out"] += 1
            return
        if tag != "box" or number_of(shape.get("rotation", 0)):
            what = f"<{tag}>" if tag != "box" else "<box>, turned"
            self.columns.counts[f"shape {what}: read as the box around"] += 1
        label = self.columns.label_of(class_of((self._track or shape)["label"]))
        flags = flags_told(self._marks | {"occluded": shape.get("occluded", "0")})
        flags |= Flag.IGNORE.value if label == ANY_CLASS else 0
        image = self._frame(shape["frame"]) if self._track else self._image
        self.columns.add_box(label, box, flags, line, image)
        self.tracks.append(whole_or(self._track.get("id"), NO_TRACK))
        if "score" in self._marks:
            self.columns.scores.append(number_of(self._marks["score"]))

    def _frame(self, told: str) -> int:
        """The image of a frame; with the first, all that lie there."""
        number = int(told)
        if not 0 <= number < _MOST_FRAMES:
            raise ValueError(f"frame {told[:20]}")
        width, height = (side_of(self._size[side]) for side in ("width", "height"))
        if not self.columns.files:
            for name in self._frames.values():
                self.columns.image(name, width, height, self._annotation)
        name = self._frames.get(number, f"frame_{number:06d}.png")
        return self.columns.image(name, width, height, self._annotation)


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


def _box(tag: str, shape: dict[str, str]) -> tuple[float, float, float, float] | None:
    """The box around a shape, None where it has none."""
    if tag == "box":
        x1, y1, x2, y2 = (number_of(shape[side]) for side in _CORNERS)
        turn = math.radians(number_of(shape.get("rotation", 0)))
        return (x1, y1, x2, y2) if not turn else _turned((x1, y1, x2, y2), turn)
    if tag in ("polygon", "polyline"):
        return hull(point.split(",") for point in shape["points"].split(";"))
    if tag == "ellipse":
        x, y, rx, ry = (number_of(shape[key]) for key in ("cx", "cy", "rx", "ry"))
        return x - rx, y - ry, x + rx, y + ry
    if tag == "mask":
        x, y, width, height = (number_of(shape[key]) for key in ("left", "top", "width", "height"))
        return x, y, x + width, y + height
    if tag == "cuboid":
        corners = [key[1:] for key in shape if key.startswith("x") and f"y{key[1:]}" in shape]
        return hull((shape[f"x{corner}"], shape[f"y{corner}"]) for corner in corners)
    return None


def _turned(
    box: tuple[float, float, float, float], turn: float
) -> tuple[float, float, float, float]:
    """The upright box around `box` turned by `turn` radians about its centre."""
    x1, y1, x2, y2 = box
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    dx, dy = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - dx, y - dy, x + dx, y + dy


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


FORMAT = Format("CVAT", LOOKS_FOR, sniff_cvat, read_cvat, write_cvat, HOLDS)

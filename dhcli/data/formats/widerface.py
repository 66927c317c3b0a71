"""WIDER FACE: one text file per split; an image's name, how many faces, and one line per face.

`x1 y1 w h blur expression illumination invalid occlusion pose`. Invalid faces are regions to
ignore; occlusion (0, 1 partial, 2 heavy) is kept, and a mark; blur, expression, illumination and
pose are not kept. An image of none has the count 0, and mostly a line of zeros after it. The one
class is `face`, and every class is written as it.

Pixels: from 0, the maximum excluded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from dhcli.data.formats.boxes import from_xywh, to_xywh
from dhcli.data.formats.columns import Columns
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import IMAGE_SUFFIXES, read_head, read_text
from dhcli.data.io.text_rows import numbers_of
from dhcli.data.table import REGION, DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import counted

HOLDS = Holds(
    "from 0: x y width height",
    marks=Flag.OCCLUDED,
    columns=frozenset(("occlusion",)),
    regions="written as invalid faces",
    classes=False,
    sizes=False,
    scores=False,
    splits=False,
)

_FACE = "face"
_NAME_END = "bbx_gt.txt"
_COLUMNS = 10
_INVALID, _OCCLUSION = 7, 8
_LOOK_AT = 20


def _is_wider(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    lines = read_head(path, 4096).splitlines()[:_LOOK_AT]
    heads = [_is_name(name) and told.isdecimal() for name, told in pairwise(lines)]
    if path.name.lower().endswith(_NAME_END):
        return any(heads)
    return any(
        head and len(line.split()) == _COLUMNS for head, line in zip(heads, lines[2:], strict=False)
    )


def read_widerface(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError if no face in it can be read."""
    columns = Columns(root, path)
    reader = _Reader(path, columns)
    reader.read()
    columns.counts["face with blur, expression, illumination or pose, which are not kept"] = (
        reader.more
    )
    columns.locate()
    degrees = np.array(reader.occlusions, np.float64)
    return columns.table([_FACE], extras={"occlusion": degrees} if degrees.any() else {})


class _Reader:
    """Puts the images of the file `path`, and their faces, into columns."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.occlusions, self.more = array("d"), 0
        self._path, self._columns = path, columns
        self._lines = [line.strip() for line in read_text(path).splitlines()]

    def read(self) -> None:
        """Read all of it."""
        at = 0
        while at < len(self._lines):
            at = self._read_image(at) if self._lines[at] else at + 1

    def _read_image(self, at: int) -> int:
        """Read the image that line `at` names, and its faces; return the line behind them."""
        told = self._lines[at + 1] if at + 1 < len(self._lines) else "the end of the file"
        if not (told.isdecimal() and len(told) < 9):
            self._refuse(f"expected the number of faces, found `{told[:40]}`", at + 1)
            return self._next_name(at + 1)
        image, first = self._columns.image(self._lines[at]), at + 2
        for line in range(first, first + int(told)):
            if line == len(self._lines) or _is_name(self._lines[line]):
                self._refuse(f"ends before {told} faces: {line - first} are there", at + 1, image)
                return line
            try:
                self._add(line, image)
            except DataError as error:
                self._columns.refuse(error, image)
        end = first + int(told)
        return end + (end == first and end < len(self._lines) and _is_nothing(self._lines[end]))

    def _refuse(self, what: str, line: int, image: int | None = None) -> None:
        self._columns.refuse(DataError(what, where=f"{self._path}:{line + 1}"), image)

    def _next_name(self, start: int) -> int:
        """The first line from `start` on that names an image, for what goes before has no sense."""
        end = len(self._lines)
        return next((line for line in range(start, end) if _is_name(self._lines[line])), end)

    def _add(self, line: int, image: int) -> None:
        where = f"{self._path}:{line + 1}"
        values = numbers_of(self._lines[line].split(), where)
        if len(values) not in (4, _COLUMNS):
            what = f"expected {_COLUMNS} columns, or 4, found {len(values)}"
            raise DataError(what, where=where)
        x, y, width, height, *told = values
        values += [0.0] * (_COLUMNS - len(values))
        flags = bool(values[_INVALID]) * Flag.IGNORE | (values[_OCCLUSION] > 0) * Flag.OCCLUDED
        box = from_xywh(x, y, width, height)
        self._columns.add(_FACE, box, int(flags), line + 1, image)
        self.occlusions.append(values[_OCCLUSION])
        self.more += any(told[:3]) or any(told[5:])


def _is_name(line: str) -> bool:
    return line.lower().endswith(tuple(IMAGE_SUFFIXES))


def _is_nothing(line: str) -> bool:
    return len(line.split()) >= 4 and set(line.split()) == {"0"}


def write_widerface(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as WIDER_SPLIT/images and wider_face_split/, one file per split."""
    splits = placing.split_of_images()
    placing.place([f"{_folder(split)}/images" for split in splits])
    used = [name for k, name in enumerate(table.classes) if (table.labels == k).any()]
    if used and used != [_FACE]:
        placing.lost.append(f"names of {counted(len(used), 'class')}: all written as `{_FACE}`")
    for split in dict.fromkeys(splits):
        images = [image for image, own in enumerate(splits) if own == split]
        lines = (
            line for image in writing(images) for line in _lines(table, image, placing.names[image])
        )
        name = f"wider_face_{split}_{_NAME_END}" if split else f"wider_face_{_NAME_END}"
        placing.write_lines(f"wider_face_split/{name}", lines)


def _folder(split: str) -> str:
    return f"WIDER_{split}" if split else "WIDER"


def _lines(table: DetectionTable, image: int, name: str) -> Iterator[str]:
    degrees = table.extras.get("occlusion")
    rows = list(rows_of(table, image))
    yield f"{name}\n{len(rows)}\n"
    for row in rows:
        sides = map(decimal, to_xywh(row.box))
        degree = float(degrees[row.number]) if isinstance(degrees, np.ndarray) else 0.0
        degree = degree if degree in (1, 2) else float(Flag.OCCLUDED in row.flags)
        invalid = int(bool(row.flags & REGION))
        yield f"{' '.join(sides)} 0 0 0 {invalid} {decimal(degree)} 0\n"
    if not rows:
        yield f"{' '.join('0' * _COLUMNS)}\n"


LAYOUT = FilePerSplit("wider_face_split/*_bbx_gt.txt", (_NAME_END,), _is_wider)
FORMAT = Format("WIDER FACE", LAYOUT, read_widerface, write_widerface, HOLDS)

"""WIDER FACE: one text file a split; an image's name, how many faces, and a line a face.

`x1 y1 w h blur expression illumination invalid occlusion pose`. Invalid faces are regions to
ignore; occlusion (0, 1 partial, 2 heavy) is kept, and a mark; blur, expression, illumination and
pose are not kept. An image of none has the count 0, and mostly a line of zeros after it. The one
class is `face`, and every class is written as it.

Pixels: from 0, the maximum excluded.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dhcli.data.formats.boxes import from_xywh, to_xywh
from dhcli.data.formats.columns import Columns
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import read_head, read_text
from dhcli.data.io.text_rows import line_of, numbers_of
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


def _is_wider(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    lines = [line.split() for line in read_head(path, 4096).splitlines()[:3]]
    if len(lines) < 2 or len(lines[1]) != 1 or not lines[1][0].isdecimal():
        return False
    return path.name.lower().endswith(_NAME_END) or (len(lines) > 2 and len(lines[2]) == _COLUMNS)


def read_widerface(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    columns, occlusions = Columns(root, path), array("d")
    lines = [line.strip() for line in read_text(path).splitlines()]
    at, more = 0, 0
    while at < len(lines):
        if not lines[at]:
            at += 1
            continue
        image = columns.image(lines[at])
        count = _count(lines, at + 1, path)
        for line in range(at + 2, at + 2 + count):
            more += _add(lines[line], columns, occlusions, f"{path}:{line + 1}", image)
        at += 2 + count
        at += not count and at < len(lines) and _is_nothing(lines[at])
    columns.counts["face with blur, expression, illumination or pose, which are not kept"] = more
    columns.locate()
    degrees = {"occlusion": np.array(occlusions, np.float64)} if any(occlusions) else {}
    return columns.table([_FACE], extras=degrees)


def _count(lines: list[str], at: int, path: Path) -> int:
    """How many faces the line says there are, all of which the file must have."""
    told = lines[at] if at < len(lines) else "the end of the file"
    if not (told.isdecimal() and len(told) < 9):
        what = f"expected the number of faces, found `{told[:40]}`"
        raise DataError(what, where=f"{path}:{at + 1}")
    if at + int(told) >= len(lines):
        raise DataError(f"ends before {told} faces", where=f"{path}:{at + 1}")
    return int(told)


def _is_nothing(line: str) -> bool:
    return len(line.split()) >= 4 and set(line.split()) == {"0"}


def _add(row: str, columns: Columns, occlusions: array[float], where: str, image: int) -> bool:
    """Add a face; return whether it tells more than is kept."""
    values = numbers_of(row.split(), where)
    if len(values) not in (4, _COLUMNS):
        what = f"expected {_COLUMNS} columns, or 4, found {len(values)}"
        raise DataError(what, where=where)
    x, y, width, height, *told = values
    values += [0.0] * (_COLUMNS - len(values))
    flags = bool(values[_INVALID]) * Flag.IGNORE | (values[_OCCLUSION] > 0) * Flag.OCCLUDED
    box = from_xywh(x, y, width, height)
    columns.add(_FACE, box, int(flags), line_of(where), image)
    occlusions.append(values[_OCCLUSION])
    return any(told[:3]) or any(told[5:])


def write_widerface(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as WIDER_SPLIT/images and wider_face_split/, a file a split."""
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

"""VisDrone: one text file per image in `annotations` beside `images`, one line per box.

`left,top,width,height,score,category,truncation,occlusion`. Score 0 says to leave the box out of
account, which makes it a region to ignore; so do the categories 0, ignored regions, and 11, others.
Truncation is a mark, occlusion (0, 1 partial, 2 heavy) is one and kept. Splits are folders called
as VisDrone's own, `VisDrone2019-DET-train`. The categories 1 to 10 are VisDrone's ten classes;
`classes.txt` above `annotations`, a name a line from 1, gives others.

Written: `classes.txt` where a class is none of VisDrone's.

Pixels: from 0, the maximum excluded. Classes: as they are numbered, those without boxes too.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dhcli.data.formats.boxes import from_decimals, to_xywh
from dhcli.data.formats.columns import DONT_CARE, Columns
from dhcli.data.formats.layouts import FilePerImage, Format, Part, add_part
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import (
    filled_files,
    find_folders,
    join_path,
    list_files,
    list_folders,
    read_head,
    read_lines,
    split_name,
    stem_of,
)
from dhcli.data.io.text_rows import are_numbers, line_of, numbers_of, read_words
from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError

HOLDS = Holds(
    "from 0: left top width height",
    marks=Flag.TRUNCATED | Flag.OCCLUDED,
    columns=frozenset(("occlusion",)),
    regions="written with score 0",
    classless=True,
    scores=False,
    sizes=False,
    splits=False,
)

VISDRONE_CLASSES = (
    *("pedestrian", "people", "bicycle", "car", "van"),
    *("truck", "tricycle", "awning-tricycle", "bus", "motor"),
)
"""From 1."""
_OTHERS = len(VISDRONE_CLASSES) + 1

_LABELS, _IMAGES, _NAMES = "annotations", "images", "classes.txt"
_COLUMNS = 8


def _is_visdrone(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and _is_row(_first_line(path))


def _first_line(path: Path) -> str:
    return read_head(path, 4096).lstrip().partition("\n")[0]


def _is_row(line: str) -> bool:
    fields = _fields(line.strip().split(","))
    return len(fields) == _COLUMNS and are_numbers(fields)


def _fields(row: list[str]) -> list[str]:
    """The columns of a line, at times with a comma after the last."""
    return row[:-1] if row[-1] == "" else row


def _parts(root: Path) -> list[Part]:
    """Where there are labels."""
    named = [(split_name(folder), folder) for folder in list_folders(root)]
    bases = [("", "."), *((split, folder) for split, folder in named if split)]
    return [
        Part(split, join_path(base, labels), _images(root, base))
        for split, base in bases
        for labels in find_folders(root / base, (_LABELS,))
        if _is_labels(root / base / labels)
    ]


def _images(root: Path, base: str) -> str:
    return join_path(base, next(find_folders(root / base, (_IMAGES,)), _IMAGES))


def _around(path: Path) -> tuple[Path, list[Part]]:
    root = path.parent.parent
    return root, [Part("", path.parent.name, _images(root, "."), [path.name])]


def _is_labels(folder: Path) -> bool:
    """Whether the text files of a folder are VisDrone's; empty ones are of images without boxes."""
    names = list_files(folder, ".txt")
    lines = [_first_line(folder / name) for name in filled_files(folder, names)]
    return any(map(_is_row, lines)) or (bool(names) and not any(lines))


def read_visdrone(root: Path, parts: list[Part]) -> DetectionTable:
    """Read label files. Raises DataError with the file and line of what cannot be read."""
    columns, occlusions = Columns(root), array("d")
    listed: dict[str, None] = {}
    for part in parts:
        own = (root / part.labels).parent / _NAMES
        classes = read_lines(own) if own.is_file() else VISDRONE_CLASSES
        listed |= dict.fromkeys(classes)
        add = partial(_read_labels, classes=classes, columns=columns, occlusions=occlusions)
        add_part(columns, root, part, ".jpg", add)
    extras = {"occlusion": np.array(occlusions, np.float64)} if any(occlusions) else {}
    return columns.table(columns.classes_after(listed), extras=extras)


def _read_labels(
    path: Path, classes: Sequence[str], columns: Columns, occlusions: array[float]
) -> None:
    """Add the boxes of one label file."""
    named: dict[float, str | None] = {0: None, **dict(enumerate(classes, 1))}
    if classes is VISDRONE_CLASSES:
        named[_OTHERS] = None
    for where, row in read_words(path, ","):
        try:
            values = _numbers(row, where, named, len(classes))
        except DataError as error:
            columns.refuse(error, len(columns.files) - 1)
            continue
        left, top, width, height, score, category, truncation, occlusion = values
        name = named[category]
        columns.counts["box of `others`: a region to ignore"] += bool(category) and name is None
        flags = (score == 0) * Flag.IGNORE
        flags |= (truncation > 0) * Flag.TRUNCATED | (occlusion > 0) * Flag.OCCLUDED
        box = from_decimals(left, top, width, height)
        columns.add(name or DONT_CARE, box, int(flags), line_of(where))
        occlusions.append(occlusion)


def _numbers(
    row: list[str], where: str, named: Mapping[float, str | None], count: int
) -> list[float]:
    """The numbers of a row, its category one of the `count` that are `named`. Raises DataError."""
    values = numbers_of(_fields(row), where)
    if len(values) != _COLUMNS:
        raise DataError(f"expected {_COLUMNS} columns, found {len(values)}", where=where)
    if values[5] not in named:
        what = f"category {values[5]:g} is not one of the {count}"
        raise DataError(what, where=where, hint=f"{_NAMES} names them, from 1")
    return values


def write_visdrone(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and annotations/, in one folder per split."""
    bases = [f"{split}/" if split else "" for split in placing.split_of_images()]
    placing.place([f"{base}{_IMAGES}" for base in bases])
    known = set(table.classes) <= set(VISDRONE_CLASSES)
    classes = VISDRONE_CLASSES if known else table.classes
    if not known:
        for base in dict.fromkeys(bases):
            names = (" ".join(name.split()) or "_" for name in classes)
            placing.write(f"{base}{_NAMES}", "".join(f"{name}\n" for name in names))
    numbers = {name: number for number, name in enumerate(classes, 1)}
    for image, (base, name) in enumerate(zip(bases, writing(placing.names), strict=True)):
        text = "".join(_lines(table, image, numbers))
        placing.write(f"{base}{_LABELS}/{stem_of(name)}.txt", text)


def _lines(table: DetectionTable, image: int, numbers: Mapping[str, int]) -> Iterator[str]:
    degrees = table.extras.get("occlusion")
    for row in rows_of(table, image):
        sides = map(decimal, to_xywh(row.box))
        degree = float(degrees[row.number]) if isinstance(degrees, np.ndarray) else 0.0
        degree = degree if degree in (1, 2) else float(Flag.OCCLUDED in row.flags)
        region = row.is_region or row.name not in numbers
        marks = (int(not region), numbers.get(row.name, 0), int(Flag.TRUNCATED in row.flags))
        yield f"{','.join((*sides, *map(str, marks), decimal(degree)))}\n"


LAYOUT = FilePerImage(
    "annotations/*.txt of 8 numbers between commas, beside images/", _is_visdrone, _parts, _around
)
FORMAT = Format("VisDrone", LAYOUT, read_visdrone, write_visdrone, HOLDS)

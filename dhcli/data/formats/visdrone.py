"""VisDrone: a text file an image in `annotations` beside `images`, a line a box.

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
from pathlib import Path

import numpy as np

from dhcli.data.formats.columns import Columns, number_of
from dhcli.data.formats.format import Format
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_SUFFIXES,
    FilesByStem,
    find_folders,
    join_path,
    list_files,
    list_folders,
    read_head,
    read_lines,
    read_text,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError

LOOKS_FOR = "annotations/*.txt of 8 numbers between commas, beside images/ (VisDrone)"
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
_LOOK_AT = 20


def sniff_visdrone(path: Path) -> bool:
    """Whether `path` is a folder of VisDrone, or one of its label files."""
    if path.is_file():
        return path.suffix.lower() == ".txt" and _is_row(_first_line(path))
    return bool(_parts(path))


def _first_line(path: Path) -> str:
    return read_head(path, 4096).lstrip().partition("\n")[0]


def _is_row(line: str) -> bool:
    try:
        return len(_values(line)) == _COLUMNS
    except ValueError:
        return False


def _values(line: str) -> list[float]:
    """The numbers of a line, at times with a comma after the last. Raises ValueError."""
    return [number_of(field) for field in line.strip().removesuffix(",").split(",")]


def _parts(root: Path) -> list[tuple[str, str, str]]:
    """(split or "", its folder, the folder of its labels) where there are labels."""
    named = [(split_name(folder), folder) for folder in list_folders(root)]
    bases = [("", "."), *((split, folder) for split, folder in named if split)]
    return [
        (split, base, join_path(base, labels))
        for split, base in bases
        for labels in find_folders(root / base, (_LABELS,))
        if _is_labels(root / base / labels)
    ]


def _is_labels(folder: Path) -> bool:
    """Whether the text files of a folder are VisDrone's; empty ones are of images without boxes."""
    lines = [_first_line(folder / name) for name in list_files(folder, ".txt")[:_LOOK_AT]]
    return any(map(_is_row, lines)) or (bool(lines) and not any(lines))


def read_visdrone(path: Path) -> DetectionTable:
    """Read a folder, folders of splits too, or one label file.

    Raises DataError with the file and line of what cannot be read.
    """
    root = path if path.is_dir() else path.parent.parent
    columns, occlusions = Columns(), array("d")
    listed: dict[str, None] = {}
    for split, base, labels in _parts(path) if path.is_dir() else [("", ".", path.parent.name)]:
        start = len(columns.files)
        own = root / base / _NAMES
        classes = read_lines(own) if own.is_file() else VISDRONE_CLASSES
        listed |= dict.fromkeys(classes)
        folder = join_path(base, next(find_folders(root / base, (_IMAGES,)), _IMAGES))
        images = FilesByStem(root / folder, *IMAGE_SUFFIXES)
        names = list_files(root / labels, ".txt") if path.is_dir() else [path.name]
        for name in track(names, "annotation files read"):
            image = images.find(stem_of(name)) or f"{stem_of(name)}.jpg"
            columns.add_image(join_path(folder, image), 0, 0, f"{labels}/{name}")
            _read_labels(root / labels / name, classes, columns, occlusions)
        if path.is_dir():
            left_out = len(images.keys() - set(map(stem_of, names)))
            columns.counts["image without label file: left out"] += left_out
        columns.end_split(split, start)
    extras = {"occlusion": np.array(occlusions, np.float64)} if any(occlusions) else {}
    return columns.table(root, columns.classes_after(listed), extras=extras, format="visdrone")


def _read_labels(
    path: Path, classes: Sequence[str], columns: Columns, occlusions: array[float]
) -> None:
    named: dict[float, str | None] = {0: None, **dict(enumerate(classes, 1))}
    if classes is VISDRONE_CLASSES:
        named[_OTHERS] = None
    for line, row in enumerate(read_text(path).splitlines(), 1):
        if not row.strip():
            continue
        where = f"{path}:{line}"
        try:
            values = _values(row)
        except ValueError as error:
            raise DataError(f"has a column that is no number: {error}", where=where) from None
        if len(values) != _COLUMNS:
            raise DataError(f"expected {_COLUMNS} columns, found {len(values)}", where=where)
        left, top, width, height, score, category, truncation, occlusion = values
        if category not in named:
            what = f"category {category:g} is not one of the {len(classes)}"
            raise DataError(what, where=where, hint=f"{_NAMES} names them, from 1")
        name = named[category]
        columns.counts["box of `others`: a region to ignore"] += bool(category) and name is None
        label = ANY_CLASS if name is None else columns.label_of(name)
        flags = (score == 0 or label == ANY_CLASS) * Flag.IGNORE
        flags |= (truncation > 0) * Flag.TRUNCATED | (occlusion > 0) * Flag.OCCLUDED
        box = (left, top, round(left + width, 10), round(top + height, 10))
        columns.add_box(label, box, int(flags), line)
        occlusions.append(occlusion)


def write_visdrone(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and annotations/, in a folder a split."""
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
        x1, y1, x2, y2 = row.box
        # Nine decimals bring back what a file said: x + w - x is not w in floating point.
        sides = map(decimal, (x1, y1, round(x2 - x1, 9), round(y2 - y1, 9)))
        degree = float(degrees[row.number]) if isinstance(degrees, np.ndarray) else 0.0
        degree = degree if degree in (1, 2) else float(Flag.OCCLUDED in row.flags)
        region = bool(row.flags & (Flag.CROWD | Flag.IGNORE)) or row.name not in numbers
        marks = (int(not region), numbers.get(row.name, 0), int(Flag.TRUNCATED in row.flags))
        yield f"{','.join((*sides, *map(str, marks), decimal(degree)))}\n"


FORMAT = Format("VisDrone", LOOKS_FOR, sniff_visdrone, read_visdrone, write_visdrone, HOLDS)

"""KITTI: one text file per image in `label_2`, 15 columns per box, or 16 with a score.

Boxes are 0-based pixels with decimals and are never shifted. DontCare rows become regions of no
class. Kept: the degrees of truncation and occlusion, and all 3-D columns (as `truncation`,
`occlusion`, `alpha`, `dimensions`, `location`, `rotation`). Split lists (`train.txt`, `val.txt`)
may lie beside or above the folder of the labels, or in `ImageSets`. Folders may be called `labels`
and `images` too. Class names cannot hold spaces: they are written with "_".

Classes: Car, Pedestrian, Cyclist first (those that KITTI judges), then KITTI's others, then the
rest by name.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.columns import DONT_CARE, Columns
from dhcli.data.formats.layouts import FilePerImage, Format, Part, add_part
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    filled_files,
    find_folders,
    first_folder,
    list_files,
    read_head,
    read_splits,
    split_name,
    stem_of,
)
from dhcli.data.io.text_rows import line_of, numbers_of, read_words
from dhcli.data.table import Column, DetectionTable, Flag
from dhcli.errors import DataError

KITTI_CLASSES = (
    *("Car", "Pedestrian", "Cyclist"),
    *("Van", "Truck", "Person_sitting", "Tram", "Misc"),
)

_BASES = (".", "training", "train", "object/training", "data_object/training")
_LABELS, _IMAGES = "label_2", "image_2"
_FOLDERS = (
    *((f"{base}/{_LABELS}", f"{base}/{_IMAGES}") for base in _BASES),
    (f"data_object_{_LABELS}/training/{_LABELS}", f"data_object_{_IMAGES}/training/{_IMAGES}"),
    ("labels", "images"),
)
"""Folders of labels and of their images; the first that are there count."""
# Where KITTI's 3-D columns stand in a row, and what says that nothing is known.
_THREE_D = {
    "alpha": (slice(3, 4), -10.0),
    "dimensions": (slice(8, 11), -1.0),
    "location": (slice(11, 14), -1000.0),
    "rotation": (slice(14, 15), -10.0),
}
_COLUMNS = ("truncation", "occlusion", *_THREE_D)
# A mark without a degree: what KITTI's moderate level still asks for.
_SOME_TRUNCATION, _SOME_OCCLUSION = 0.3, 1

HOLDS = Holds(
    "from 0, never shifted",
    classes=False,
    sizes=False,
    marks=Flag.TRUNCATED | Flag.OCCLUDED,
    columns=frozenset(_COLUMNS),
    regions="written as DontCare",
    classless=True,
    blank="_",
)


def _is_kitti(path: Path) -> bool:
    return path.suffix.lower() == ".txt" and (path.parent.name == _LABELS or is_label(path))


def is_label(path: Path) -> bool:
    """Whether a file begins with the name of a class and as many columns as KITTI has."""
    fields = read_head(path, 4096).partition("\n")[0].split()
    return len(fields) in (15, 16) and not fields[0][0].isdecimal()


def _parts(root: Path) -> list[Part]:
    """The folders of labels and of images, of the first of `_FOLDERS` that is there."""
    for labels, images in _FOLDERS:
        for folder in find_folders(root, (labels,)):
            names = list_files(root / folder, ".txt")
            looked_at = (root / folder / name for name in filled_files(root / folder, names))
            if (names and labels.endswith(_LABELS)) or any(map(is_label, looked_at)):
                found = next(find_folders(root, (images,)), images.removeprefix("./"))
                return [Part("", folder, found)]
    return []


def _around(path: Path) -> tuple[Path, list[Part]]:
    root = path.parent.parent
    images = first_folder(root, (_IMAGES, *IMAGE_FOLDERS), *IMAGE_SUFFIXES)
    return root, [Part("", path.parent.name, images or _IMAGES, [path.name])]


def read_kitti(root: Path, parts: list[Part]) -> DetectionTable:
    """Read label files, and the lists of splits beside or above them.

    Raises DataError with the file and line of what cannot be read.
    """
    if not parts:
        hint = f"looked for {FORMAT.looks_for}"
        raise DataError(f"holds no {_LABELS}", where=root, hint=hint)
    columns, more = Columns(root), array("d")
    add = partial(_read_labels, columns=columns, more=more)
    add_part(columns, root, parts[0], ".png", add)
    numbers = {stem_of(file): number for number, file in enumerate(columns.annotations)}
    splits, unknown = _read_lists((root / parts[0].labels).parent, numbers)
    columns.left_out["name unknown in the lists of splits: left out"] += unknown
    return columns.table(
        _in_order(columns.class_names()),
        splits=splits,
        extras=_extras(np.array(more, np.float64).reshape(-1, 15)),
    )


def _in_order(names: list[str]) -> list[str]:
    known = {name: place for place, name in enumerate(KITTI_CLASSES)}
    return sorted(names, key=lambda name: (known.get(name, len(known)), name))


def _read_labels(path: Path, columns: Columns, more: array[float]) -> None:
    """Add the boxes of one label file; `more` gets 15 numbers a box, the first being 0."""
    for where, fields in read_words(path):
        try:
            values = _numbers(fields, where)
        except DataError as error:
            columns.refuse(error, len(columns.files) - 1)
            continue
        flags = (values[0] > 0) * Flag.TRUNCATED | (values[1] in (1, 2)) * Flag.OCCLUDED
        marks = 0 if fields[0] == DONT_CARE else int(flags)
        columns.add(
            fields[0], values[3:7], marks, line_of(where), score=next(iter(values[14:]), None)
        )
        more.extend((0.0, *values[:14]))


def _numbers(fields: Sequence[str], where: str) -> list[float]:
    """What stands behind the class in a row. Raises DataError."""
    if len(fields) not in (15, 16):
        what = f"expected 15 columns (16 with a score), found {len(fields)}"
        raise DataError(what, where=where)
    return numbers_of(fields[1:], where)


def _extras(rows: NDArray[np.float64]) -> dict[str, Column]:
    extras: dict[str, Column] = {"truncation": rows[:, 1], "occlusion": rows[:, 2]}
    for name, (where, unknown) in _THREE_D.items():
        if (rows[:, where] != unknown).any():
            extras[name] = rows[:, where].copy()
    return extras


def _read_lists(
    base: Path, number_of: dict[str, int]
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Splits by the nearest lists, and those of their names that are unknown."""
    for folder in (base, base / "ImageSets", base.parent, base.parent / "ImageSets"):
        lists = [name for name in list_files(folder, ".txt") if split_name(stem_of(name))]
        found, unknown = read_splits([folder / name for name in lists], number_of)
        splits = {name: images for name, images in found.items() if len(images)}
        if splits:
            return splits, unknown
    return {}, []


def write_kitti(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as `training/image_2`, `training/label_2` and a list for each split."""
    placing.place(f"training/{_IMAGES}")
    for image, name in enumerate(writing(placing.names)):
        lines = kitti_lines(table, image)
        placing.write(f"training/{_LABELS}/{stem_of(name)}.txt", "".join(f"{x}\n" for x in lines))
    for split, images in table.splits.items():
        stems = (stem_of(placing.names[image]) for image in images.tolist())
        placing.write(f"{split}.txt", "".join(f"{stem}\n" for stem in stems))


def kitti_lines(table: DetectionTable, image: int) -> list[str]:
    """The rows of image number `image`, 15 columns, or 16 where the table has scores."""
    return [_line(table, row) for row in rows_of(table, image)]


def _line(table: DetectionTable, row: Row) -> str:
    truncation, occlusion = _degrees(table, row)
    three_d = {name: map(_hundredths, _three_d(table, row.number, name)) for name in _THREE_D}
    return kitti_row(
        DONT_CARE if row.is_region else row.name,
        list(map(_hundredths, row.box)),
        None if row.score is None else decimal(row.score),
        (_hundredths(truncation), decimal(occlusion), *three_d.pop("alpha")),
        [number for numbers in three_d.values() for number in numbers],
    )


def kitti_row(
    name: str,
    box: Sequence[str],
    score: str | None,
    degrees: Sequence[str] = ("-1", "-1", "-10"),
    three_d: Sequence[str] = ("-1", "-1", "-1", "-1000", "-1000", "-1000", "-10"),
) -> str:
    """A row: the class, `degrees` of truncation, occlusion and view, box, size, place and turn.

    What is not told is not known. Spaces would part the columns.
    """
    fields = [_type_of(name), *degrees, *box, *three_d]
    return " ".join(fields if score is None else [*fields, score])


def _degrees(table: DetectionTable, row: Row) -> tuple[float, float]:
    """Truncation and occlusion of a box, as annotated, else as far as its marks tell."""
    if "truncation" in table.extras and "occlusion" in table.extras:
        number = row.number
        return float(table.extras["truncation"][number]), float(table.extras["occlusion"][number])
    if row.is_region:
        return -1, -1
    truncation = _SOME_TRUNCATION if Flag.TRUNCATED in row.flags else 0.0
    return truncation, _SOME_OCCLUSION if Flag.OCCLUDED in row.flags else 0


def _three_d(table: DetectionTable, row: int, name: str) -> list[float]:
    where, unknown = _THREE_D[name]
    if name not in table.extras:
        return [unknown] * (where.stop - where.start)
    values: list[float] = np.asarray(table.extras[name][row], np.float64).ravel().tolist()
    return values


def _type_of(name: str) -> str:
    return "_".join(name.split()) or "_"


def _hundredths(value: float) -> str:
    """With two decimals, as KITTI does, where that is all there is."""
    text = f"{value:.2f}"
    return text if float(text) == value else decimal(value)


LAYOUT = FilePerImage("label_2/*.txt beside image_2/", _is_kitti, _parts, _around)
FORMAT = Format("KITTI", LAYOUT, read_kitti, write_kitti, HOLDS)

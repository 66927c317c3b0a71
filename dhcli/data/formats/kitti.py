"""KITTI: a text file an image in `label_2`, 15 columns a box, or 16 with a score.

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
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.columns import DONT_CARE, Columns, flags_of, number_of
from dhcli.data.formats.format import Format
from dhcli.data.formats.placing import Holds, Placing, decimal, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    find_folders,
    first_folder,
    join_path,
    list_files,
    read_head,
    read_split,
    read_text,
    split_name,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.table import ANY_CLASS, Column, DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import counted

LOOKS_FOR = "label_2/*.txt beside image_2/ (KITTI)"

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
_LOOK_AT = 20
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
)


def sniff_kitti(path: Path) -> bool:
    """Whether `path` is KITTI's folder, the `training` in it, or one of its label files."""
    if path.is_file():
        return path.suffix.lower() == ".txt" and (path.parent.name == _LABELS or _is_label(path))
    return _folders(path) is not None


def _is_label(path: Path) -> bool:
    """Whether a file begins with the name of a class and as many columns as KITTI has."""
    fields = read_head(path, 4096).partition("\n")[0].split()
    return len(fields) in (15, 16) and not fields[0][0].isdecimal()


def _folders(root: Path) -> tuple[str, str] | None:
    """The folders below `root` of labels and of images, or None."""
    for labels, images in _FOLDERS:
        for folder in find_folders(root, (labels,)):
            names = list_files(root / folder, ".txt")[:_LOOK_AT]
            if any(labels.endswith(_LABELS) or _is_label(root / folder / name) for name in names):
                return folder, next(find_folders(root, (images,)), images.removeprefix("./"))
    return None


def _folders_of_file(path: Path) -> tuple[str, str]:
    images = first_folder(path.parent.parent, (_IMAGES, *IMAGE_FOLDERS), *IMAGE_SUFFIXES)
    return path.parent.name, images or _IMAGES


def read_kitti(path: Path) -> DetectionTable:
    """Read KITTI's 2-D boxes of `path`: the folder above `training`, `training`, or a label file.

    Raises DataError with the file and line of what cannot be read.
    """
    root = path if path.is_dir() else path.parent.parent
    folders = _folders(path) if path.is_dir() else _folders_of_file(path)
    if folders is None:
        raise DataError("holds no label_2", where=path, hint=f"looked for {LOOKS_FOR}")
    labels_in, images_in = folders
    images = FilesByStem(root / images_in, *IMAGE_SUFFIXES)
    labels = [path.name] if path.is_file() else list_files(root / labels_in, ".txt")
    columns = Columns()
    more = array("d")
    number_of: dict[str, int] = {}
    for label in track(labels, "annotation files read"):
        stem = stem_of(label)
        number_of[stem] = len(columns.files)
        image = images.find(stem) or f"{stem}.png"
        annotation = join_path(labels_in, label)
        columns.add_image(join_path(images_in, image), 0, 0, annotation)
        _read_labels(root / annotation, columns, more)
    splits, unknown = _read_lists((root / labels_in).parent, number_of)
    left_out = 0 if path.is_file() else sum(stem not in number_of for stem in images)
    notes = [counted(left_out, "image without label file: left out")] if left_out else []
    notes += [counted(unknown, "name unknown in the lists of splits: left out")] if unknown else []
    return columns.table(
        root,
        _in_order(columns.class_names()),
        splits=splits,
        extras=_extras(np.array(more, np.float64).reshape(-1, 15)),
        format="kitti",
        notes=tuple(notes),
    )


def _in_order(names: list[str]) -> list[str]:
    known = {name: place for place, name in enumerate(KITTI_CLASSES)}
    return sorted(names, key=lambda name: (known.get(name, len(known)), name))


def _read_labels(path: Path, columns: Columns, more: array[float]) -> None:
    """Add the boxes of one label file; `more` gets 15 numbers a box, the first being 0."""
    for line, row in enumerate(read_text(path).splitlines(), 1):
        fields = row.split()
        if not fields:
            continue
        if len(fields) not in (15, 16):
            what = f"expected 15 columns (16 with a score), found {len(fields)}"
            raise DataError(what, where=f"{path}:{line}")
        try:
            values = [number_of(field) for field in fields[1:]]
        except ValueError as error:
            what = f"has a column that is no number: {error}"
            raise DataError(what, where=f"{path}:{line}") from None
        label = columns.label_of(fields[0])
        marks = flags_of(difficult=False, truncated=values[0] > 0, occluded=values[1] in (1, 2))
        flags = marks if label != ANY_CLASS else Flag.IGNORE.value
        columns.add_box(label, values[3:7], flags, line)
        more.extend((0.0, *values[:14]))
        if len(values) == 15:
            columns.scores.append(values[14])


def _extras(rows: NDArray[np.float64]) -> dict[str, Column]:
    extras: dict[str, Column] = {"truncation": rows[:, 1], "occlusion": rows[:, 2]}
    for name, (where, unknown) in _THREE_D.items():
        if (rows[:, where] != unknown).any():
            extras[name] = rows[:, where].copy()
    return extras


def _read_lists(base: Path, number_of: dict[str, int]) -> tuple[dict[str, NDArray[np.int64]], int]:
    """Splits by the nearest lists, and how many of their names are unknown."""
    for folder in (base, base / "ImageSets", base.parent, base.parent / "ImageSets"):
        lists = [name for name in list_files(folder, ".txt") if split_name(stem_of(name))]
        found = {stem_of(name): read_split(folder / name, number_of) for name in lists}
        splits = {name: images for name, (images, _) in found.items() if len(images)}
        if splits:
            return splits, sum(unknown for _, unknown in found.values())
    return {}, 0


def write_kitti(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as `training/image_2`, `training/label_2` and a list for each split."""
    placing.place(f"training/{_IMAGES}")
    spaced = [name for name in table.classes if name != _type_of(name)]
    if spaced:
        placing.lost.append(f"spaces in {counted(len(spaced), 'name')} of classes: written as `_`")
    for image, name in enumerate(writing(placing.names)):
        lines = kitti_lines(table, image)
        placing.write(f"training/{_LABELS}/{stem_of(name)}.txt", "".join(f"{x}\n" for x in lines))
    for split, images in table.splits.items():
        stems = (stem_of(placing.names[image]) for image in images.tolist())
        placing.write(f"{split}.txt", "".join(f"{stem}\n" for stem in stems))


def kitti_lines(table: DetectionTable, image: int) -> list[str]:
    """The rows of image number `image`, 15 columns, or 16 where the table has scores."""
    rows = table.rows(image)
    return [_line(table, row) for row in range(rows.start, rows.stop)]


def _line(table: DetectionTable, row: int) -> str:
    label, flags = int(table.labels[row]), Flag(int(table.flags[row]))
    region = label == ANY_CLASS or bool(flags & (Flag.CROWD | Flag.IGNORE))
    name = DONT_CARE if region else _type_of(table.classes[label])
    truncation, occlusion = _degrees(table, row, region)
    three_d = {key: _three_d(table, row, key) for key in _THREE_D}
    numbers = [
        *three_d["alpha"],
        *table.boxes[row].tolist(),
        *three_d["dimensions"],
        *three_d["location"],
        *three_d["rotation"],
    ]
    fields = [name, _hundredths(truncation), decimal(occlusion), *map(_hundredths, numbers)]
    if table.scores is not None:
        fields.append(decimal(table.scores[row]))
    return " ".join(fields)


def _degrees(table: DetectionTable, row: int, region: bool) -> tuple[float, float]:
    """Truncation and occlusion of a box, as annotated, else as far as its marks tell."""
    if "truncation" in table.extras and "occlusion" in table.extras:
        return float(table.extras["truncation"][row]), float(table.extras["occlusion"][row])
    if region:
        return -1, -1
    flags = Flag(int(table.flags[row]))
    truncation = _SOME_TRUNCATION if Flag.TRUNCATED in flags else 0.0
    return truncation, _SOME_OCCLUSION if Flag.OCCLUDED in flags else 0


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


FORMAT = Format("KITTI", LOOKS_FOR, sniff_kitti, read_kitti, write_kitti, HOLDS)

"""AutoML CSV, as Google's Vertex AI has it: one line per box, no header, corners in fractions.

`TRAIN,gs://bucket/a.jpg,cat,0.1,0.1,,,0.3,0.4,,`: the split, the image, the class, then x and y of
the upper left, upper right, lower right and lower left corner, of which two that lie across are
enough. The split is TRAIN, VALIDATION, TEST, UNASSIGNED or empty, `training` too, in any case; the
column may be absent. A line without corners is an image without boxes, or of a class as a whole,
which is not kept, counted. Images are found by the ends of their addresses.

Written: paths from the folder of the CSV; Vertex AI wants `gs://…` before them.

Pixels: fractions of width and height, so the images must be there. Classes: sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dhcli.data.formats.boxes import hull
from dhcli.data.formats.columns import Columns, class_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, rows_of, writing
from dhcli.data.io.files import IMAGE_SUFFIXES
from dhcli.data.io.text_rows import as_row, mostly, read_rows
from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import counted

HOLDS = Holds(
    "fractions of the image",
    marks=Flag(0),
    regions=LEFT_OUT,
    classes=False,
    scores=False,
    sizes=False,
    fractions=True,
    splits=False,
)

_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "val",
    "validate": "val",
    "val": "val",
    "test": "test",
    "unassigned": "",
    "": "",
}
_WRITTEN = {"train": "TRAIN", "val": "VALIDATION", "test": "TEST"}
_COLUMNS = 10
_OF_WHOLE = "class of a whole image: left out"


def _is_ours(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and mostly(_is_row, path)


def _is_row(row: list[str]) -> bool:
    try:
        _, image, _, corners = _parse(row)
        hull(corners or [(0, 0)])
    except ValueError:
        return False
    return image.lower().endswith(tuple(IMAGE_SUFFIXES))


def _parse(row: Sequence[str]) -> tuple[str, str, str, list[tuple[str, str]]]:
    """Split, image, class and the corners that a row tells. Raises ValueError for another row."""
    split = _SPLITS.get(row[0].lower()) if row else None
    fields = row if split is None else row[1:]
    if len(fields) != _COLUMNS:
        expected = _COLUMNS + len(row) - len(fields)
        raise ValueError(f"expected {expected} columns, found {len(row)}")
    image, name, *sides = fields
    corners = zip(sides[::2], sides[1::2], strict=True)
    return split or "", image, name, [corner for corner in corners if any(corner)]


def read_automl(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line that cannot be read, or without any image."""
    columns = Columns(root, path)
    for line, row in read_rows(path):
        try:
            _add(row, columns, line)
        except ValueError as error:
            columns.refuse(DataError(f"cannot be used: {error}", where=f"{path}:{line}"))
    whole = columns.counts[_OF_WHOLE]
    if whole and not columns.labels:
        what = f"holds no box, but {counted(whole, 'class of a whole image')}"
        raise DataError(what, where=path, hint="boxes need their corners after the class")
    columns.locate()
    return columns.table_of_fractions(columns.classes_after())


def _add(row: Sequence[str], columns: Columns, line: int) -> None:
    split, file, name, corners = _parse(row)
    box, called = (hull(corners), class_of(name)) if corners else (None, name)
    known = len(columns.files)
    image = columns.image(file)
    if split and image == known:
        columns.splits[split].append(image)
    if box is not None:
        columns.add(called, box, 0, line, image)
    elif name:
        columns.counts[_OF_WHOLE] += 1


def write_automl(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and automl.csv."""
    placing.place("images")
    splits = placing.split_of_images()
    for split in dict.fromkeys(splits):
        if split and split not in _WRITTEN:
            count = counted(splits.count(split), "image")
            placing.lost.append(f"split `{split}` of {count}: written as UNASSIGNED")
    lines = (
        line
        for image, split in enumerate(writing(splits))
        for line in _lines(table, image, _WRITTEN.get(split, "UNASSIGNED"), placing.names[image])
    )
    placing.write_lines("automl.csv", lines)


def _lines(table: DetectionTable, image: int, split: str, name: str) -> Iterator[str]:
    width, height = (max(side, 1) for side in table.sizes[image].tolist())
    rows = list(rows_of(table, image, regions=False))
    for row in rows:
        sides = zip(row.box, (width, height) * 2, strict=True)
        x1, y1, x2, y2 = (f"{side / whole:.15g}" for side, whole in sides)
        yield as_row((split, f"images/{name}", row.name, x1, y1, "", "", x2, y2, "", ""))
    if not rows:
        yield as_row((split, f"images/{name}", *[""] * (_COLUMNS - 1)))


LAYOUT = FilePerSplit(
    "*.csv with lines TRAIN,path,class and corners in fractions, no header", (".csv",), _is_ours
)
FORMAT = Format("AutoML CSV", LAYOUT, read_automl, write_automl, HOLDS)

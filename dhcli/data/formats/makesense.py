"""makesense.ai's CSV: `label,x,y,width,height,image,image width,image height`, without a header.

One line per box, one file per split (`labels_train.csv`). An image without boxes has no line. The
format has no place for marks, scores and regions to ignore.

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dhcli.data.formats.boxes import from_decimals, to_xywh
from dhcli.data.formats.columns import Columns, class_of, side_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import IMAGE_SUFFIXES
from dhcli.data.io.text_rows import are_numbers, as_row, mostly, number_of, read_rows
from dhcli.data.table import DetectionTable, Flag

HOLDS = Holds(
    "from 0: x y width height",
    marks=Flag(0),
    regions=LEFT_OUT,
    empty=False,
    classes=False,
    scores=False,
)

_COLUMNS = 8


def _is_ours(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and mostly(_is_row, path)


def _is_row(row: list[str]) -> bool:
    if len(row) != _COLUMNS or not row[5].lower().endswith(tuple(IMAGE_SUFFIXES)):
        return False
    return bool(row[0]) and are_numbers(row[1:5]) and are_numbers(row[6:])


def read_makesense(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError where no line can be read."""
    columns = Columns(root, path)
    for line, row in columns.full_rows(read_rows(path), _COLUMNS):
        told, *sides, file, width, height = row
        try:
            name, box = class_of(told), from_decimals(*map(number_of, sides))
        except ValueError as error:
            columns.refuse_value(line, error)
            continue
        image = columns.image(file, side_of(width), side_of(height))
        columns.add(name, box, 0, line, image)
    columns.locate()
    return columns.table(columns.classes_after())


def write_makesense(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and a file of labels a split."""
    placing.place("images")
    for split, images in placing.parts().items():
        name = f"labels_{split}.csv" if split else "labels.csv"
        lines = (
            line for image in writing(images.tolist()) for line in _lines(table, image, placing)
        )
        placing.write_lines(name, lines)


def _lines(table: DetectionTable, image: int, placing: Placing) -> Iterator[str]:
    sides = map(str, table.sizes[image].tolist())
    tail = (placing.names[image], *sides)
    for row in rows_of(table, image, regions=False):
        yield as_row((row.name, *map(decimal, to_xywh(row.box)), *tail))


LAYOUT = FilePerSplit(
    "*.csv with lines label,x,y,width,height,image,image width,image height and no header",
    (".csv",),
    _is_ours,
)
FORMAT = Format("MakeSense CSV", LAYOUT, read_makesense, write_makesense, HOLDS)

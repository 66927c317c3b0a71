"""CSV as keras-retinanet has it: `path,x1,y1,x2,y2,class`, without a header.

A line `path,,,,,` is an image without boxes. `classes.csv` beside it, `name,number` from 0, puts
the classes in order, and must list all; without it they are sorted by name. A file a split
(`train_annotations.csv`). Regions to ignore and marks have no place in the format.

Pixels: from 0, the maximum excluded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dhcli.data.formats.class_lists import ClassList, require_agreement
from dhcli.data.formats.columns import Columns, class_of
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import list_files
from dhcli.data.io.text_rows import are_numbers, as_row, mostly, number_of, read_rows
from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import named

HOLDS = Holds(
    "from 0, maximum excluded", marks=Flag(0), regions=LEFT_OUT, scores=False, sizes=False
)

_COLUMNS, _DIGITS = 6, 9


def _is_ours(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and mostly(_is_row, path)


def _is_row(row: list[str]) -> bool:
    return len(row) == _COLUMNS and (not any(row[1:]) or (bool(row[5]) and are_numbers(row[1:5])))


def read_retinanet(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    columns = Columns(root, path)
    for line, row in columns.full_rows(read_rows(path), _COLUMNS):
        try:
            box = [number_of(field) for field in row[1:5]] if any(row[1:]) else []
            name = class_of(row[5]) if box else ""
        except ValueError as error:
            columns.refuse_value(line, error)
            continue
        image = columns.image(row[0])
        if box:
            columns.add(name, box, 0, line, image)
    columns.locate()
    listed = _listed_classes(path.parent)
    if listed is not None:
        _require_listed(columns.class_names(), listed, path)
    return columns.table(columns.classes_after(listed.names.values() if listed else ()))


def _listed_classes(folder: Path) -> ClassList | None:
    """The names in the file of classes in `folder`, in the order of their numbers.

    Raises DataError where there are several that do not agree.
    """
    found = []
    for name in list_files(folder, ".csv"):
        rows = [row for _, row in read_rows(folder / name)] if "class" in name.lower() else []
        if rows and all(len(row) == 2 and row[1].isdecimal() for row in rows):
            told = {int(row[1][:_DIGITS]): row[0] for row in rows}
            found.append(ClassList(name, dict(sorted(told.items()))))
    require_agreement(folder, found)
    return found[0] if found else None


def _require_listed(used: Sequence[str], listed: ClassList, path: Path) -> None:
    """Raise DataError for classes of boxes that the file of classes does not list."""
    unlisted = sorted({*used} - {*listed.names.values()})
    if unlisted:
        what = named(unlisted, f"class that {listed.file} does not list")
        raise DataError(f"has {what}", where=path, hint=f"add it to {listed.file}, or mend it here")


def write_retinanet(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/, classes.csv and a file of annotations a split."""
    placing.place("images")
    classes = (as_row((name, str(number))) for number, name in enumerate(table.classes))
    placing.write_lines("classes.csv", classes)
    for split, images in placing.parts().items():
        name = f"{split}_annotations.csv" if split else "annotations.csv"
        lines = (
            line for image in writing(images.tolist()) for line in _lines(table, image, placing)
        )
        placing.write_lines(name, lines)


def _lines(table: DetectionTable, image: int, placing: Placing) -> Iterator[str]:
    file = f"images/{placing.names[image]}"
    rows = list(rows_of(table, image, regions=False))
    for row in rows:
        yield as_row((file, *map(decimal, row.box), row.name))
    if not rows:
        yield as_row((file, "", "", "", "", ""))


LAYOUT = FilePerSplit("*.csv with lines path,x1,y1,x2,y2,class and no header", (".csv",), _is_ours)
FORMAT = Format("keras-retinanet CSV", LAYOUT, read_retinanet, write_retinanet, HOLDS)

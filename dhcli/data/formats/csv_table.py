"""CSV as TensorFlow's and Keras's tutorials have it: a header, a line a box.

`filename,width,height,class,xmin,ymin,xmax,ymax` in any order and case, and under the usual other
names (`image`, `label`, `x1` …); commas, or semicolons where decimals have commas, or tabs. Width
and height may be left out. Columns called `difficult`, `truncated`, `occluded`, `crowd`, `ignore`
and `score` are kept. A file a split (`train_labels.csv`).

An image without boxes has no line: such images of the folder are not known to belong.

Pixels: from 0, the maximum excluded, as the files say. (Those made from Pascal VOC may count from
1: convert the VOC files themselves, `dh` knows their rule.) Classes: sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dhcli.data.formats.columns import (
    MARKS,
    Columns,
    class_of,
    flags_told,
    marks_of,
    number_of,
    side_of,
)
from dhcli.data.formats.csv_rows import as_row, find_column, first_row, header_of, read_rows
from dhcli.data.formats.finding import find_files, locate_images, read_as_splits
from dhcli.data.formats.format import Format
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError

LOOKS_FOR = "*.csv with columns filename, class, xmin, ymin, xmax, ymax (CSV)"
HOLDS = Holds("from 0, maximum excluded", empty=False, classes=False)

_NAMES = {
    "file": ("filename", "file", "filepath", "image", "imagename", "imagepath", "path", "img"),
    "class": ("class", "label", "classname", "labelname", "name", "category"),
    "xmin": ("xmin", "x1", "left"),
    "ymin": ("ymin", "y1", "top"),
    "xmax": ("xmax", "x2", "right"),
    "ymax": ("ymax", "y2", "bottom"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "score": ("score", "confidence"),
}
"""What columns are called: our name, and theirs."""
_NEEDED = ("file", "class", "xmin", "ymin", "xmax", "ymax")
_WRITTEN = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def sniff_csv(path: Path) -> bool:
    """Whether `path` is such a file, or a folder with some."""
    return _is_csv(path) if path.is_file() else bool(find_files(path, ".csv", _is_csv))


def _is_csv(path: Path) -> bool:
    found = _columns_of(first_row(path)) if path.suffix.lower() == ".csv" else {}
    return all(name in found for name in _NEEDED)


def _columns_of(row: list[str]) -> dict[str, int]:
    """Our names of the columns that a header has, and where."""
    header = header_of(row)
    named = {name: find_column(header, theirs) for name, theirs in _NAMES.items()}
    marks = {name: find_column(header, (name, f"is{name}")) for name in MARKS}
    return {name: column for name, column in (named | marks).items() if column is not None}


def read_csv(path: Path) -> DetectionTable:
    """Read one file, or all in a folder as splits.

    Raises DataError with the file and line of what cannot be read.
    """
    files = [] if path.is_file() else find_files(path, ".csv", _is_csv)
    return read_as_splits(path, files, _read_file, LOOKS_FOR, "CSV")


def _read_file(root: Path, path: Path) -> DetectionTable:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    place = _columns_of(header)
    missing = [name for name in _NEEDED if name not in place]
    if missing:
        raise DataError(f"has no column for {', '.join(missing)}", where=path)
    columns = Columns()
    annotation = path.relative_to(root).as_posix()
    for line, row in rows:
        try:
            _add_row(columns, {name: row[at] for name, at in place.items()}, annotation, line)
        except IndexError:
            what = f"expected {len(header)} columns, found {len(row)}"
            raise DataError(what, where=f"{path}:{line}") from None
        except ValueError as error:
            what = f"has a value that cannot be used: {error}"
            raise DataError(what, where=f"{path}:{line}") from None
    columns.files, notes = locate_images(root, path, columns.files)
    return columns.table(root, columns.classes_after(), format="csv", notes=tuple(notes))


def _add_row(columns: Columns, row: dict[str, str], annotation: str, line: int) -> None:
    width, height = side_of(row.get("width")), side_of(row.get("height"))
    image = columns.image(row["file"], width, height, annotation)
    if not any(row[name] for name in _NEEDED[1:]):  # an image without boxes, as some write it
        return
    label = columns.label_of(class_of(row["class"]))
    box = [number_of(row[side]) for side in _NEEDED[2:]]
    region = Flag.IGNORE.value if label == ANY_CLASS else 0
    columns.add_box(label, box, flags_told(row) | region, line, image)
    if row.get("score"):
        columns.scores.append(number_of(row["score"]))


def write_csv(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and a file a split, with a column for each mark that is used."""
    placing.place("images")
    marks = [name for name, flag in MARKS.items() if table.has(flag).any()]
    more = [*marks, *(["score"] if table.scores is not None else [])]
    for split, images in placing.parts().items():
        name = f"{split}_labels.csv" if split else "labels.csv"
        lines = (line for image in images.tolist() for line in _lines(table, image, placing, marks))
        placing.write_lines(name, [as_row((*_WRITTEN, *more)), *lines])


def _lines(table: DetectionTable, image: int, placing: Placing, marks: list[str]) -> Iterator[str]:
    sides = map(str, table.sizes[image].tolist())
    head = (placing.names[image], *sides)
    for row in rows_of(table, image):
        told = marks_of(row.flags)
        fields = [*head, row.name, *map(decimal, row.box), *(str(int(m in told)) for m in marks)]
        yield as_row(fields if row.score is None else [*fields, decimal(row.score)])


FORMAT = Format("CSV", LOOKS_FOR, sniff_csv, read_csv, write_csv, HOLDS)

"""Open Images: a CSV line a box, in fractions of the image, classes by codes such as `/m/01g317`.

`ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,…`, a file
a split (`train-annotations-bbox.csv`, or `train/labels/detections.csv` as FiftyOne lays it).
`*class-descriptions*.csv` or `metadata/classes.csv`, `code,name`, gives the codes their names;
without it, or where it does not know one, the code is the name; several must agree. `IsGroupOf` is
crowd; -1, not known, is no. `Confidence` is a score where any is not 1, as the dataset's own all
are. The image of an id is the file of that name.

Pixels: fractions of width and height, so the images must be there. Classes: those used, in the
order of the descriptions, then by name. Images without boxes are in no line.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Sequence
from pathlib import Path

from dhcli.data.formats.class_lists import ClassList, require_agreement
from dhcli.data.formats.columns import Columns, class_of, is_set
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.files import list_files, stem_of
from dhcli.data.io.text_rows import as_row, first_row, header_of, number_of, read_rows
from dhcli.data.table import REGION, DetectionTable, Flag
from dhcli.errors import DataError

HOLDS = Holds(
    "fractions of the image",
    marks=Flag.TRUNCATED | Flag.OCCLUDED,
    regions="written as IsGroupOf",
    classless=True,
    empty=False,
    classes=False,
    sizes=False,
    fractions=True,
)

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NEEDED = ("imageid", "labelname", *_SIDES)
_MARKS = {
    "isoccluded": Flag.OCCLUDED,
    "istruncated": Flag.TRUNCATED,
    "isgroupof": Flag.CROWD,
}
_PLACES = ("metadata", "annotations", "labels")
_HEADER = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)


def is_openimages(path: Path) -> bool:
    """Whether a file is one of Open Images."""
    return path.suffix.lower() == ".csv" and set(_NEEDED) <= set(header_of(first_row(path)))


def read_openimages(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line that cannot be read, or without any image."""
    rows = read_rows(path)
    header = header_of(next(rows, (0, []))[1])
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(f"has no column {', '.join(missing)}", where=path)
    columns, names = Columns(root, path), _descriptions(root, path.parent)
    for line, row in columns.full_rows(rows, len(header)):
        try:
            _add_box(columns, dict(zip(header, row, strict=True)), names, line)
        except ValueError as error:
            columns.refuse_value(line, error)
    if all(score == 1 for score in columns.scores):
        del columns.scores[:]
    columns.locate()
    used = set(columns.class_names())
    classes = columns.classes_after(name for name in names.values() if name in used)
    return columns.table_of_fractions(classes)


def _add_box(columns: Columns, row: dict[str, str], names: dict[str, str], line: int) -> None:
    code = class_of(row["labelname"])
    flags = sum(flag.value for name, flag in _MARKS.items() if is_set(row.get(name)))
    box = [number_of(row[side]) for side in _SIDES]
    score = number_of(row["confidence"]) if row.get("confidence") else None
    image = columns.image(row["imageid"])
    columns.add(names.get(code, code), box, flags, line, image, score)


def _descriptions(root: Path, folder: Path) -> dict[str, str]:
    """Code → name, from all files of class descriptions at the places where they lie.

    Those of one may be some of another's. Raises DataError where they do not agree.
    """
    places = (folder, folder.parent, root)
    found = []
    for place in dict.fromkeys(p / sub for p in places for sub in ("", *_PLACES)):
        for name in list_files(place, ".csv") if place.is_relative_to(root) else ():
            if "class-descriptions" in name.lower() or name.lower() == "classes.csv":
                rows = (row for _, row in read_rows(place / name))
                names = {row[0]: row[1] for row in rows if len(row) == 2 and row[1]}
                found.append(ClassList((place / name).relative_to(root).as_posix(), names))
    require_agreement(root, found, in_part=True)
    return dict(ChainMap(*(dict(each.names) for each in found)))


def write_openimages(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/, class-descriptions-boxable.csv and a file of boxes a split.

    Classes are their own codes.
    """
    placing.place("images")
    classes = (as_row((name, name)) for name in table.classes)
    placing.write_lines("class-descriptions-boxable.csv", classes)
    for split, images in placing.parts().items():
        name = f"{split}-annotations-bbox.csv" if split else "annotations-bbox.csv"
        lines = (
            line for image in writing(images.tolist()) for line in _lines(table, image, placing)
        )
        placing.write_lines(name, [as_row(_HEADER), *lines])


def _lines(table: DetectionTable, image: int, placing: Placing) -> Iterator[str]:
    stem = stem_of(placing.names[image])
    sides = [max(side, 1) for side in table.sizes[image].tolist()]
    for row in rows_of(table, image):
        yield as_row((stem, "xclick", row.name, *_fields(row, sides)))


def _fields(row: Row, sides: Sequence[int]) -> Iterator[str]:
    x1, y1, x2, y2 = row.box
    width, height = sides
    yield "1" if row.score is None else decimal(row.score)
    yield from (f"{value:.15g}" for value in (x1 / width, x2 / width, y1 / height, y2 / height))
    flags = row.flags
    for flag in (Flag.OCCLUDED, Flag.TRUNCATED, REGION):
        yield str(int(bool(flags & flag)))
    yield from ("0", "0")


LAYOUT = FilePerSplit(
    "*.csv with columns ImageID, LabelName, XMin, XMax, YMin, YMax",
    (".csv",),
    is_openimages,
    folders=("annotations", "labels"),
)
FORMAT = Format("Open Images", LAYOUT, read_openimages, write_openimages, HOLDS)

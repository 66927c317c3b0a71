"""Open Images: a CSV line a box, in fractions of the image, classes by codes such as `/m/01g317`.

`ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,…`, a file
a split (`train-annotations-bbox.csv`). `*class-descriptions*.csv`, `code,name`, gives the codes
their names; without it, or where it does not know one, the code is the name. `IsGroupOf` is crowd;
-1, not known, is no. `Confidence` is a score where any is not 1, as the dataset's own all are. The
image of an id is the file of that name.

Pixels: fractions of width and height, so the images must be there. Classes: those used, in the
order of the descriptions, then by name. Images without boxes are in no line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dhcli.data.formats.columns import Columns, class_of, is_set, number_of
from dhcli.data.formats.format import Format
from dhcli.data.formats.locate import find_files, locate_images, missing_sizes, read_as_splits
from dhcli.data.formats.placing import Holds, Placing, Row, decimal, rows_of, writing
from dhcli.data.io.csv_rows import as_row, first_row, header_of, read_rows
from dhcli.data.io.files import list_files, stem_of
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError

LOOKS_FOR = "*.csv with columns ImageID, LabelName, XMin, XMax, YMin, YMax (Open Images)"
HOLDS = Holds(
    "fractions of the image",
    marks=Flag.TRUNCATED | Flag.OCCLUDED,
    regions="written as IsGroupOf",
    classless=True,
    empty=False,
    classes=False,
    sizes=False,
)

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NEEDED = ("imageid", "labelname", *_SIDES)
_MARKS = {
    "isoccluded": Flag.OCCLUDED,
    "istruncated": Flag.TRUNCATED,
    "isgroupof": Flag.CROWD,
}
_HEADER = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)


def sniff_openimages(path: Path) -> bool:
    """Whether `path` is such a file, or a folder with some."""
    return _is_ours(path) if path.is_file() else bool(find_files(path, ".csv", _is_ours))


def _is_ours(path: Path) -> bool:
    return path.suffix.lower() == ".csv" and set(_NEEDED) <= set(header_of(first_row(path)))


def read_openimages(path: Path) -> DetectionTable:
    """Read one file, or all in a folder as splits.

    Raises DataError with the file and line of what cannot be read, or where no image is there.
    """
    files = [] if path.is_file() else find_files(path, ".csv", _is_ours)
    return read_as_splits(path, files, _read_file, LOOKS_FOR, "Open Images")


def _read_file(root: Path, path: Path) -> DetectionTable:
    rows = read_rows(path)
    header = header_of(next(rows, (0, []))[1])
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(f"has no column {', '.join(missing)}", where=path)
    columns = Columns()
    annotation = path.relative_to(root).as_posix()
    names = _descriptions(root, path.parent)
    for line, row in rows:
        where = f"{path}:{line}"
        if len(row) != len(header):
            raise DataError(f"expected {len(header)} columns, found {len(row)}", where=where)
        told = dict(zip(header, row, strict=True))
        image = columns.image(told["imageid"], 0, 0, annotation)
        try:
            _add_box(columns, told, names, line, image)
        except ValueError as error:
            raise DataError(f"has a value that cannot be used: {error}", where=where) from None
    if all(score == 1 for score in columns.scores):
        del columns.scores[:]
    columns.files, notes = locate_images(root, path, columns.files)
    sizes = columns.sizes(root)
    notes += missing_sizes(sizes, path)
    used = set(columns.class_names())
    return columns.table(
        root,
        columns.classes_after(name for name in names.values() if name in used),
        boxes=columns.in_pixels(sizes),
        sizes=sizes,
        format="openimages",
        notes=tuple(notes),
    )


def _add_box(
    columns: Columns, row: dict[str, str], names: dict[str, str], line: int, image: int
) -> None:
    code = class_of(row["labelname"])
    label = columns.label_of(names.get(code, code))
    flags = sum(flag.value for name, flag in _MARKS.items() if is_set(row.get(name)))
    flags |= Flag.IGNORE.value if label == ANY_CLASS else 0
    columns.add_box(label, [number_of(row[side]) for side in _SIDES], flags, line, image)
    if row.get("confidence"):
        columns.scores.append(number_of(row["confidence"]))


def _descriptions(root: Path, folder: Path) -> dict[str, str]:
    """Code → name, from the first file of class descriptions at the places where they lie."""
    for place in dict.fromkeys((folder, root, root / "metadata", root / "annotations")):
        for name in list_files(place, ".csv"):
            if "class-descriptions" in name.lower():
                rows = (row for _, row in read_rows(place / name))
                return {row[0]: row[1] for row in rows if len(row) == 2 and row[1]}
    return {}


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
    for flag in (Flag.OCCLUDED, Flag.TRUNCATED, Flag.CROWD | Flag.IGNORE):
        yield str(int(bool(flags & flag)))
    yield from ("0", "0")


FORMAT = Format(
    "Open Images", LOOKS_FOR, sniff_openimages, read_openimages, write_openimages, HOLDS
)

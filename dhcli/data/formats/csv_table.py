"""CSV as TensorFlow's and Keras's tutorials have it: a header, one line per box.

`filename,width,height,class,xmin,ymin,xmax,ymax` in any order and case, and under the usual other
names (`image`, `label`, `x1` …); commas, or semicolons where decimals have commas, or tabs, or what
Excel's first line `sep=;` says. A quoted "1,030" between commas could be two numbers: an error.
Width and height may be left out. In place of corners a box may be told as `x,y,width,height`, or as
`[x, y, width, height]` in one column `bbox`, or as four corners, `x1,y1` … `x4,y4`. Without a
column for it the class is `object`. Columns called `difficult`, `truncated`, `occluded`, `crowd`,
`ignore` and `score` are kept, and any other column that says the same of all boxes of an image
(`patient`, `video`). A file a split (`train_labels.csv`), or a column `split`, `subset`, `set` or
`partition` that says train, val or test of every image.

An image without boxes has a line without coordinates (with NaN or None for them and the class,
too), or none: then it is not known to belong.

Pixels: from 0, the maximum excluded, as the files say. (Those made from Pascal VOC may count from
1: convert the VOC files themselves, `dh` knows their rule.) Classes: sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from dhcli.data.formats.boxes import Box, from_decimals, hull
from dhcli.data.formats.columns import (
    MARKS,
    NO_NAME,
    Columns,
    class_of,
    flags_told,
    marks_of,
    side_of,
)
from dhcli.data.formats.corners import with_notes_on_corners
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.openimages import is_openimages
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import usual_split
from dhcli.data.io.text_rows import (
    as_row,
    find_column,
    first_row,
    header_of,
    number_of,
    read_rows,
)
from dhcli.data.strings import Strings
from dhcli.data.table import OWN_COLUMN, DetectionTable
from dhcli.errors import DataError
from dhcli.words import as_cell, of_cell

HOLDS = Holds("from 0, maximum excluded", empty=False, classes=False, own_columns=True)

_Names = dict[str, tuple[str, ...]]

_FOUR: _Names = {f"{axis}{n}": (f"{axis}{n}",) for n in range(1, 5) for axis in "xy"}
_CORNERS: _Names = {
    "xmin": ("xmin", "x1", "left"),
    "ymin": ("ymin", "y1", "top"),
    "xmax": ("xmax", "x2", "right"),
    "ymax": ("ymax", "y2", "bottom"),
}
_LISTED: _Names = {"bbox": ("bbox", "boundingbox", "box")}
_SIZED: _Names = {
    "x": ("x", "xmin", "left", "x1"),
    "y": ("y", "ymin", "top", "y1"),
    "w": ("w", "width", "bboxwidth"),
    "h": ("h", "height", "bboxheight"),
}
_BOXES = (_FOUR, _CORNERS, _LISTED, _SIZED)
"""The columns of a box, in the ways to tell it; the first that is there counts."""
_WITH_SIDES = (tuple(_LISTED), tuple(_SIZED))
_NAMES: _Names = {
    "file": (
        *("filename", "file", "filepath", "image", "imagename", "imagepath", "path", "img"),
        "imageid",
    ),
    "class": ("class", "label", "classname", "labelname", "name", "category"),
    "width": ("imagewidth", "imgwidth", "width"),
    "height": ("imageheight", "imgheight", "height"),
    "score": ("score", "confidence"),
    **{name: (name, f"is{name}") for name in MARKS},
}
"""What other columns are called: our name, and theirs."""
_AROUND = "box of four corners: read as the box around them"
_NONE = frozenset(("", "nan", "none", "null", "na", "n/a"))
"""What programs write for nothing."""
_SPLIT_COLUMNS = ("split", "subset", "set", "partition")
_SPLITS = frozenset(("train", "val", "test"))
_LIST = str.maketrans("[](),", "     ")
_WRITTEN = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


def _is_csv(path: Path) -> bool:
    place, box = _places_of(first_row(path) if path.suffix.lower() == ".csv" else [])
    return "file" in place and bool(box) and not is_openimages(path)


def _tells_classes(path: Path) -> bool:
    return _is_csv(path) and "class" in _places_of(first_row(path))[0]


def _places_of(row: list[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """Our names of the columns that a header has, and where; and those of the box."""
    header = header_of(row)
    for way in _BOXES:
        place = _find(header, way)
        if len(place) == len(way):
            rest = [name if at not in place.values() else "" for at, name in enumerate(header)]
            return _find(rest, _NAMES) | place, tuple(way)
    return _find(header, _NAMES), ()


def _find(header: list[str], names: _Names) -> dict[str, int]:
    found = {name: find_column(header, theirs) for name, theirs in names.items()}
    return {name: column for name, column in found.items() if column is not None}


def read_csv(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError with the line of what cannot be read."""
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    columns = Columns(root, path)
    reader = _Reader(columns, header)
    if "file" not in reader.place or not reader.box:
        missing = "the image" if "file" not in reader.place else "xmin, ymin, xmax, ymax"
        raise DataError(f"has no column for {missing}", where=path)
    for line, row in rows:
        try:
            reader.add(row, line)
        except IndexError:
            what = f"expected {len(header)} columns, found {len(row)}"
            columns.refuse(DataError(what, where=f"{path}:{line}"))
        except ValueError as error:
            columns.refuse_value(line, error)
    columns.locate()
    reader.take_splits()
    columns.notes += reader.notes()
    own = reader.own_columns()
    table = columns.table(columns.classes_after(), image_extras=own)
    return with_notes_on_corners(table) if reader.box in _WITH_SIDES else table


class _Reader:
    """Takes the rows below a `header` and fills columns."""

    def __init__(self, columns: Columns, header: list[str]) -> None:
        self.columns = columns
        self.place, self.box = _places_of(header)
        self._count = len(header)
        used = set(self.place.values())
        own = {name: at for at, name in enumerate(header) if name and at not in used}
        self._own = {name: (at, list[str]()) for name, at in own.items()}
        self._varying: set[str] = set()
        self._seen: dict[str, str] = {}  # equal values are kept once

    def add(self, row: list[str], line: int) -> None:
        """Take a row. Raises ValueError for what cannot be used, IndexError for missing columns.

        And for columns that the header does not tell of: which are meant is not known then.
        """
        if any(row[self._count :]):
            raise IndexError
        told = {name: row[at] for name, at in self.place.items()}
        is_box = _is_box(told, self.box)
        box = _corners(told) if is_box else None
        if "x4" in told:
            self.columns.counts[_AROUND] += is_box
        name = class_of(of_cell(told.get("class", NO_NAME))) if is_box else ""
        score = number_of(told["score"]) if is_box and told.get("score") else None
        width, height = side_of(told.get("width")), side_of(told.get("height"))
        image = self.columns.image(of_cell(told["file"]), width, height)
        self._keep_own(row, image)
        if box is not None:
            self.columns.add(name, box, flags_told(told), line, image, score)

    def _keep_own(self, row: list[str], image: int) -> None:
        for name, (at, values) in self._own.items():
            value = row[at] if at < len(row) else ""
            value = self._seen.setdefault(value, value)
            values += [value] * (image + 1 - len(values))
            if values[image] != value:
                self._compare(name, value, values[image])

    def _compare(self, name: str, value: str, before: str) -> None:
        """Take note that a column varies. Raises ValueError for two splits of an image."""
        one, other = map(_split_of, (value, before)) if name.lower() in _SPLIT_COLUMNS else ("", "")
        if not (one and other):
            self._varying.add(name)
        elif one != other:
            raise ValueError(f"`{name}` is `{value}`, and above `{before}`")

    def take_splits(self) -> None:
        """Have the images in the splits that a column of their own tells of; it is none then."""
        columns = ((n, values) for n, (_, values) in self._own.items() if n not in self._varying)
        for name, values in columns:
            if name.lower() in _SPLIT_COLUMNS and all(told := [*map(_split_of, values)]):
                for image, split in enumerate(told):
                    self.columns.splits[split].append(image)
                del self._own[name]
                return

    def own_columns(self) -> dict[str, Strings]:
        """The columns that are not ours, of those that say the same of all boxes of an image."""
        return {
            f"{OWN_COLUMN}{name}": Strings.pack(values)
            for name, (_, values) in self._own.items()
            if name not in self._varying
        }

    def notes(self) -> list[str]:
        """What was not found, and what is not kept."""
        notes = [] if "class" in self.place else [f"no column with the class: called `{NO_NAME}`"]
        if self._varying:
            names = ", ".join(f"`{name}`" for name in self._own if name in self._varying)
            notes.append(f"columns not kept, because they differ within an image: {names}")
        return notes


def _split_of(told: str) -> str:
    """The split that a column tells of, "" for none."""
    split = usual_split(told.strip())
    return split if split in _SPLITS else ""


def _is_box(told: dict[str, str], names: Iterable[str]) -> bool:
    """Whether a row tells of a box, in the columns `names`: not where they are empty.

    Nor where they are all words for nothing, and so is the class.
    """
    if all(told[name][:1].isdigit() for name in names):
        return True  # as nearly always, without more ado
    fields = {told[name].translate(_LIST).strip().lower() for name in names}
    nothing = told.get("class", "").strip().lower() in _NONE and fields <= _NONE
    return fields != {""} and not nothing


def _corners(told: dict[str, str]) -> Box:
    """The box xyxy of a row."""
    if "x4" in told:
        return hull((told[f"x{n}"], told[f"y{n}"]) for n in range(1, 5))
    if "xmax" in told:
        x1, y1, x2, y2 = (number_of(told[side]) for side in _CORNERS)
        return x1, y1, x2, y2
    fields = told["bbox"].translate(_LIST).split() if "bbox" in told else [told[n] for n in _SIZED]
    if len(fields) != 4:
        raise ValueError(f"`{told['bbox'][:40]}` is not a box")
    x, y, width, height = map(number_of, fields)
    return from_decimals(x, y, width, height)


def write_csv(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and one file per split, with a column for each mark that is used."""
    placing.place("images")
    marks = [name for name, flag in MARKS.items() if table.has(flag).any()]
    score = ["score"] if table.scores is not None else []
    own = table.own_columns()
    header = as_row((*_WRITTEN, *marks, *score, *own))
    for split, images in placing.parts().items():
        name = f"{split}_labels.csv" if split else "labels.csv"
        lines = (
            line
            for image in writing(images.tolist())
            for line in _lines(table, image, placing, marks)
        )
        placing.write_lines(name, [header, *lines])


def _lines(table: DetectionTable, image: int, placing: Placing, marks: list[str]) -> Iterator[str]:
    sides = map(str, table.sizes[image].tolist())
    head = (as_cell(placing.names[image]), *sides)
    own = [column[image] for column in table.own_columns().values()]
    for row in rows_of(table, image):
        told = marks_of(row.flags)
        fields = [
            *head,
            as_cell(row.name),
            *map(decimal, row.box),
            *(str(int(m in told)) for m in marks),
        ]
        score = [] if row.score is None else [decimal(row.score)]
        yield as_row((*fields, *score, *own))


LAYOUT = FilePerSplit(
    "*.csv with columns filename, class, xmin, ymin, xmax, ymax; no class: --from csv",
    (".csv",),
    _is_csv,
    in_folder=_tells_classes,
)
FORMAT = Format("CSV", LAYOUT, read_csv, write_csv, HOLDS)

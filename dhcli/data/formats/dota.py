"""DOTA: one text file per image in `labelTxt`, one line per box: four corners, class, difficult.

`x1 y1 x2 y2 x3 y3 x4 y4 category difficult`, after lines such as `imagesource:GoogleEarth` and
`gsd:0.15`, which are not kept. The folder may be called `labelTxt-v1.0/…` or `annfiles` too. A box
that lies askew is read as the upright box around its corners, counted. Folders called train, val or
test are the splits. Class names cannot hold spaces: they are written with "-".

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dhcli.data.formats.boxes import hull_of_row
from dhcli.data.formats.columns import DONT_CARE, Columns, is_set
from dhcli.data.formats.layouts import FilePerImage, Format, Part, add_part
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    first_folder,
    join_path,
    list_folders,
    read_head,
    split_folders,
    stem_of,
)
from dhcli.data.io.text_rows import line_of, numbers_of, read_words
from dhcli.data.table import REGION, DetectionTable, Flag
from dhcli.errors import DataError

HOLDS = Holds(
    "from 0, four corners",
    marks=Flag.DIFFICULT,
    regions="written as difficult `DontCare`",
    classless=True,
    classes=False,
    sizes=False,
    scores=False,
    splits=False,
    blank="-",
)

_LABELS = "labelTxt"
_LABEL_FOLDERS = (_LABELS.lower(), "annfiles")
_HEADS = ("imagesource", "gsd", "acquisition")


def _is_dota(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    rows = (row.split() for row in read_head(path).splitlines())
    return _is_box(next((row for row in rows if row and not _is_head(row[0])), []))


def _is_head(word: str) -> bool:
    return word.lower().startswith(tuple(f"{name}:" for name in _HEADS))


def _is_box(fields: list[str]) -> bool:
    try:
        hull_of_row(fields[:8])
    except (ValueError, IndexError):
        return False
    return len(fields) in (9, 10) and not fields[8].replace(".", "").isdigit()


def read_dota(root: Path, parts: list[Part]) -> DetectionTable:
    """Read label files. Raises DataError with the file and line of what cannot be read."""
    columns = Columns(root)
    for part in parts:
        add_part(columns, root, part, ".png", lambda path: _read_labels(path, columns))
    return columns.table(columns.classes_after())


def _parts(root: Path) -> list[Part]:
    """Where there are labels."""
    found = []
    for split, base in [("", "."), *split_folders(root)]:
        names = [n for n in list_folders(root / base) if n.lower().startswith(_LABEL_FOLDERS)]
        inner = [f"{name}/{each}" for name in names for each in list_folders(root / base / name)]
        folder = first_folder(root / base, (*names, *inner), ".txt")
        if folder is not None:
            found.append(Part(split, join_path(base, folder), _images(root, base)))
    return found


def _images(root: Path, base: str) -> str:
    """The folder of images in the folder `base`."""
    folder = first_folder(root / base, IMAGE_FOLDERS, *IMAGE_SUFFIXES) or "images"
    return join_path(base, folder)


def _around(path: Path) -> tuple[Path, list[Part]]:
    root = path.parent.parent
    return root, [Part("", path.parent.name, _images(root, "."), [path.name])]


def _read_labels(path: Path, columns: Columns) -> None:
    """Add the boxes of one label file."""
    for where, words in read_words(path):
        fields = " ".join(words).replace(",", " ").split()
        if not fields or _is_head(fields[0]):
            continue
        try:
            corners = _corners(fields, where)
        except DataError as error:
            columns.refuse(error, len(columns.files) - 1)
            continue
        askew = len(set(corners[::2])) > 2 or len(set(corners[1::2])) > 2
        columns.counts["box askew: read as the upright box around"] += askew
        difficult = len(fields) == 10 and is_set(fields[9]) and fields[8] != DONT_CARE
        marks = difficult * Flag.DIFFICULT.value
        columns.add(fields[8], hull_of_row(corners), marks, line_of(where))


def _corners(fields: list[str], where: str) -> list[float]:
    """The eight numbers of a row. Raises DataError."""
    if len(fields) not in (9, 10):
        what = f"expected 8 numbers, a class and `difficult`; found {len(fields)} columns"
        raise DataError(what, where=where)
    return numbers_of(fields[:8], where)


def write_dota(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and labelTxt/, in one folder per split."""
    bases = [f"{split}/" if split else "" for split in placing.split_of_images()]
    placing.place([f"{base}images" for base in bases])
    for image, (base, name) in enumerate(zip(bases, writing(placing.names), strict=True)):
        placing.write(f"{base}{_LABELS}/{stem_of(name)}.txt", "".join(_lines(table, image)))


def _lines(table: DetectionTable, image: int) -> Iterator[str]:
    for row in rows_of(table, image):
        x1, y1, x2, y2 = map(decimal, row.box)
        region = bool(row.flags & REGION)
        name = DONT_CARE if region else row.name
        difficult = int(region or Flag.DIFFICULT in row.flags)
        yield f"{x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2} {name} {difficult}\n"


LAYOUT = FilePerImage("labelTxt/*.txt beside images/", _is_dota, _parts, _around)
FORMAT = Format("DOTA", LAYOUT, read_dota, write_dota, HOLDS)

"""DOTA: a text file an image in `labelTxt`, a line a box: four corners, class, difficult.

`x1 y1 x2 y2 x3 y3 x4 y4 category difficult`, after lines such as `imagesource:GoogleEarth` and
`gsd:0.15`, which are not kept. The folder may be called `labelTxt-v1.0/…` or `annfiles` too. A box
that lies askew is read as the upright box around its corners, counted. Folders called train, val or
test are the splits. Class names cannot hold spaces: they are written with "-".

Pixels: from 0, the maximum excluded. Classes: sorted by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dhcli.data.formats.columns import DONT_CARE, Columns, hull, is_set, number_of
from dhcli.data.formats.format import Format
from dhcli.data.formats.placing import Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    FilesByStem,
    first_folder,
    join_path,
    list_files,
    list_folders,
    read_head,
    read_text,
    split_folders,
    stem_of,
)
from dhcli.data.io.progress import track
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import counted

LOOKS_FOR = "labelTxt/*.txt beside images/ (DOTA)"
HOLDS = Holds(
    "from 0, four corners",
    marks=Flag.DIFFICULT,
    regions="written as difficult `DontCare`",
    classless=True,
    classes=False,
    sizes=False,
    scores=False,
    splits=False,
)

_LABELS = "labelTxt"
_LABEL_FOLDERS = (_LABELS.lower(), "annfiles")
_HEADS = ("imagesource", "gsd", "acquisition")


def sniff_dota(path: Path) -> bool:
    """Whether `path` is a folder with `labelTxt`, or one of its label files."""
    return _is_dota(path) if path.is_file() else bool(_parts(path))


def _is_dota(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    rows = (row.split() for row in read_head(path).splitlines())
    return _is_box(next((row for row in rows if row and not _is_head(row[0])), []))


def _is_head(word: str) -> bool:
    return word.lower().startswith(tuple(f"{name}:" for name in _HEADS))


def _is_box(fields: list[str]) -> bool:
    try:
        hull([fields[i : i + 2] for i in range(0, 8, 2)])
    except (ValueError, IndexError):
        return False
    return len(fields) in (9, 10) and not fields[8].replace(".", "").isdigit()


def read_dota(path: Path) -> DetectionTable:
    """Read a folder, folders of splits too, or one label file.

    Raises DataError with the file and line of what cannot be read.
    """
    columns = Columns()
    root = path if path.is_dir() else path.parent.parent
    parts = _parts(path) if path.is_dir() else [("", ".", path.parent.name)]
    for split, base, labels in parts:
        start = len(columns.files)
        names = list_files(root / labels, ".txt") if path.is_dir() else [path.name]
        _read_folder(root, base, labels, names, columns)
        columns.end_split(split, start)
    return columns.table(
        root,
        columns.classes_after(),
        format="dota",
    )


def _parts(root: Path) -> list[tuple[str, str, str]]:
    """(split or "", its folder, the folder of its labels) where there are labels."""
    found = []
    for split, base in [("", "."), *split_folders(root)]:
        names = [n for n in list_folders(root / base) if n.lower().startswith(_LABEL_FOLDERS)]
        inner = [f"{name}/{each}" for name in names for each in list_folders(root / base / name)]
        folder = first_folder(root / base, (*names, *inner), ".txt")
        if folder is not None:
            found.append((split, base, join_path(base, folder)))
    return found


def _read_folder(root: Path, base: str, labels: str, names: list[str], columns: Columns) -> None:
    folder = first_folder(root / base, IMAGE_FOLDERS, *IMAGE_SUFFIXES) or "images"
    folder = join_path(base, folder)
    images = FilesByStem(root / folder, *IMAGE_SUFFIXES)
    for name in track(names, "annotation files read"):
        stem = stem_of(name)
        image = images.find(stem) or f"{stem}.png"
        columns.add_image(join_path(folder, image), 0, 0, f"{labels}/{name}")
        _read_labels(root / labels / name, columns)
    if len(names) > 1:
        left_out = len(images.keys() - set(map(stem_of, names)))
        columns.counts["image without label file: left out"] += left_out


def _read_labels(path: Path, columns: Columns) -> None:
    """Add the boxes of one label file."""
    for line, row in enumerate(read_text(path).splitlines(), 1):
        fields = row.replace(",", " ").split()
        if not fields or _is_head(fields[0]):
            continue
        if len(fields) not in (9, 10):
            what = f"expected 8 numbers, a class and `difficult`; found {len(fields)} columns"
            raise DataError(what, where=f"{path}:{line}")
        try:
            corners = [number_of(field) for field in fields[:8]]
        except ValueError as error:
            what = f"has a column that is no number: {error}"
            raise DataError(what, where=f"{path}:{line}") from None
        box = hull(zip(corners[::2], corners[1::2], strict=True))
        askew = len(set(corners[::2])) > 2 or len(set(corners[1::2])) > 2
        columns.counts["box askew: read as the upright box around"] += askew
        label = columns.label_of(fields[8])
        difficult = len(fields) == 10 and is_set(fields[9])
        flags = Flag.IGNORE if label == ANY_CLASS else Flag.DIFFICULT if difficult else Flag(0)
        columns.add_box(label, box, flags.value, line)


def write_dota(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images/ and labelTxt/, in a folder a split."""
    bases = [f"{split}/" if split else "" for split in placing.split_of_images()]
    placing.place([f"{base}images" for base in bases])
    spaced = sum(name != _word(name) for name in table.classes)
    if spaced:
        placing.lost.append(f"spaces in {counted(spaced, 'name')} of classes: written as `-`")
    for image, (base, name) in enumerate(zip(bases, writing(placing.names), strict=True)):
        placing.write(f"{base}{_LABELS}/{stem_of(name)}.txt", "".join(_lines(table, image)))


def _lines(table: DetectionTable, image: int) -> Iterator[str]:
    for row in rows_of(table, image):
        x1, y1, x2, y2 = map(decimal, row.box)
        region = bool(row.flags & (Flag.CROWD | Flag.IGNORE))
        name = DONT_CARE if region else _word(row.name)
        difficult = int(region or Flag.DIFFICULT in row.flags)
        yield f"{x1} {y1} {x2} {y1} {x2} {y2} {x1} {y2} {name} {difficult}\n"


def _word(name: str) -> str:
    return "-".join(name.split()) or "-"


FORMAT = Format("DOTA", LOOKS_FOR, sniff_dota, read_dota, write_dota, HOLDS)

"""keras-yolo3's text: one line per image, `path x1,y1,x2,y2,class x1,y1,x2,y2,class …`.

A file a split: as Roboflow has it `train/_annotations.txt` beside the images, or `train.txt`. The
classes are numbers, from 0, of the lines in `_classes.txt` (or another file called so) beside it or
in the root, else in `model_data`; several must agree. Without one, classes are called by their
numbers. A path alone is an image without boxes. Marks, scores and regions to ignore have no place
in the format.

Pixels: from 0, the maximum excluded. (keras-yolo3 itself takes whole numbers alone.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from dhcli.data.formats.class_lists import ClassList, require_agreement
from dhcli.data.formats.columns import Columns
from dhcli.data.formats.layouts import FilePerSplit, Format
from dhcli.data.formats.placing import LEFT_OUT, Holds, Placing, decimal, rows_of, writing
from dhcli.data.io.files import IMAGE_SUFFIXES, list_files, read_head, read_lines, read_text
from dhcli.data.io.progress import FileProgress
from dhcli.data.io.text_rows import number_of
from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError

HOLDS = Holds(
    "from 0, maximum excluded",
    marks=Flag(0),
    regions=LEFT_OUT,
    scores=False,
    sizes=False,
    splits=False,
)

_ANNOTATIONS, _CLASSES = "_annotations.txt", "_classes.txt"
_BOX = re.compile(r"[-+.\deE]+(?:,[-+.\deE]+){4}")
_LOOK_AT = 20
_MOST_CLASSES = 100_000


def _is_ours(path: Path) -> bool:
    if path.suffix.lower() != ".txt":
        return False
    lines = [line for line in read_head(path).splitlines() if line.strip()][:_LOOK_AT]
    parts = [_divide(line) for line in lines]
    images = sum(name.lower().endswith(tuple(IMAGE_SUFFIXES)) for name, _ in parts)
    if images <= len(parts) / 2:  # a bad line does not make it another format
        return False
    return path.name.lower().endswith(_ANNOTATIONS) or any(boxes for _, boxes in parts)


def _divide(line: str) -> tuple[str, list[str]]:
    """The path of an image, which may have spaces, and the boxes that follow it."""
    words = line.strip().split(" ")
    start = len(words)
    while start > 1 and (not words[start - 1] or _BOX.fullmatch(words[start - 1])):
        start -= 1
    return " ".join(words[:start]), [word for word in words[start:] if word]


def read_keras_yolo(root: Path, path: Path) -> DetectionTable:
    """Read one file. Raises DataError where no line can be read."""
    columns, names = Columns(root, path), _listed_classes(root, path)
    lines = read_text(path).splitlines()
    progress = FileProgress(path, len(lines))
    for line, row in enumerate(lines, 1):
        progress.reached(line)
        if not row.strip():
            continue
        try:
            _add(row, columns, names, line)
        except ValueError as error:
            columns.refuse(DataError(str(error), where=f"{path}:{line}"))
    columns.locate()
    return columns.table(_in_order(columns, names))


def _add(row: str, columns: Columns, names: Sequence[str], line: int) -> None:
    """Add an image and its boxes. Raises ValueError for a line that is none of these."""
    name, boxes = _divide(row)
    if not name.lower().endswith(tuple(IMAGE_SUFFIXES)):
        what = f"expected an image and boxes `x1,y1,x2,y2,class`, found `{row.strip()[-40:]}`"
        raise ValueError(what)
    parsed = [_box(text) for text in boxes]
    image = columns.image(name)
    for number, box in parsed:
        is_known = 0 <= number < len(names)
        columns.counts["box of a class without a name: called by its number"] += not is_known
        columns.add(names[number] if is_known else str(number), box, 0, line, image)


def _box(text: str) -> tuple[int, list[float]]:
    """Class and corners of `x1,y1,x2,y2,class`. Raises ValueError."""
    *sides, told = text.split(",")
    try:
        return int(told), [number_of(side) for side in sides]
    except ValueError as error:
        raise ValueError(f"has a value that cannot be used: {error}") from None


def _in_order(columns: Columns, names: Sequence[str]) -> list[str]:
    """The classes that are listed, then those without a name, by their numbers."""
    beside = [name for name in columns.class_names() if name not in names]
    return columns.classes_after([*names, *sorted(beside, key=int)])


def _listed_classes(root: Path, path: Path) -> list[str]:
    """The lines of the files of classes beside `path` and in the root, else in `model_data`.

    [] where there are none. Raises DataError where they do not agree.
    """
    for folders in ({path.parent, root}, {root / "model_data"}):
        files = [
            folder / name
            for folder in sorted(folders)
            for name in list_files(folder, ".txt")
            if "class" in name.lower() and folder / name != path
        ]
        lists = {file: read_lines(file)[:_MOST_CLASSES] for file in files}
        told = [
            ClassList(file.relative_to(root).as_posix(), dict(enumerate(lines)))
            for file, lines in lists.items()
        ]
        require_agreement(root, told)
        if told:
            return list(told[0].names.values())
    return []


def write_keras_yolo(table: DetectionTable, placing: Placing) -> None:
    """Write `table` as images with a file of boxes and one of classes beside them, by split."""
    folders = [split or "." for split in placing.split_of_images()]
    placing.place(folders)
    number = {name: index for index, name in enumerate(table.classes)}
    for folder in dict.fromkeys(folders):
        images = [image for image, own in enumerate(folders) if own == folder]
        lines = (_line(table, image, placing, number) for image in writing(images))
        placing.write_lines(f"{folder}/{_ANNOTATIONS}", lines)
        placing.write_lines(f"{folder}/{_CLASSES}", (f"{name}\n" for name in table.classes))


def _line(table: DetectionTable, image: int, placing: Placing, number: dict[str, int]) -> str:
    return " ".join((placing.names[image], *_boxes(table, image, number))) + "\n"


def _boxes(table: DetectionTable, image: int, number: dict[str, int]) -> Iterator[str]:
    for row in rows_of(table, image, regions=False):
        yield ",".join((*map(decimal, row.box), str(number[row.name])))


LAYOUT = FilePerSplit(
    "*.txt with lines path x1,y1,x2,y2,class x1,y1,x2,y2,class …", (".txt",), _is_ours
)
FORMAT = Format("keras-yolo3", LAYOUT, read_keras_yolo, write_keras_yolo, HOLDS)

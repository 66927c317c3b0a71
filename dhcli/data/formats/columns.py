"""The columns of a dataset while it is read: growing arrays, not objects."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.fractions import from_fractions, scaled
from dhcli.data.formats.locate import locate_images, missing_sizes
from dhcli.data.io.files import fill_sizes
from dhcli.data.io.json_text import ODD, oddity
from dhcli.data.io.text_rows import number_of
from dhcli.data.strings import Strings
from dhcli.data.table import (
    ANY_CLASS,
    UNREADABLE,
    Column,
    DetectionTable,
    Flag,
    Remark,
    make_table,
)
from dhcli.errors import DataError
from dhcli.words import counted, named

DONT_CARE = "DontCare"
"""Name of the class that stands for no class, in every format that must name one."""

NO_NAME = "object"
"""The class of boxes that say none."""

LOST_IMAGE = "image of which no row can be read, left out"
"""What is said of images that would be taken for background."""

NO_TRACK = -1
"""The track of a box that belongs to none."""

MARKS = {
    "difficult": Flag.DIFFICULT,
    "truncated": Flag.TRUNCATED,
    "occluded": Flag.OCCLUDED,
    "crowd": Flag.CROWD,
    "ignore": Flag.IGNORE,
}
"""What the marks of a box are called where a format lets us name them."""
_OTHER_NAMES = {"iscrowd": Flag.CROWD, "is_crowd": Flag.CROWD, "isdifficult": Flag.DIFFICULT}
T = TypeVar("T")

_YES = ("true", "yes", "y", "t")
_BITS = {name: flag.value for name, flag in (MARKS | _OTHER_NAMES).items()}


class Columns:
    """Images with their boxes, gathered as the files below `root` tell of them, or the one `path`.

    Call `add_image` and then `add` for each of its boxes, or, where a file mixes the boxes of many
    images, `add` with the number of each box's own. Classes are numbered as they come up; `table`
    puts them in order. Numbers of images put into `splits` become its splits, and what is counted
    in `counts`, or named in `left_out`, its notes. What cannot be read goes into `remarks`.
    """

    def __init__(self, root: Path, path: Path | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self.left_out: defaultdict[str, list[str]] = defaultdict(list)
        self.notes: list[str] = []
        self.remarks: list[Remark] = []
        self.files: list[str] = []
        self.splits: defaultdict[str, list[int]] = defaultdict(list)
        self.annotations: list[str] = []
        self.labels = array("i")
        self.flags = array("B")
        self.lines = array("i")
        self.boxes = array("d")
        self.scores = array("d")
        self._root, self._path = root, path
        self._annotation = path.relative_to(root).as_posix() if path else ""
        self._sizes = array("i")
        self._images = array("i")
        self._classes: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._parts: dict[tuple[int, int, str], int] = {}
        self._joined: set[int] = set()
        self._first_error: DataError | None = None
        self._doubted: set[int] = set()

    def image(self, file: str, width: int = 0, height: int = 0) -> int:
        """The number of the image `file`, which is added if it is new."""
        if file not in self._numbers:
            self._numbers[file] = self.add_image(file, width, height, self._annotation)
        return self._numbers[file]

    def add_image(
        self, file: str, width: int = 0, height: int = 0, annotation: str | None = None
    ) -> int:
        """Begin the image `file` and return its number; 0 for a side that is not known."""
        self.files.append(file)
        self.annotations.append(self._annotation if annotation is None else annotation)
        self._sizes.extend((width, height))
        return len(self.files) - 1

    def end_split(self, split: str, start: int) -> None:
        """The images from number `start` on are of `split`, unless that is ""."""
        if split:
            self.splits[split].extend(range(start, len(self.files)))

    def add(
        self,
        name: str,
        box: Sequence[float],
        marks: int,
        line: int,
        image: int | None = None,
        score: Any = None,
        group: Any = None,
    ) -> bool:
        """Add a box xyxy of the class `name`, a region to ignore where that is `DONT_CARE`.

        `marks` are the bits of its flags, `score` a number or its text where the file has one; the
        rest as in `add_box`. Boxes of one class in one `group` of an image are the parts of an
        object: it gets one box, and False says that this one made no box of its own. None, or a
        group of no name, is none. Raises ValueError for a score that is not a number.
        """
        value = None if score is None else number_of(score)
        label = self.label_of(name)
        if group not in (None, "") and self._join(label, box, marks, image, str(group)):
            return False
        region = Flag.IGNORE.value if label == ANY_CLASS else 0
        self.add_box(label, box, marks | region, line, image)
        if value is not None:
            self.scores.append(value)
        return True

    def _join(
        self, label: int, box: Sequence[float], marks: int, image: int | None, group: str
    ) -> bool:
        """Whether a box is a part of an object that there is, whose box is then around both."""
        coming, number = len(self.labels), len(self.files) - 1 if image is None else image
        row = self._parts.setdefault((number, label, group), coming)
        if row == coming:
            return False
        if row not in self._joined:
            self._joined.add(row)
            self.counts["object of several parts, of one class and group: one box around all"] += 1
        x1, y1, x2, y2 = self.boxes[4 * row : 4 * row + 4]
        around = (min(x1, box[0]), min(y1, box[1]), max(x2, box[2]), max(y2, box[3]))
        self.boxes[4 * row : 4 * row + 4] = array("d", around)
        self.flags[row] |= marks
        return True

    def add_box(
        self, label: int, xyxy: Sequence[float], flags: int, line: int, image: int | None = None
    ) -> None:
        """Add a box of the latest image, or of number `image`.

        `line` is where its annotation file tells of it, 0 where it has no lines.
        """
        self.labels.append(label)
        self.boxes.extend(xyxy)
        self.flags.append(flags)
        self.lines.append(line)
        self._images.append(len(self.files) - 1 if image is None else image)

    def add_boxes(
        self, labels: Sequence[int], boxes: Iterable[float], lines: Iterable[int]
    ) -> None:
        """Add boxes of the latest image, without flags; `boxes` has four numbers each, in a row."""
        self.labels.extend(labels)
        self.boxes.extend(boxes)
        self.flags.frombytes(bytes(len(labels)))
        self.lines.extend(lines)
        self._images.extend([len(self.files) - 1] * len(labels))

    def refuse(self, error: DataError, image: int | None = None) -> None:
        """Leave out a row or an entry that cannot be read, and remark on it.

        An image, where its number is known, of which no row is read is left out too: it would be
        taken for background. Where not one box is read, `table` raises the first error.
        """
        self._first_error = self._first_error or error.with_traceback(None)
        where = (error.where or "").removeprefix(f"{self._root}/")
        self.remarks.append(Remark(UNREADABLE, where, error.what))
        if image is not None:
            self.doubt([image])

    def full_rows(
        self, rows: Iterable[tuple[int, list[str]]], count: int
    ) -> Iterator[tuple[int, list[str]]]:
        """Those of `rows`, each with its line, that have `count` columns; others are refused."""
        for line, row in rows:
            if len(row) == count:
                yield line, row
            else:
                what = f"expected {count} columns, found {len(row)}"
                self.refuse(DataError(what, where=f"{self._path}:{line}"))

    def refuse_value(self, line: int, error: ValueError) -> None:
        """Leave out a row of the file for a value in it."""
        what = f"has a value that cannot be used: {error}"
        self.refuse(DataError(what, where=f"{self._path}:{line}"))

    def doubt(self, images: Iterable[int]) -> None:
        """Leave out those of `images` that get no box: what is told of them cannot be read."""
        self._doubted.update(images)

    def refuse_file(self, error: DataError, boxes: int) -> None:
        """Leave out an annotation file that cannot be read, with its image, and remark on it.

        `boxes` is how many there were before; those that the file gave are forgotten.
        """
        for column in (self.labels, self.flags, self.lines, self._images):
            del column[boxes:]
        del self.boxes[4 * boxes :], self.scores[boxes:]
        self._parts = {key: row for key, row in self._parts.items() if row < boxes}
        self._doubted.discard(len(self.files))
        self.refuse(error)

    def add_each(
        self, what: str, line: int, image: int, items: Iterable[T], add: Callable[[T], None]
    ) -> None:
        """Have `add` take every item of an entry of the file; a `what` that is odd is refused."""
        for item in items:
            try:
                add(item)
            except ODD as error:
                where = f"{self._path}:{line}"
                self.refuse(DataError(f"{what} {oddity(error)}", where=where), image)

    def label_of(self, name: str) -> int:
        """The provisional number of a class; DontCare is ANY_CLASS."""
        if name == DONT_CARE:
            return ANY_CLASS
        return self._classes.setdefault(name, len(self._classes))

    def locate(self) -> None:
        """Have the files of the images where they lie: so far they are named as in `path`."""
        assert self._path is not None
        self.files, strays = locate_images(self._root, self._path, self.files)
        self.notes += strays

    def sizes(self) -> NDArray[np.int32]:
        """(I, 2) the sizes given, completed from the images' headers."""
        return fill_sizes(self._root, self.files, _numpy(self._sizes, np.int32).reshape(-1, 2))

    def table_of_fractions(self, classes: Sequence[str]) -> DetectionTable:
        """The table of boxes told in fractions of images that must be there, all but some.

        Raises DataError where none is.
        """
        sizes = self.sizes()
        assert self._path is not None
        self.notes += missing_sizes(sizes, self.image_of_box(), self._path)
        return self.table(classes, boxes=self.in_pixels(sizes), sizes=sizes)

    def in_pixels(self, sizes: NDArray[np.int32]) -> NDArray[np.float64]:
        """(M, 4) the boxes, which are told in fractions of their images of `sizes` (I, 2)."""
        return scaled(self.told_boxes(), sizes[self.image_of_box()])

    def from_fractions(self, sizes: NDArray[np.int32]) -> NDArray[np.float64] | None:
        """(M, 4) the boxes in pixels if all of them are told in fractions, which is noted.

        They should be told in pixels; `sizes` (I, 2) are those of the images. Raises DataError
        where only some look like fractions.
        """
        path = self._path or self._root
        images = self.image_of_box()
        found = from_fractions(self.told_boxes(), sizes, images, path, self._name_row)
        self.notes += found.notes if found else []
        return found and found.boxes

    def _name_row(self, row: int) -> tuple[str, str]:
        """What a box is called in an error, and where its file tells of it."""
        file = f"{self._root}/{self.annotations[self._images[row]]}"
        return "a box", f"{file}:{self.lines[row]}" if self.lines[row] else file

    def told_boxes(self) -> NDArray[np.float64]:
        """(M, 4) the boxes as they were added."""
        return _numpy(self.boxes, np.float64).reshape(-1, 4)

    def image_of_box(self) -> NDArray[np.int64]:
        """(M,) the image of each box, in the order they were added."""
        return _numpy(self._images, np.int32).astype(np.int64)

    def class_names(self) -> list[str]:
        """The classes in the order they came up."""
        return list(self._classes)

    def classes_after(self, listed: Iterable[str] = ()) -> list[str]:
        """The classes that a file lists, in its order, then all others that were met, by name."""
        known = dict.fromkeys(name for name in listed if name != DONT_CARE)
        return [*known, *sorted(name for name in self._classes if name not in known)]

    def table(self, classes: Sequence[str], **columns: Any) -> DetectionTable:
        """The finished table, its classes in the order of `classes`; `columns` as in make_table.

        Scores count only where every box has one; boxes that are not among `columns` are in pixels,
        unless `from_fractions` finds them to be otherwise. Raises DataError as that does, and where
        rows were refused and there is not one box.
        """
        if self._first_error is not None and not len(self.labels):
            raise self._first_error
        sizes = columns.pop("sizes", None)
        sizes = self.sizes() if sizes is None else sizes
        in_pixels = None if "boxes" in columns else self.from_fractions(sizes)
        columns |= {} if in_pixels is None else {"boxes": in_pixels}
        of_boxes = self._of_boxes(classes)
        of_boxes["extras"] |= columns.pop("extras", {})
        of_boxes |= {name: columns.pop(name) for name in list(columns) if name in of_boxes}
        images = self.image_of_box()
        if (np.diff(images) < 0).any():
            of_boxes = _reorder(of_boxes, np.argsort(images, kind="stable"))
        counts = np.bincount(images, minlength=len(self.files))
        lost = [image for image in sorted(self._doubted) if not counts[image]]
        self.left_out[LOST_IMAGE] += map(self.files.__getitem__, lost)
        splits = {name: np.array(numbers, np.int64) for name, numbers in self.splits.items()}
        notes = [counted(count, what) for what, count in self.counts.items() if count]
        notes += [named(names, what) for what, names in self.left_out.items() if names]
        table = make_table(
            self._root,
            self.files,
            sizes,
            counts,
            classes=classes,
            image_extras={"annotation": Strings.pack(self.annotations)}
            | columns.pop("image_extras", {}),
            splits=columns.pop("splits", {}) | splits,
            notes=(*self.notes, *notes),
            remarks=tuple(self.remarks),
            **of_boxes,
            **columns,
        )
        return table.keep_images(~np.isin(np.arange(len(table)), lost)) if lost else table

    def _of_boxes(self, classes: Sequence[str]) -> dict[str, Any]:
        """The columns of boxes by their names, their labels in the order of `classes`."""
        labels = _numpy(self.labels, np.int32)
        if self._classes:
            number = {name: index for index, name in enumerate(classes)}
            lookup = np.array([*(number[name] for name in self._classes), ANY_CLASS], np.int32)
            labels = lookup[labels]
        scored = len(self.scores) == len(labels) > 0
        lines = _numpy(self.lines, np.int32)
        return {
            "boxes": self.told_boxes(),
            "labels": labels,
            "flags": _numpy(self.flags, np.uint8),
            "scores": _numpy(self.scores, np.float64) if scored else None,
            "extras": {"line": lines} if lines.any() or not len(lines) else {},
        }


def _reorder(columns: dict[str, Any], order: NDArray[np.int64]) -> dict[str, Any]:
    """Every column at the rows `order`; None and dicts of columns too."""
    return {
        name: _reorder(column, order)
        if isinstance(column, dict)
        else None
        if column is None
        else column[order]
        for name, column in columns.items()
    }


def flags_told(marks: Mapping[str, Any]) -> int:
    """The bits of the marks in a mapping of names, in any case, to what says yes or no."""
    bits = 0
    for name, value in marks.items():
        bit = _BITS.get(name.lower(), 0)
        if bit and is_set(value):
            bits |= bit
    return bits


def marks_of(flags: Flag) -> list[str]:
    """The names of the marks that are set."""
    return [name for name, flag in MARKS.items() if flag in flags]


def is_set(value: Any) -> bool:
    """Whether a mark's value says yes: true, a number above 0, or text of these."""
    try:
        return number_of(value) > 0
    except ValueError:
        return str(value).strip().lower() in _YES


def class_of(value: Any) -> str:
    """The name of a class from text or a number. Raises ValueError."""
    if isinstance(value, str | int | float) and not isinstance(value, bool) and str(value).strip():
        return str(value).strip()
    raise ValueError(f"`{str(value)[:40]}` is not a class name")


def whole_or(value: Any, other: int) -> int:
    """A whole number of 64 bits, or `other`."""
    try:
        number = int(value) if isinstance(value, str) and len(value) < 20 else value
    except ValueError:
        return other
    return number if type(number) is int and -(2**63) <= number < 2**63 else other


def tracks_of(tracks: array[int]) -> dict[str, Column]:
    """The extra column of tracks, where any box has one."""
    numbers = _numpy(tracks, np.int64)
    return {"track": numbers} if (numbers != NO_TRACK).any() else {}


def side_of(value: Any) -> int:
    """A side of an image in pixels, 0 if it is not given."""
    try:
        side = int(number_of(value))
    except (ValueError, OverflowError):
        return 0
    return side if 0 < side < 2**31 else 0


def _numpy(values: array[Any], kind: Any) -> NDArray[Any]:
    return np.frombuffer(values, kind).copy() if len(values) else np.zeros(0, kind)

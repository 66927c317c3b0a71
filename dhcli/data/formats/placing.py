"""Writing a dataset's folder: images under new names, and what the format cannot hold, counted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, count
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.columns import DONT_CARE, NO_TRACK
from dhcli.data.io.files import fold, last_part, stem_of
from dhcli.data.io.progress import track
from dhcli.data.strings import Strings
from dhcli.data.table import ANY_CLASS, HELD, REGION, SOURCE, Column, DetectionTable, Flag
from dhcli.words import counted, named

LEFT_OUT = "left out"
"""What becomes of regions in formats that hold objects alone."""
NOT_FINITE = "box with a coordinate that is not finite: left out"

Images = Literal["copy", "link", "none", "move"]

_MARKS = {
    Flag.DIFFICULT: "difficult",
    Flag.TRUNCATED: "truncated",
    Flag.OCCLUDED: "occluded",
}
_COLUMNS = {
    "masks or other fields of COCO": (SOURCE,),
    "poses": ("pose",),
    "degrees of truncation or occlusion": ("truncation", "occlusion"),
    "3-D columns": ("alpha", "dimensions", "location", "rotation"),
    "tracks": ("track",),
    "degrees of visibility": ("visibility",),
}
"""What a user would miss, and the extra columns that hold it."""
_UNKNOWN = (0, -1, -10, -1000)
"""What KITTI says where it does not know."""
ALL_MARKS = Flag.DIFFICULT | Flag.TRUNCATED | Flag.OCCLUDED


_LONGEST = 120
"""Bytes of an image's name: label files and tiles add to it, and systems take 255."""

T = TypeVar("T")


@dataclass(frozen=True)
class Holds:
    """What a format can hold beside boxes and classes.

    pixels   where the first pixel lies and whether the maximum is part of the box, in words
    marks    flags it has a place for
    columns  names of extra columns it writes
    regions  what becomes of regions to ignore (crowd, ignored, of no class); "" where they stay
    classless  whether regions of no class stay all the same
    empty    whether it lists images without boxes
    classes  whether it lists classes without boxes
    scores   whether it has a place for scores
    sizes    whether it tells the sizes of images, without which these must be there
    fractions  whether boxes are told in fractions of images, whose sizes must be known
    splits   whether an image can be in several splits
    own_columns  whether it keeps columns of a table's own, of images
    split_names  what splits may be called: "any"thing, what a "file" may be called, or the "usual"
                 names alone
    blank        what a blank in the name of a class becomes
    """

    pixels: str
    marks: Flag = ALL_MARKS
    columns: frozenset[str] = frozenset()
    regions: str = ""
    classless: bool = False
    empty: bool = True
    classes: bool = True
    scores: bool = True
    sizes: bool = True
    fractions: bool = False
    splits: bool = True
    own_columns: bool = False
    split_names: Literal["any", "file", "usual"] = "usual"
    blank: str = " "


@dataclass
class Placing:
    """Where a writer puts the images of `table`: below `folder`, called `names`.

    Names have no folders, and no two have the same stem, so that label files can go by it. Links
    that lead out of the dataset are copied with `follow` alone: what they lead to may be private.
    """

    table: DetectionTable
    folder: Path
    images: Images
    follow: bool = False
    names: list[str] = field(init=False)
    lost: list[str] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.names = flat_names(list(self.table.files))
        self._made: set[str] = set()

    def place(self, folders: str | Sequence[str]) -> None:
        """Put each image into its folder, or all into one, by copy or link, or not at all."""
        if self.images == "none":
            return
        each = [folders] * len(self.names) if isinstance(folders, str) else folders
        missing, outside = 0, []
        outside_root = leads_out(self.table.root)
        for image in track(range(len(self.names)), "images put into their place"):
            folder, name = each[image], self.names[image]
            source = self.table.path(image)
            if self.images == "copy" and not self.follow and outside_root(source):
                outside.append(self.table.files[image])
            elif source.is_file():
                self._put(source, Path(self._path(f"{folder}/{name}")))
            elif self.images != "move":  # else whoever made the files says what is not there
                missing += 1
        if missing:
            self.lost.append(f"{counted(missing, 'image')} missing: not copied")
        if outside:
            self.lost.append(not_followed(outside))

    def parts(self) -> dict[str, NDArray[np.int64]]:
        """The image numbers of each split, and under "" of those in none; "" alone if no splits."""
        rest = np.flatnonzero(self._uses() == 0)
        return dict(self.table.splits) | ({"": rest} if len(rest) or not self.table.splits else {})

    def split_of_images(self) -> list[str]:
        """The one split that each image goes to, the smallest that has it, or "".

        So an image of VOC's train and trainval is in train.
        """
        names = [""] * len(self.table)
        smallest_first = sorted(self.table.splits.items(), key=lambda item: len(item[1]))
        for split, images in reversed(smallest_first):
            for image in images.tolist():
                names[image] = split
        return names

    def _uses(self) -> NDArray[np.int64]:
        """(I,) in how many splits each image is."""
        listed = np.concatenate([np.zeros(0, np.int64), *self.table.splits.values()])
        return np.bincount(listed, minlength=len(self.table))

    def write(self, name: str, text: str | bytes) -> None:
        """Write a text file below the folder, as UTF-8."""
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        # Three system calls: half the time that Path.write_bytes takes for a small file.
        descriptor = os.open(self._path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    def write_lines(self, name: str, pieces: Iterable[str]) -> None:
        """Write a long text file piece by piece."""
        with Path(self._path(name)).open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)

    def _put(self, source: Path, target: Path) -> None:
        if self.images == "link":
            target.symlink_to(source.resolve())
        elif self.images == "move":
            source.rename(target)
        else:
            shutil.copyfile(source, target)

    def _path(self, name: str) -> str:
        path = f"{self.folder}/{name}"
        parent = path[: path.rindex("/")]
        if parent not in self._made:
            Path(parent).mkdir(parents=True, exist_ok=True)
            self._made.add(parent)
        return path


def not_followed(images: Sequence[str]) -> str:
    """The line on `images` that `leads_out` kept from being copied."""
    what = "image linked to outside the dataset: only copied with --follow-links"
    return named(images, what)


def leads_out(root: Path) -> Callable[[Path], bool]:
    """Whether a file lies outside of `root`, links followed; a look per folder, and per link."""
    home = root.resolve()

    @cache
    def resolve(folder: str) -> Path:
        return Path(folder).resolve()

    def is_outside(file: Path) -> bool:
        path, folder = str(file), os.path.dirname(str(file))  # noqa: PTH120 - called per image
        place = resolve(path) if os.path.islink(path) else resolve(folder)  # noqa: PTH114
        return not place.is_relative_to(home)

    return is_outside


def writing(items: Sequence[T]) -> Iterator[T]:
    """The `items`, telling how far their writing has come."""
    return track(items, "annotations written")


class Row(NamedTuple):
    """A box as writers need it: `number` is its row in the table, `box` xyxy.

    is_region  whether it is to be ignored, as `DetectionTable.regions` has it
    """

    number: int
    name: str
    box: list[float]
    flags: Flag
    score: float | None
    is_region: bool


def rows_of(table: DetectionTable, image: int, *, regions: bool = True) -> Iterator[Row]:
    """The boxes of image number `image`; without `regions`, objects alone.

    Regions of no class are called DontCare.
    """
    rows = table.rows(image)
    named = (*table.classes, DONT_CARE)
    scores = [None] * (rows.stop - rows.start) if table.scores is None else table.scores[rows]
    columns = zip(
        range(rows.start, rows.stop),
        table.labels[rows].tolist(),
        table.boxes[rows].tolist(),
        table.flags[rows].tolist(),
        scores,
        strict=True,
    )
    for number, label, box, flags, score in columns:
        is_region = label == ANY_CLASS or bool(flags & REGION.value)
        if regions or not is_region:
            told = None if score is None else float(score)
            yield Row(number, named[label], box, Flag(flags), told, is_region)


def track_of(table: DetectionTable, row: int) -> int:
    """The track of box number `row`, NO_TRACK where it is in none."""
    tracks = table.extras.get("track")
    known = isinstance(tracks, np.ndarray) and np.isfinite(tracks[row])
    return int(tracks[row]) if known and tracks is not None else NO_TRACK


def flat_names(files: Sequence[str]) -> list[str]:
    """A name without folders for each of `files`, no two with the same stem.

    The last part where that is unique, else the path with "_" between its parts, else numbered.
    Nor is the stem of one the name of another or, less a suffix, its stem: `a.jpg.png` and `a.jpg`.
    """
    taken: set[str] = set()
    names = []
    for file in map(_plain_file, files):
        for name in _options(file):  # pragma: no branch
            keys = {fold(name), fold(stem_of(name)), fold(stem_of(stem_of(name)))}
            if taken.isdisjoint(keys):
                break
        taken |= keys
        names.append(name)
    return names


def _plain_file(file: str) -> str:
    """`file` as every file of lines can name it, and no longer than systems take with a suffix."""
    if file.isascii() and file.isprintable() and len(file) < _LONGEST and file == file.strip():
        return file
    try:
        file.encode("utf-8")
    except UnicodeEncodeError:  # a name that is not UTF-8
        file = file.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    folder, slash, name = file.rpartition("/")
    name = "".join(letter if letter.isprintable() else "_" for letter in name).strip()
    stem, suffix = stem_of(name), Path(name).suffix
    while len(stem.encode()) > _LONGEST - len(suffix.encode()):
        stem = stem[:-1]
    return f"{folder}{slash}{stem}{suffix}"


def _options(file: str) -> Iterator[str]:
    """The names that `file` may have, best first, without end."""
    yield _in_sight(last_part(file))
    whole = _in_sight(file.strip("/").replace("/", "_"))
    yield whole
    stem, suffix = stem_of(whole), Path(whole).suffix
    yield from (f"{stem}_{number}{suffix}" for number in count(2))


def _in_sight(name: str) -> str:
    """`name` without the dots before it: what begins with one is hidden, and never listed."""
    plain = name.lstrip(".")
    return plain if "." in plain or plain == name else f"_{name}"


def writable(table: DetectionTable, holds: Holds) -> tuple[DetectionTable, tuple[str, ...]]:
    """What of `table` has numbers to write, and lines on what has not.

    Boxes that are not finite are left out, and images of unknown size where these need fractions.
    """
    lost = []
    finite = np.asarray(np.isfinite(table.boxes).all(axis=1))
    if broken := int(np.sum(~finite)):
        lost.append(counted(broken, NOT_FINITE))
        table = table.keep_boxes(finite)
    unsized = (table.sizes <= 0).any(axis=1) & (np.diff(table.offsets) > 0)
    if unsized.any():
        names = [table.files[image] for image in np.flatnonzero(unsized).tolist()]
        if holds.fractions:
            table = table.keep_images(~unsized)
            what = "image of unknown size, which fractions need, left out with its boxes"
            lost.append(named(names, what))
        elif holds.sizes:
            lost.append(named(names, "image of unknown size: written as 0×0"))
    return table, tuple(lost)


def objects_held(table: DetectionTable, holds: Holds) -> DetectionTable:
    """The images, boxes and classes of `table` that a format that `holds` so much lists."""
    if holds.regions == LEFT_OUT:
        table = table.keep_boxes(~table.regions())
    if not holds.empty:
        table = table.keep_images(np.diff(table.offsets) > 0)
    if not holds.classes:
        used = set(np.unique(table.labels).tolist())
        table = table.with_classes([n for k, n in enumerate(table.classes) if k in used])
    return table


def losses(table: DetectionTable, holds: Holds) -> list[str]:
    """What is lost when `table` is written to a format that `holds` so much: lines with counts."""
    lines = []
    regions = table.regions()
    if holds.classless:
        regions &= table.labels != ANY_CLASS
    if regions.any() and holds.regions:
        what = f"region to ignore (crowd, ignored, of no class): {holds.regions}"
        lines.append(counted(int(regions.sum()), what))
    for flag, name in _MARKS.items():
        count = int(np.sum(table.has(flag) & ~regions))
        if count and flag not in holds.marks:
            lines.append(counted(count, f"mark `{name}`: not kept"))
    for what, names in _COLUMNS.items():
        here = [n for n in names if n in table.extras and n not in holds.columns]
        count = max((_informative(n, table.extras[n]) for n in here), default=0)
        if count:
            lines.append(f"{what} of {counted(count, 'box')}: not kept")
    return [*lines, *_beside_boxes(table, holds), *_unlisted(table, holds)]


def _beside_boxes(table: DetectionTable, holds: Holds) -> Iterator[str]:
    """What is lost of what the dataset says of its images, and of itself."""
    if SOURCE not in holds.columns:
        about = table.source_of_all()
        images = ([name for name in row if name not in HELD] for row in table.source_fields())
        for what, rows in (("image", images), ("category", about.pop("categories", {}).values())):
            told = [row for row in rows if row]
            if names := list(dict.fromkeys(chain.from_iterable(told))):
                yield f"{', '.join(names)} of {counted(len(told), what)}: not kept"
        if names := [name for name, value in about.items() if value]:
            yield f"{', '.join(names)} of COCO: not kept"
    if (own := table.own_columns()) and not holds.own_columns:
        yield f"columns {', '.join(own)} of {counted(len(table), 'image')}: not kept"


def _unlisted(table: DetectionTable, holds: Holds) -> list[str]:
    """What has no place in a format beside marks and columns."""
    listed = np.concatenate([np.zeros(0, np.int64), *table.splits.values()])
    used = np.unique(table.labels[table.labels != ANY_CLASS])
    empty = np.diff(table.offsets) == 0
    if holds.regions == LEFT_OUT:
        objects = np.bincount(table.image_of_box[~table.regions()], minlength=len(table))
        empty = objects == 0
    counts = {
        "score: not kept": 0 if holds.scores or table.scores is None else len(table.scores),
        "image without boxes: not listed": 0 if holds.empty else int(np.sum(empty)),
        "class without boxes: not listed": 0 if holds.classes else len(table.classes) - len(used),
        "image in several splits: kept in the smallest": 0
        if holds.splits
        else int(np.sum(np.bincount(listed) > 1)),
    }
    return [counted(count, what) for what, count in counts.items() if count]


def _informative(name: str, column: Column) -> int:
    """How many rows say something."""
    if isinstance(column, Strings):
        return int(np.sum(column.says()))
    unknown = (NO_TRACK,) if name == "track" else _UNKNOWN
    blank = np.isin(column, unknown) | np.isnan(column)
    return int(np.sum(~blank.all(axis=tuple(range(1, column.ndim)))))


def decimal(value: float) -> str:
    """The shortest text that reads back as `value`."""
    number = float(value)
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)

"""The one shape of data: images and boxes as columns.

Everything that reads a dataset makes a `DetectionTable`, everything that writes one takes it, and
predictions are the same table with a `scores` column. Columns are NumPy arrays, so a million boxes
cost bytes and not Python objects, and worker processes share them without copying.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.data.file_bytes import FileBytes
from dhcli.errors import DataError

ANY_CLASS = -1
"""Label of a region that belongs to no class: KITTI's DontCare, or classes set aside."""


OWN_COLUMN = "own "
"""How the image columns begin, among `image_extras`, that only the dataset itself gives a sense."""


class Flag(IntFlag):
    """What an annotation says about a box beside its class; the bits of `flags`."""

    CROWD = 1
    DIFFICULT = 2
    TRUNCATED = 4
    OCCLUDED = 8
    IGNORE = 16


class Strings(Sequence[str]):
    """An immutable column of strings in one UTF-8 buffer: no Python object per row.

    Row i is buffer[starts[i]:stops[i]]. Rows that are taken share the buffer; only what is used is
    pickled. A buffer that is files stays on disk, and rows are read when they are asked for.
    """

    def __init__(
        self,
        buffer: NDArray[np.uint8] | FileBytes,
        starts: NDArray[np.int64],
        stops: NDArray[np.int64],
    ) -> None:
        self.buffer = buffer
        self.starts = starts
        self.stops = stops

    @classmethod
    def pack(cls, values: Iterable[str]) -> Strings:
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        return cls._of_bytes(encoded)

    @classmethod
    def _of_bytes(cls, values: Sequence[bytes | memoryview]) -> Strings:
        stops = np.cumsum([len(value) for value in values], dtype=np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), stops])[: len(values)]
        return cls(np.frombuffer(b"".join(values), np.uint8), starts, stops)

    @classmethod
    def repeat(cls, value: str, count: int) -> Strings:
        """`count` rows that all say `value`; it is stored once."""
        return cls.pack([value]).take(np.zeros(count, np.int64))

    @classmethod
    def join(cls, columns: Sequence[Strings]) -> Strings:
        """The rows of all `columns`, one column after another.

        Files stay on disk where every column that says anything is of files.
        """
        said = [column for column in columns if len(column.buffer)]
        on_disk = [column.buffer for column in said if isinstance(column.buffer, FileBytes)]
        if 0 < len(on_disk) < len(said):
            return cls.join([column.in_memory() for column in columns])
        packed = [column.buffer for column in said if isinstance(column.buffer, np.ndarray)]
        sizes = np.array([len(column.buffer) for column in columns], np.int64)
        pairs = list(zip(columns, np.cumsum(sizes) - sizes, strict=True))
        none = np.zeros(0, np.int64)
        return cls(
            FileBytes.join(on_disk) if on_disk else np.concatenate([np.zeros(0, "u1"), *packed]),
            np.concatenate([none, *(column.starts + shift for column, shift in pairs)]),
            np.concatenate([none, *(column.stops + shift for column, shift in pairs)]),
        )

    def in_memory(self) -> Strings:
        """The same rows, read where they are on disk."""
        return Strings._of_bytes(list(self._rows())) if isinstance(self.buffer, FileBytes) else self

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice | np.ndarray | list):
            return self.take(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        if isinstance(self.buffer, FileBytes):
            return next(iter(self.take(np.array([index]))))
        raw = self.buffer[self.starts[index] : self.stops[index]]
        return raw.tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        for row in self._rows():
            yield str(row, "utf-8", "surrogateescape")

    def _rows(self) -> Iterator[memoryview | bytes]:
        spans = zip(self.starts.tolist(), self.stops.tolist(), strict=True)
        if isinstance(self.buffer, FileBytes):
            with self.buffer.reading() as read:
                for start, stop in spans:
                    yield read(start, stop) if stop > start else b""
        else:
            raw = self.buffer.data
            for start, stop in spans:
                yield raw[start:stop]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Strings) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        lengths = self.stops - self.starts
        if isinstance(self.buffer, FileBytes) or int(lengths.sum()) >= len(self.buffer):
            return Strings, (self.buffer, self.starts, self.stops)
        used = Strings._of_bytes(list(self._rows()))
        return Strings, (used.buffer, used.starts, used.stops)

    def take(self, indices: NDArray[np.int64]) -> Strings:
        """The rows at `indices` (n,) int64, in that order."""
        return Strings(self.buffer, self.starts[indices], self.stops[indices])

    def blank(self, rows: NDArray[np.bool_]) -> Strings:
        """The column with empty text where `rows` (n,) bool is true."""
        return Strings(self.buffer, self.starts, np.where(rows, self.starts, self.stops))


Column = NDArray[Any] | Strings


@dataclass(frozen=True, eq=False)
class DetectionTable:
    """I images holding M boxes of K classes.

    root          folder that `files` are relative to
    files         (I,) POSIX paths
    image_ids     (I,) int64, the dataset's own ids, else 1…I
    sizes         (I, 2) int32 width, height in pixels after EXIF rotation; 0 where not known
    offsets       (I+1,) int64; the boxes of image i are the rows offsets[i]:offsets[i+1]
    boxes         (M, 4) float64 xyxy pixels, 0-based, exclusive maximum
    labels        (M,) int32 into `classes`, or ANY_CLASS for a region of no class
    flags         (M,) uint8 of `Flag`
    classes       K names, in the dataset's order
    category_ids  (K,) int64, the dataset's own ids, else 1…K
    scores        (M,) float64 when the boxes are predictions, else None
    areas         (M,) float64 pixels², the annotated (mask) area; NaN where not stated
    box_ids       (M,) int64, the annotations' own ids, else 1…M
    splits        name → (n,) int64 image indices; lists may overlap (VOC's train and trainval)
    extras        further columns a format needs to write itself back (M rows each, by name)
    image_extras  the same of images (I rows each); `annotation` is the file that told of an image
    about         the same of the dataset as a whole: JSON text by name
    format        name of the format it was read from, "" if made in memory
    notes         what the reader decided (a pixel-offset rule, say), for people
    """

    root: Path
    files: Strings
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int32]
    flags: NDArray[np.uint8]
    classes: tuple[str, ...]
    category_ids: NDArray[np.int64]
    areas: NDArray[np.float64]
    box_ids: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    splits: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    extras: Mapping[str, Column] = field(default_factory=dict)
    image_extras: Mapping[str, Column] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, boxes = len(self.files), len(self.boxes)
        per_image: dict[str, Sized] = {"image_ids": self.image_ids, "sizes": self.sizes}
        per_image |= self.image_extras
        per_box: dict[str, Sized] = {
            "labels": self.labels,
            "flags": self.flags,
            "areas": self.areas,
        }
        per_box |= {"box_ids": self.box_ids, **self.extras}
        if self.scores is not None:
            per_box["scores"] = self.scores
        wrong = [name for name, column in per_image.items() if len(column) != images]
        wrong += [name for name, column in per_box.items() if len(column) != boxes]
        if wrong or len(self.offsets) != images + 1 or int(self.offsets[-1]) != boxes:
            raise ValueError(f"columns of unequal length: {', '.join(wrong) or 'offsets'}")

    def __len__(self) -> int:
        return len(self.files)

    def path(self, image: int) -> Path:
        """Where image number `image` lies."""
        return self.root / str(self.files[image])

    def rows(self, image: int) -> slice:
        """The rows of the box columns that belong to image number `image`."""
        return slice(int(self.offsets[image]), int(self.offsets[image + 1]))

    @property
    def image_of_box(self) -> NDArray[np.int64]:
        """(M,) int64: the image number of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def has(self, flag: Flag) -> NDArray[np.bool_]:
        """(M,) bool: boxes with any of the bits of `flag`."""
        found: NDArray[np.bool_] = (self.flags & np.uint8(flag)) != 0
        return found

    def own_columns(self) -> dict[str, Column]:
        """The columns of images that the dataset has of its own, by name: `patient`, say."""
        return {
            name.removeprefix(OWN_COLUMN): column
            for name, column in self.image_extras.items()
            if name.startswith(OWN_COLUMN)
        }

    def take_images(self, images: NDArray[np.int64]) -> DetectionTable:
        """The table of these image numbers only, in that order; splits are dropped."""
        counts = np.diff(self.offsets)[images]
        table = self._take_boxes(expand_ranges(self.offsets[:-1][images], counts))
        return replace(
            table,
            files=self.files.take(images),
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            image_extras={name: column[images] for name, column in self.image_extras.items()},
            offsets=_offsets_of(counts),
            splits={},
        )

    def keep_boxes(self, keep: NDArray[np.bool_]) -> DetectionTable:
        """The table with the boxes where `keep` (M,) bool is true; every image stays."""
        counts = np.bincount(self.image_of_box[keep], minlength=len(self))
        return replace(self._take_boxes(np.flatnonzero(keep)), offsets=_offsets_of(counts))

    def split(self, name: str) -> DetectionTable:
        """The images of the split `name`.

        Raises DataError naming the splits there are.
        """
        if name not in self.splits:
            known = ", ".join(self.splits) or "none"
            raise DataError(f"no split `{name}`; the dataset has: {known}", where=self.root)
        return self.take_images(self.splits[name])

    def with_classes(self, names: Sequence[str], *, others: str = "error") -> DetectionTable:
        """The table relabelled to `names`, matched by name.

        Boxes of other classes become ignore regions of no class (`others="ignore"`), are left out
        (`"drop"`), or are a DataError that names them (`"error"`). Ids of the classes go along.
        """
        position = {name: index for index, name in enumerate(names)}
        unknown = [name for name in self.classes if name not in position]
        used = set(np.unique(self.labels).tolist())
        unknown = [name for name in unknown if self.classes.index(name) in used]
        if unknown and others == "error":
            raise DataError(
                f"classes {_quoted(unknown)} are not among {_quoted(names)}",
                where=self.root,
                hint="rename them in the data, or treat them as regions to ignore: "
                "`--set data.others=ignore`",
            )
        lookup = np.array([position.get(name, ANY_CLASS) for name in (*self.classes, "")], np.int32)
        lookup[-1] = ANY_CLASS
        labels = lookup[self.labels]
        newly_ignored = (labels == ANY_CLASS) & (self.labels != ANY_CLASS)
        flags = self.flags | np.where(newly_ignored, np.uint8(Flag.IGNORE), np.uint8(0))
        table = replace(
            self,
            labels=labels,
            flags=flags.astype(np.uint8),
            classes=tuple(names),
            category_ids=self._ids_for(names),
        )
        return table.keep_boxes(~newly_ignored) if others == "drop" else table

    def _ids_for(self, names: Sequence[str]) -> NDArray[np.int64]:
        own = dict(zip(self.classes, self.category_ids.tolist(), strict=True))
        free = (i for i in range(1, len(names) + len(own) + 1) if i not in own.values())
        return np.array([own[name] if name in own else next(free) for name in names], np.int64)

    def _take_boxes(self, rows: NDArray[np.int64]) -> DetectionTable:
        """The box columns at `rows`. The caller sets offsets; not valid until then."""
        table = object.__new__(DetectionTable)
        columns: dict[str, Any] = {
            name: getattr(self, name)[rows]
            for name in ("boxes", "labels", "flags", "areas", "box_ids")
        }
        columns["scores"] = None if self.scores is None else self.scores[rows]
        columns["extras"] = {name: column[rows] for name, column in self.extras.items()}
        for name, value in {**self.__dict__, **columns}.items():
            object.__setattr__(table, name, value)
        return table


def make_table(
    root: Path,
    files: Iterable[str],
    sizes: Any,
    counts: Any,
    boxes: Any,
    labels: Any,
    classes: Sequence[str],
    **columns: Any,
) -> DetectionTable:
    """Build a table from plain sequences, filling in the columns that are not given.

    `counts` (I,) is the number of boxes of each image, in order; the rest as in DetectionTable.
    """
    names = files if isinstance(files, Strings) else Strings.pack(files)
    xyxy = np.asarray(boxes, np.float64).reshape(-1, 4)
    given: dict[str, Any] = {
        "image_ids": np.arange(1, len(names) + 1, dtype=np.int64),
        "flags": np.zeros(len(xyxy), np.uint8),
        "category_ids": np.arange(1, len(classes) + 1, dtype=np.int64),
        "areas": np.full(len(xyxy), np.nan),
        "box_ids": np.arange(1, len(xyxy) + 1, dtype=np.int64),
    } | columns
    return DetectionTable(
        root=root,
        files=names,
        sizes=np.asarray(sizes, np.int32).reshape(-1, 2),
        offsets=_offsets_of(np.asarray(counts, np.int64)),
        boxes=xyxy,
        labels=np.asarray(labels, np.int32),
        classes=tuple(classes),
        **given,
    )


def expand_ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The integers of every range [start, start + length), one after another: (sum,) int64."""
    ends = np.cumsum(lengths)
    shift = np.repeat(starts - (ends - lengths), lengths)
    total = int(ends[-1]) if len(ends) else 0
    rows: NDArray[np.int64] = np.arange(total, dtype=np.int64) + shift
    return rows


def _offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""The one shape of data: images and boxes as columns.

Everything that reads a dataset makes a `DetectionTable`, everything that writes one takes it, and
predictions are the same table with a `scores` column. Columns are NumPy arrays, so a million boxes
cost bytes and not Python objects, and worker processes share them without copying.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from enum import IntFlag
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.data.strings import Strings
from dhcli.errors import DataError
from dhcli.ops.arrays import expand_ranges, is_first
from dhcli.words import counted

ANY_CLASS = -1
"""Label of a region that belongs to no class: KITTI's DontCare, or classes set aside."""


OWN_COLUMN = "own "
"""How the image columns begin, among `image_extras`, that only the dataset itself gives a sense."""

SOURCE = "source"
"""What a format said of boxes, images and the whole that no other column holds: JSON, as it was.

A column of `extras` and of `image_extras`, "" in rows that say no more; an entry of `about`.
"""

HELD = frozenset(("id", "file_name", "width", "height"))
"""The names, among an image's `source_fields`, of what other columns hold too."""

TEXT_ID = "id"
"""The ids that a dataset tells as text: of images among `image_extras`, "" for those it does not.

Of classes, by name, JSON in the entry of `about`.
"""

FIRST_PIXEL = "first pixel"
"""The entry of `about` that tells what the files call the first pixel, "0" or "1"."""


class Flag(IntFlag):
    """What an annotation says about a box besides its class; the bits of `flags`."""

    CROWD = 1
    DIFFICULT = 2
    TRUNCATED = 4
    OCCLUDED = 8
    IGNORE = 16


REGION = Flag.CROWD | Flag.IGNORE
"""The flags of regions to ignore."""


Column = NDArray[Any] | Strings


UNREADABLE = "row-unreadable"
"""The code of remarks on rows, and whole files of images, that cannot be read."""


class Remark(NamedTuple):
    """What a reader found wrong with an annotation file and left out of the table.

    code   one of `findings.CODES`
    where  file and line, entry or image, from the root of the dataset
    what   is wrong there, in words
    """

    code: str
    where: str
    what: str


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
    extras        further columns a format needs to write itself back (M rows each, by name);
                  `line` is that of the annotation file, `source` (SOURCE) what nothing else holds
    image_extras  the same of images (I rows each); `annotation` is the file that told of an image
    about         the same of the dataset as a whole: text by name
    format        name of the format it was read from, "" if made in memory
    notes         what the reader decided (a pixel-offset rule, say), for people
    remarks       what it could not read, and left out; `dh check` lists it with its findings
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
    remarks: tuple[Remark, ...] = ()

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

    def __repr__(self) -> str:
        boxes = counted(len(self.boxes), "box" if self.scores is None else "detection")
        counts = f"{counted(len(self), 'image')}, {boxes}, {counted(len(self.classes), 'class')}"
        return f"<DetectionTable: {counts}>"

    def path(self, image: int) -> Path:
        """Where image number `image` lies."""
        return self.root / str(self.files[image])

    def rows(self, image: int) -> slice:
        """The rows of the box columns that belong to image number `image`."""
        return slice(int(self.offsets[:-1][image]), int(self.offsets[1:][image]))  # -1: the last

    @property
    def image_of_box(self) -> NDArray[np.int64]:
        """(M,) int64: the image number of each box."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def has(self, flag: Flag) -> NDArray[np.bool_]:
        """(M,) bool: boxes with any of the bits of `flag`."""
        found: NDArray[np.bool_] = (self.flags & np.uint8(flag)) != 0
        return found

    def regions(self, *, crowds: bool = True) -> NDArray[np.bool_]:
        """(M,) bool: boxes that are not objects but regions to ignore; without `crowds`, not those.

        What counts as a region, by what a box is:

                          regions()   regions(crowds=False)   ~taught("ignore")   ~taught("keep")
            no class      yes         yes                     yes                 yes
            IGNORE        yes         yes                     yes                 yes
            CROWD         yes         no                      yes                 yes
            DIFFICULT     no          no                      yes                 no
            other flags   no          no                      no                  no

        Crowds are of a class, and metrics forgive detections of that class on them alone.
        """
        flagged = self.has(REGION if crowds else Flag.IGNORE)
        region: NDArray[np.bool_] = flagged | (self.labels == ANY_CLASS)
        return region

    def taught(self, difficult: str) -> NDArray[np.bool_]:
        """(M,) bool: objects to learn; `difficult` boxes are among them ("keep") or not ("ignore").

        See `regions` for what is not.
        """
        objects: NDArray[np.bool_] = ~self.regions()
        return objects & ~self.has(Flag.DIFFICULT) if difficult == "ignore" else objects

    @property
    def first_pixel(self) -> int:
        """What the files call the first pixel, 0 or 1; 0 where they do not say."""
        return int(self.about.get(FIRST_PIXEL, 0))

    def source_fields(self) -> Iterator[dict[str, Any]]:
        """What the dataset says of each image in names of its own, see `SOURCE`.

        {} where that is no more than the columns, nothing at all where it is so of every image.
        Raises DataError where it is nested too deep.
        """
        return map(parse_source, self.image_extras.get(SOURCE, ()))

    def source_of_all(self) -> dict[str, Any]:
        """What the dataset says of itself as a whole, by names of its own."""
        return parse_source(self.about.get(SOURCE, ""))

    def without_source(self, boxes: NDArray[np.bool_] | None = None) -> DetectionTable:
        """Without what the dataset said of its boxes and images in its own words.

        Or, `boxes` (M,) bool given, of these boxes alone.
        """
        texts = self.extras.get(SOURCE)
        if boxes is not None:
            changed = {SOURCE: texts.blank(boxes)} if isinstance(texts, Strings) else {}
            return replace(self, extras={**self.extras, **changed})
        return replace(
            self,
            extras={name: column for name, column in self.extras.items() if name != SOURCE},
            image_extras={n: column for n, column in self.image_extras.items() if n != SOURCE},
        )

    def with_sound_ids(self) -> DetectionTable:
        """The table with new box ids, after the largest, for those not positive or coming again."""
        ids = self.box_ids.copy()
        bad = ~is_first(ids) | (ids <= 0)
        ids[bad] = int(ids.max(initial=0)) + 1 + np.arange(int(bad.sum()))
        return replace(self, box_ids=ids)

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
        return replace(
            self,
            **self._boxes_at(expand_ranges(self.offsets[:-1][images], counts)),
            files=self.files.take(images),
            image_ids=self.image_ids[images],
            sizes=self.sizes[images],
            image_extras={name: column[images] for name, column in self.image_extras.items()},
            offsets=_offsets_of(counts),
            splits={},
        )

    def keep_images(self, keep: NDArray[np.bool_]) -> DetectionTable:
        """The images where `keep` (I,) bool is true, in their splits."""
        number = np.cumsum(keep) - 1
        splits = {name: number[rows[keep[rows]]] for name, rows in self.splits.items()}
        return replace(self.take_images(np.flatnonzero(keep)), splits=splits)

    def keep_boxes(self, keep: NDArray[np.bool_]) -> DetectionTable:
        """The table with the boxes where `keep` (M,) bool is true; every image stays."""
        counts = np.bincount(self.image_of_box[keep], minlength=len(self))
        return replace(self, **self._boxes_at(np.flatnonzero(keep)), offsets=_offsets_of(counts))

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

    def _boxes_at(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """The columns of boxes at `rows`, by their names."""
        names = ("boxes", "labels", "flags", "areas", "box_ids")
        return {
            **{name: getattr(self, name)[rows] for name in names},
            "scores": None if self.scores is None else self.scores[rows],
            "extras": {name: column[rows] for name, column in self.extras.items()},
        }


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


def parse_source(text: str) -> dict[str, Any]:
    """The fields of an entry kept as text; none for "". Raises DataError."""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        raise DataError("holds an entry nested too deep, or a number too long") from None
    return found if isinstance(found, dict) else {}


def _offsets_of(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""What is wrong with a dataset: each finding has a code, a place, and what training does about it.

code             severity  what training does
dataset-empty    error     stops
image-missing    error     stops, or leaves it out (data.on_bad_image)
image-unreadable error     the same
image-size       warning   goes by the image's own size
image-duplicate  warning   keeps both
split-leak       error     keeps both
box-not-finite   error     leaves it out
box-inverted     error     leaves it out
box-empty        error     leaves it out
box-outside      error     leaves it out
box-over-edge    warning   clips it
box-duplicate    warning   keeps both
class-unknown    error     takes it for a region to ignore
class-unused     warning   nothing
class-spelling   warning   nothing
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.coco_entries import RAW
from dhcli.data.formats.files import read_bytes
from dhcli.data.formats.voc import OFFSET
from dhcli.data.scan import Scan, scan_images
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag, Strings
from dhcli.errors import DataError

_SLACK = 0.5
"""Pixels that a box may lie over the edge by: what rounding does."""
_NESTED = {frozenset(("train", "trainval")), frozenset(("val", "trainval"))}
_KNOWN_SPLITS = ("train", "val", "test", "trainval")


Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One flaw of a dataset.

    where  file and line, annotation, image or class
    mend   what training does about it
    """

    code: str
    severity: Severity
    where: str
    what: str
    mend: str


def check_table(table: DetectionTable, *, decode: bool = False) -> list[Finding]:
    """Everything found wrong with a dataset.

    Of every image the header and the end of the file are read, or with `decode` all of it.
    """
    images = scan_images(table, decode=decode)
    sound = replace(table, sizes=images.sizes)
    return [
        *_check_whole(table),
        *_check_images(table, images, "stop, or leave it out (data.on_bad_image)"),
        *_check_sizes(table, images),
        *_check_boxes(sound, ~images.is_bad),
        *_check_duplicates(table, images),
    ]


def mend_table(
    table: DetectionTable, *, on_bad_image: Literal["error", "skip"]
) -> tuple[DetectionTable, list[Finding]]:
    """The table with only what can be trained on, and what was found and mended.

    Images that cannot be read are left out, or are a DataError that names them. Sizes are those of
    the images. Boxes are clipped to them, and left out where nothing remains.
    """
    images = scan_images(table, decode=False)
    findings = [*_check_images(table, images, "left out")]
    if findings and on_bad_image == "error":
        raise _bad_images(table, findings)
    findings += [*_check_sizes(table, images)]
    table = _lighten(replace(table, sizes=images.sizes))
    if images.is_bad.any():
        table = _keep_images(table, ~images.is_bad)
    findings += _check_boxes(table, np.ones(len(table), np.bool_))
    keep = ~np.any([mask for _, mask in _broken(table)], axis=0)
    table = table.keep_boxes(keep) if not keep.all() else table
    limits = np.tile(table.sizes, 2)[table.image_of_box].astype(np.float64)
    unknown = (table.labels == ANY_CLASS) & ~table.has(Flag.IGNORE)
    flags = table.flags | np.where(unknown, Flag.IGNORE.value, 0).astype(np.uint8)
    return replace(table, boxes=np.clip(table.boxes, 0, limits), flags=flags), findings


def _bad_images(table: DetectionTable, findings: Sequence[Finding]) -> DataError:
    first = findings[0]
    others = f" (and {len(findings) - 1} more images)" if len(findings) > 1 else ""
    return DataError(
        f"{first.what}{others}",
        where=table.root / first.where,
        hint="mend or remove it, or leave such images out: `--set data.on_bad_image=skip`",
    )


def _lighten(table: DetectionTable) -> DetectionTable:
    """Without the annotations' own text, which may be most of the table and serves writing only."""
    return replace(
        table,
        extras={name: column for name, column in table.extras.items() if name != RAW},
        image_extras={n: column for n, column in table.image_extras.items() if n != RAW},
    )


def _keep_images(table: DetectionTable, keep: NDArray[np.bool_]) -> DetectionTable:
    number = np.cumsum(keep) - 1
    splits = {name: number[images[keep[images]]] for name, images in table.splits.items()}
    return replace(table.take_images(np.flatnonzero(keep)), splits=splits)


def _check_whole(table: DetectionTable) -> Iterator[Finding]:
    """Emptiness, and classes that nothing or two spellings stand for."""
    root = str(table.root)
    if not len(table.boxes):
        what = f"{len(table)} images, and not one box"
        yield Finding("dataset-empty", "error", root, what, "stop")
    counts = np.bincount(table.labels[table.labels != ANY_CLASS], minlength=len(table.classes))
    for name, count in zip(table.classes, counts, strict=True):
        if not count:
            yield Finding("class-unused", "warning", f"class {name}", "no box is of it", "nothing")
    spellings = defaultdict(list)
    for name in table.classes:
        spellings["".join(name.casefold().split()).replace("_", "").replace("-", "")].append(name)
    for names in spellings.values():
        if len(names) > 1:
            listed = ", ".join(f"`{name}`" for name in names)
            what = f"{listed} differ in case or spacing only"
            yield Finding("class-spelling", "warning", f"class {names[0]}", what, "nothing")


def _check_images(table: DetectionTable, images: Scan, mend: str) -> Iterator[Finding]:
    for image, what in images.bad.items():
        code = "image-unreadable" if table.path(image).exists() else "image-missing"
        yield Finding(code, "error", str(table.files[image]), what, mend)


def _check_sizes(table: DetectionTable, images: Scan) -> Iterator[Finding]:
    told, real = table.sizes, images.sizes
    differ = (told > 0).all(axis=1) & (told != real).any(axis=1) & ~images.is_bad
    for image in np.flatnonzero(differ).tolist():
        (width, height), size = told[image].tolist(), real[image].tolist()
        turned = " (rotated by EXIF?)" if [height, width] == size else ""
        what = f"annotated as {width}×{height}, but is {size[0]}×{size[1]}{turned}"
        where = str(table.files[image])
        yield Finding("image-size", "warning", where, what, "the image's own size counts")


def _broken(table: DetectionTable) -> list[tuple[str, NDArray[np.bool_]]]:
    """(code, (M,) bool) of boxes that are no use, each box under its first flaw."""
    x1, y1, x2, y2 = table.boxes.T
    width, height = table.sizes[table.image_of_box].T
    known = (width > 0) & (height > 0)
    outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    # xmin = xmax in a VOC file: a pixel wide by the letter, and nothing by what is meant.
    nothing = int(table.about.get(OFFSET, 0))
    with np.errstate(over="ignore", invalid="ignore"):
        thin = np.minimum(x2 - x1, y2 - y1)
    masks = [
        ("box-not-finite", ~np.isfinite(table.boxes).all(axis=1)),
        ("box-inverted", (x2 < x1) | (y2 < y1)),
        ("box-empty", (thin == 0) | (thin == nothing)),
        ("box-outside", known & outside),
        ("box-thin", thin <= 1),
    ]
    seen = np.zeros(len(table.boxes), np.bool_)
    found = []
    for code, mask in masks:
        found.append((code, mask & ~seen))
        seen |= mask
    return found


_SAID = {
    "box-not-finite": "has a coordinate that is not finite",
    "box-inverted": "has its maximum before its minimum",
    "box-empty": "has no area",
    "box-thin": "is at most one pixel wide or high",
    "box-outside": "lies outside the image",
    "box-over-edge": "reaches over the image's edge",
    "box-duplicate": "is there twice",
    "class-unknown": "has a class that the dataset does not define",
}


def _check_boxes(table: DetectionTable, usable: NDArray[np.bool_]) -> list[Finding]:
    """Flaws of boxes, by image; `usable` (I,) bool tells the images whose boxes count."""
    broken = _broken(table)
    sound = ~np.any([mask for _, mask in broken], axis=0)
    limits = np.tile(table.sizes, 2)[table.image_of_box]
    beyond = (table.boxes < -_SLACK) | (table.boxes > limits + _SLACK)
    unknown = (table.labels == ANY_CLASS) & ~table.has(Flag.IGNORE)
    masks: list[tuple[str, NDArray[np.bool_], Severity, str]] = [
        *((code, mask, _severity(code), "left out") for code, mask in broken),
        (
            "box-over-edge",
            sound & beyond.any(axis=1) & (limits > 0).all(axis=1),
            "warning",
            "clipped",
        ),
        ("box-duplicate", sound & _repeated(table), "warning", "kept"),
        ("class-unknown", unknown, "error", "taken for a region to ignore"),
    ]
    counted = usable[table.image_of_box]
    found = [
        (row, Finding(code, severity, _place(table, row), _box_says(table, row, code), mend))
        for code, mask, severity, mend in masks
        for row in np.flatnonzero(mask & counted).tolist()
    ]
    return [finding for _, finding in sorted(found, key=lambda pair: pair[0])]


def _severity(code: str) -> Severity:
    return "warning" if code == "box-thin" else "error"


def _repeated(table: DetectionTable) -> NDArray[np.bool_]:
    """(M,) bool: boxes that an earlier one of the same image equals, class included."""
    keys = np.column_stack([table.image_of_box, table.labels, table.boxes])
    order = np.lexsort(keys.T)
    same = np.zeros(len(keys), np.bool_)
    same[order[1:]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    return same


def _place(table: DetectionTable, row: int) -> str:
    """Where box number `row` is told of: file and line, else annotation, else image and box."""
    image = int(np.searchsorted(table.offsets, row, side="right")) - 1
    files, lines = table.image_extras.get("annotation"), table.extras.get("line")
    file = files[image] if isinstance(files, Strings) else ""
    if file and lines is not None:
        return f"{file}:{lines[row]}"
    if file:
        return f"{file}, annotation {table.box_ids[row]}"
    return f"{table.files[image]}, box {row - int(table.offsets[image]) + 1}"


def _box_says(table: DetectionTable, row: int, code: str) -> str:
    image = int(np.searchsorted(table.offsets, row, side="right")) - 1
    label = int(table.labels[row])
    name = "region" if label == ANY_CLASS else f"`{table.classes[label]}`"
    sides = ", ".join(f"{side:g}" for side in table.boxes[row].tolist())
    return f"{name} [{sides}] in {table.files[image]} {_SAID[code]}"


def _check_duplicates(table: DetectionTable, images: Scan) -> Iterator[Finding]:
    """The same image twice: in two splits that should be apart, or under two names."""
    files, splits = list(table.files), table.splits
    member = {name: set(splits[name].tolist()) for name in _KNOWN_SPLITS if name in splits}
    apart = [pair for pair in combinations(member, 2) if frozenset(pair) not in _NESTED]
    for one, other in apart:
        for image in sorted(member[one] & member[other]):
            what = f"is in both `{one}` and `{other}`"
            yield Finding("split-leak", "error", files[image], what, "kept in both")
    for first, second in _twins(table, images):
        what = f"is the same image as {files[first]}"
        across = [
            f"{what}, across `{one}` and `{other}`"
            for one, other in apart
            if (first in member[one] and second in member[other])
            or (second in member[one] and first in member[other])
        ]
        if across:
            yield Finding("split-leak", "error", files[second], across[0], "both kept")
        else:
            yield Finding("image-duplicate", "warning", files[second], what, "both kept")


def _twins(table: DetectionTable, images: Scan) -> Iterator[tuple[int, int]]:
    """(first, later) of images with the same content."""
    stamps, counts = np.unique(images.stamps, return_counts=True)
    candidates = np.flatnonzero(np.isin(images.stamps, stamps[counts > 1]) & ~images.is_bad)
    first_with: dict[bytes, int] = {}
    for image in candidates.tolist():
        content = hashlib.blake2b(read_bytes(table.path(image))).digest()
        first = first_with.setdefault(content, image)
        if first != image:
            yield first, image

"""What is wrong with a dataset. `findings.py` has the codes; `mend.py` mends what is found."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.files import map_threads, read_bytes
from dhcli.data.io.image import SIDEWAYS, read_orientation
from dhcli.data.strings import Strings
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.data.tools.findings import Finding
from dhcli.data.tools.scan import Scan
from dhcli.ops.arrays import is_first
from dhcli.words import counted

SLACK = 0.5
"""Pixels that a box may lie over the edge by: what rounding does."""
_ROUNDED, _NEARLY = 2, 1.01
"""Pixels, and share, by which a size may be wrong without meaning another size."""
_ALIKE = "EXIF turns it to the same size; its boxes are taken as those of the other turned images"
SPLITS = ("train", "trainval", "val", "test")
"""The splits that are known, from what is learned from to what is measured on."""
_NESTED = {("train", "trainval"), ("trainval", "val")}

Mask = NDArray[np.bool_]


def check_table(table: DetectionTable, images: Scan) -> list[Finding]:
    """Everything found wrong with a dataset, whose image files were looked at."""
    fitted = fit_to_images(table, images)
    return [
        *(Finding(*remark) for remark in table.remarks),
        *_check_whole(table),
        *_check_ids(table),
        *check_images(table, images),
        *fitted.findings,
        *check_boxes(fitted.table, ~images.is_bad),
        *_check_splits(table),
        *_check_copies(table, images),
    ]


def _check_whole(table: DetectionTable) -> Iterator[Finding]:
    """Emptiness, and classes that nothing or two spellings stand for."""
    if not len(table.boxes):
        what = f"{counted(len(table), 'image')}, but not one box"
        yield Finding("dataset-empty", str(table.root), what)
    else:
        for image in np.flatnonzero(np.diff(table.offsets) == 0).tolist():
            yield Finding("image-empty", str(table.files[image]), "has no box")
    for name, count in zip(table.classes, count_classes(table).tolist(), strict=True):
        if not count:
            yield Finding("class-unused", f"class {name}", "has no boxes")
    for names in spellings(table.classes):
        listed = ", ".join(f"`{name}`" for name in names)
        what = f"{listed} differ only in case or spacing"
        yield Finding("class-spelling", f"class {names[0]}", what)


def count_classes(table: DetectionTable) -> NDArray[np.int64]:
    """(K,) how many boxes are of each class."""
    return np.bincount(table.labels[table.labels != ANY_CLASS], minlength=len(table.classes))


def spellings(classes: tuple[str, ...]) -> list[list[str]]:
    """Names that differ in case, spaces, `_` and `-` only, two and more together."""
    alike = defaultdict(list)
    for name in classes:
        alike["".join(name.casefold().split()).replace("_", "").replace("-", "")].append(name)
    return [names for names in alike.values() if len(names) > 1]


def _check_ids(table: DetectionTable) -> Iterator[Finding]:
    for row in np.flatnonzero(table.box_ids == 0).tolist():
        yield Finding("id-zero", _place(table, row), _box_says(table, row, "id-zero"))
    for row in np.flatnonzero(repeated_ids(table) & (table.box_ids != 0)).tolist():
        yield Finding("id-repeated", _place(table, row), _box_says(table, row, "id-repeated"))


def repeated_ids(table: DetectionTable) -> Mask:
    """(M,) bool: annotations with the id of an earlier one of the same annotation file."""
    repeated = ~is_first(table.box_ids)
    if not repeated.any() or "annotation" not in table.image_extras:
        return repeated
    numbers: dict[str, int] = {}
    files = [numbers.setdefault(file, len(numbers)) for file in table.image_extras["annotation"]]
    return ~is_first(
        np.column_stack([np.array(files, np.int64)[table.image_of_box], table.box_ids])
    )


def check_images(table: DetectionTable, images: Scan) -> Iterator[Finding]:
    """The images that cannot be used, and those that are read by a rule."""
    for image, what in images.bad.items():
        code = "image-unreadable" if table.path(image).exists() else "image-missing"
        yield Finding(code, str(table.files[image]), what)
    for image, said in images.odd.items():
        yield from (Finding(code, str(table.files[image]), what) for code, what in said)


@dataclass(frozen=True)
class Fitted:
    """A table whose sizes and boxes are made to fit the image files, and what was found.

    table     sizes are the images' own, but for those that `disagree`
    findings  the images that were annotated with another size
    moved     (I,) bool: images whose boxes were turned or scaled along; masks no longer fit there
    disagree  (I,) bool: images that boxes and size told do not fit; nothing is changed there
    """

    table: DetectionTable
    findings: list[Finding]
    moved: Mask
    disagree: Mask


def fit_to_images(table: DetectionTable, images: Scan) -> Fitted:
    """The table as its image files have it, by what the size told and the boxes say of each.

    Where the size told is that of the pixels before EXIF turns them, and all boxes lie within it,
    the boxes are turned along; those of images whose size does not tell it too, see `_half_turned`.
    Where the image was made smaller or larger by one factor since its boxes were drawn, these are
    scaled along: see `_resized`. Where the boxes lie in the image all the same, its own size
    counts. Else the two disagree, and both stay.
    """
    told, real = table.sizes, images.sizes
    differ = (told > 0).all(axis=1) & (told != real).any(axis=1) & ~images.is_bad
    if not differ.any():
        none = np.zeros(len(table), np.bool_)
        return Fitted(replace(table, sizes=real), [], none, none)
    sideways = _sideways(table, differ & (told == real[:, ::-1]).all(axis=1))
    alike = (told == real).all(axis=1) & ~images.is_bad
    turned = sideways | _half_turned(table, sideways, alike)
    is_turned = np.isin(np.arange(len(table)), [*turned])
    resized = _resized(table, real, differ & ~is_turned)
    disagree = differ & ~is_turned & ~resized & ~_holds_boxes(table, real)
    boxes, areas = table.boxes.copy(), table.areas.copy()
    findings = []
    for image in np.flatnonzero(differ | is_turned).tolist():
        rows, (width, height), size = table.rows(image), told[image].tolist(), real[image]
        what = f"annotated as {width}×{height}, but is {size[0]}×{size[1]}"
        code = "image-size"
        if image in turned:
            boxes[rows] = turn_boxes(boxes[rows], turned[image], (width, height))
            what = f"{what} as EXIF turns it" if differ[image] else _ALIKE
            code = "image-turned"
        elif resized[image]:
            scale = size / told[image]
            boxes[rows] *= np.tile(scale, 2)
            areas[rows] *= scale.prod()
            code, what = "image-resized", f"{what}: its boxes fit the annotated size"
        elif disagree[image]:
            code, what = "image-disagrees", f"{what}, and its boxes do not fit"
        findings.append(Finding(code, str(table.files[image]), what))
    sizes = np.where(disagree[:, None], told, real)
    fitted = replace(table, sizes=sizes, boxes=boxes, areas=areas)
    return Fitted(fitted, findings, is_turned | resized, disagree)


def _resized(table: DetectionTable, real: NDArray[np.int32], candidates: Mask) -> Mask:
    """(I,) bool: images, of sizes `real` (I, 2), that were scaled after their boxes were drawn.

    Both sides changed by one factor, to a pixel. An image alone does not tell whether its boxes or
    the size told are wrong, so those made smaller, and those made larger, are looked at together:
    the boxes are pixels of the smaller size if that holds all of them.
    """
    told = table.sizes.astype(np.int64)
    ratio = told[:, 0] * real[:, 1] - told[:, 1] * real[:, 0]
    scaled = candidates & (np.abs(ratio) <= told.sum(axis=1))
    scaled &= (np.abs(told - real) > _ROUNDED).any(axis=1)
    scaled &= np.diff(table.offsets) > 0
    shrunk, grown = (scaled & each.any(axis=1) for each in (real < told, real > told))
    in_told, in_real = _holds_boxes(table, table.sizes), _holds_boxes(table, real)
    resized = np.zeros(len(table), np.bool_)
    if not in_real[shrunk].all():
        resized |= shrunk & in_told
    if in_told[grown].all():
        resized |= grown
    return resized


def _holds_boxes(table: DetectionTable, sizes: NDArray[np.int32]) -> Mask:
    """(I,) bool: all finite boxes of an image lie within its size of `sizes` (I, 2), nearly."""
    limits = np.tile(np.maximum(sizes * _NEARLY, sizes + _ROUNDED), 2)[table.image_of_box]
    beyond = (table.boxes > limits).any(axis=1) & np.isfinite(table.boxes).all(axis=1)
    holds: Mask = np.bincount(table.image_of_box[beyond], minlength=len(table)) == 0
    return holds


def _sideways(table: DetectionTable, candidates: Mask) -> dict[int, int]:
    """Image number → EXIF orientation, where boxes were drawn before the turn."""
    beyond = (table.boxes > np.tile(table.sizes, 2)[table.image_of_box] + SLACK).any(axis=1)
    images = np.flatnonzero(candidates)
    images = np.setdiff1d(images, table.image_of_box[beyond])
    turns = [read_orientation(table.path(image)) for image in images.tolist()]
    pairs = zip(images.tolist(), turns, strict=True)
    return {image: turn for image, turn in pairs if turn in SIDEWAYS}


def _half_turned(
    table: DetectionTable, sideways: dict[int, int], candidates: Mask
) -> dict[int, int]:
    """Image number → EXIF orientation, where boxes were drawn before a turn that keeps the size.

    That is half a turn, a mirroring, or any turn of a square; the size told says nothing of it.
    Such boxes were drawn before the turn where those of the `sideways` images were, and no others.
    """
    images = np.flatnonzero(candidates).tolist() if sideways else []
    turns = map_threads(read_orientation, [table.path(image) for image in images])
    found = {image: turn for image, turn in zip(images, turns, strict=True) if turn > 1}
    square = table.sizes[:, 0] == table.sizes[:, 1]
    drawn_upright = any(turn in SIDEWAYS and not square[image] for image, turn in found.items())
    return {} if drawn_upright else found


def turn_boxes(
    boxes: NDArray[np.float64], orientation: int, size: tuple[int, int]
) -> NDArray[np.float64]:
    """Boxes (M, 4) of an image of `size` (w, h), after EXIF `orientation` 2…8 turned it."""
    x1, y1, x2, y2 = boxes.T
    width, height = size
    if orientation in SIDEWAYS:
        x1, y1, x2, y2 = y1, x1, y2, x2
        width, height = height, width
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return np.column_stack([x1, y1, x2, y2])


def find_broken(table: DetectionTable) -> list[tuple[str, Mask]]:
    """(code, (M,) bool) of boxes that are no use, each box under the first that it has."""
    x1, y1, x2, y2 = table.boxes.T
    width, height = table.sizes[table.image_of_box].T
    known = (width > 0) & (height > 0)
    outside = (x2 <= 0) | (y2 <= 0) | (x1 >= width) | (y1 >= height)
    # xmin = xmax in a VOC file: a pixel wide by the letter, and nothing by what is meant.
    nothing = table.first_pixel
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
    "box-not-finite": "has a coordinate that is missing or not finite",
    "box-inverted": "has its maximum before its minimum",
    "box-empty": "has no area",
    "box-thin": "is at most one pixel wide or high",
    "box-outside": "lies outside the image",
    "box-over-edge": "extends beyond the image",
    "box-duplicate": "appears twice",
    "class-unknown": "has a class that the dataset does not define",
    "id-zero": "has no id, or id 0",
    "id-repeated": "has the id of an earlier annotation",
}


def check_boxes(table: DetectionTable, usable: Mask) -> list[Finding]:
    """Findings of boxes, by image; `usable` (I,) bool tells the images whose boxes count."""
    broken = find_broken(table)
    sound = ~np.any([mask for _, mask in broken], axis=0)
    limits = np.tile(table.sizes, 2)[table.image_of_box]
    beyond = (table.boxes < -SLACK) | (table.boxes > limits + SLACK)
    masks = [
        *broken,
        ("box-over-edge", sound & beyond.any(axis=1) & (limits > 0).all(axis=1)),
        ("box-duplicate", sound & find_repeated(table)),
        ("class-unknown", find_unknown(table)),
    ]
    counted = usable[table.image_of_box]
    found = [
        (row, Finding(code, _place(table, row), _box_says(table, row, code)))
        for code, mask in masks
        for row in np.flatnonzero(mask & counted).tolist()
    ]
    return [finding for _, finding in sorted(found, key=lambda pair: pair[0])]


def find_unknown(table: DetectionTable) -> Mask:
    """(M,) bool: boxes of no class that are not marked as regions to ignore."""
    unknown: Mask = (table.labels == ANY_CLASS) & ~table.has(Flag.IGNORE)
    return unknown


def find_repeated(table: DetectionTable) -> Mask:
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
    if file and lines is not None and lines[row] == lines[row]:  # NaN where sources were merged
        return f"{file}:{int(lines[row])}"
    if file:
        return f"{file}, annotation {table.box_ids[row]}"
    return f"{table.files[image]}, box {row - int(table.offsets[image]) + 1}"


def _box_says(table: DetectionTable, row: int, code: str) -> str:
    image = int(np.searchsorted(table.offsets, row, side="right")) - 1
    label = int(table.labels[row])
    name = "region" if label == ANY_CLASS else f"`{table.classes[label]}`"
    first = table.first_pixel  # coordinates as the file has them
    x1, y1, x2, y2 = table.boxes[row].tolist()
    sides = ", ".join(f"{side:g}" for side in (x1 + first, y1 + first, x2, y2))
    return f"{name} [{sides}] in {table.files[image]} {_SAID[code]}"


def _check_splits(table: DetectionTable) -> Iterator[Finding]:
    """What the splits leave out: images, and classes that others have."""
    known = [name for name in SPLITS if len(table.splits.get(name, ()))]
    left = len(table) - len(np.unique(np.concatenate([[], *table.splits.values()])))
    if table.splits and left:
        yield Finding("image-unsplit", str(table.root), f"{counted(left, 'image')} in no split")
    counts = {name: count_classes(table.split(name)).tolist() for name in known}
    for label, (name, total) in enumerate(zip(table.classes, count_classes(table), strict=True)):
        absent = [split for split in known if not counts[split][label]]
        if total and absent and len(known) > 1:
            listed = ", ".join(f"`{split}`" for split in absent)
            what = f"none of its {total:,} boxes is in {listed}"
            yield Finding("split-class", f"class {name}", what)


def _check_copies(table: DetectionTable, images: Scan) -> Iterator[Finding]:
    """The same image twice: in two splits that should be apart, or under two names."""
    files = table.files
    for one, other, shared in find_shared(table):
        for image in shared.tolist():
            yield Finding("split-leak", files[image], f"is in both `{one}` and `{other}`")
    for same in find_copies(table, images):
        for image in same[1:]:
            what = f"is the same image as {files[same[0]]}"
            across = _across(table, same[0], image)
            code = "split-leak" if across else "image-duplicate"
            yield Finding(code, files[image], what + across)


def apart_splits(table: DetectionTable) -> list[tuple[str, str]]:
    """Pairs of splits that should share no image, what is learned from first."""
    names = [name for name in SPLITS if name in table.splits]
    return [pair for pair in combinations(names, 2) if pair not in _NESTED]


def find_shared(table: DetectionTable) -> Iterator[tuple[str, str, NDArray[np.int64]]]:
    """(split, split, image numbers) of images that two splits list, though they should not."""
    for one, other in apart_splits(table):
        yield one, other, np.intersect1d(table.splits[one], table.splits[other])


def find_leaks(
    learned: tuple[DetectionTable, Scan], measured: tuple[DetectionTable, Scan]
) -> list[Finding]:
    """The images to measure on whose content is among those to learn from, two tables of each."""
    (one, ones), (other, others) = learned, measured
    shared = np.intersect1d(ones.stamps[~ones.is_bad], others.stamps[~others.is_bad])
    files = {_content(one, i): i for i in np.flatnonzero(np.isin(ones.stamps, shared)).tolist()}
    found = []
    for image in np.flatnonzero(np.isin(others.stamps, shared)).tolist():
        twin = files.get(_content(other, image))
        if twin is not None:
            what = f"is the same image as {one.files[twin]}, which is used for training"
            found.append(Finding("split-leak", other.files[image], what))
    return found


def _content(table: DetectionTable, image: int) -> bytes:
    """What tells the content of an image's file from any other."""
    return hashlib.blake2b(read_bytes(table.path(image))).digest()


def _across(table: DetectionTable, first: int, second: int) -> str:
    """In words, the splits that two images are in, where those should be apart; else ""."""
    for one, other in apart_splits(table):
        lists = table.splits[one], table.splits[other]
        for a, b in ((first, second), (second, first)):
            if a in lists[0] and b in lists[1]:
                return f", across `{one}` and `{other}`"
    return ""


def find_copies(table: DetectionTable, images: Scan) -> list[list[int]]:
    """Numbers of images of the same content, two and more together, by their first.

    Only files of the same length and the same end are read.
    """
    stamps, counts = np.unique(images.stamps, return_counts=True)
    candidates = np.flatnonzero(np.isin(images.stamps, stamps[counts > 1]) & ~images.is_bad)

    same: dict[bytes, list[int]] = {}
    numbers: list[int] = candidates.tolist()
    digests = map_threads(partial(_content, table), numbers)
    for image, digest in zip(numbers, digests, strict=True):
        same.setdefault(digest, []).append(image)
    return [group for group in same.values() if len(group) > 1]

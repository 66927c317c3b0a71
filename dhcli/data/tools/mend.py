"""Mending a dataset: as training does in passing, or for good as `dh check --fix` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import UNREADABLE, DetectionTable, Flag
from dhcli.data.tools.check import (
    SLACK,
    SPLITS,
    Fitted,
    check_images,
    check_table,
    count_classes,
    find_broken,
    find_copies,
    find_repeated,
    find_shared,
    find_unknown,
    fit_to_images,
    spellings,
)
from dhcli.data.tools.findings import Finding, summary
from dhcli.data.tools.scan import Scan, scan_images
from dhcli.data.tools.select import rename_classes
from dhcli.errors import DataError
from dhcli.words import counted


def mend_for_training(
    table: DetectionTable, images: Scan, *, on_bad_image: Literal["error", "skip"]
) -> tuple[DetectionTable, list[Finding]]:
    """The table with only what can be trained on, and all that was found.

    `images` is the look at its files. Images that cannot be read are left out, or are a DataError
    that names them; so are rows that the reader could not read. Sizes are those of the images.
    Boxes are clipped to them, and left out where nothing remains: see `CODES`, under `training`.
    """
    if on_bad_image == "error":
        _refuse_unreadable(table)
    if images.bad and on_bad_image == "error":
        found = check_images(table, images)
        raise _bad_images(table, list(islice(found, len(images.bad))))
    findings = check_table(table, images)
    fitted = fit_to_images(table.without_source(), images)  # which may be most of it
    table, bad = fitted.table, images.is_bad | fitted.disagree
    if fitted.disagree.any() and on_bad_image == "error":
        raise _bad_images(table, [f for f in fitted.findings if f.code == "image-disagrees"])
    if bad.any():
        table = table.keep_images(~bad)
    return _mend_boxes(_order_corners(table)), findings


def mend_for_good(table: DetectionTable, images: Scan) -> DetectionTable:
    """The table with everything mended that can be, `images` being the look at its files.

    What becomes of each finding that `check_table` names is told in `CODES`, under `fix`.
    """
    fitted = without_moved_masks(fit_to_images(table, images))
    keep = ~images.is_bad
    keep[_spare_copies(table, images)] = False
    table = _part_splits(fitted).keep_images(keep)
    table = _order_corners(table)
    table = _mend_boxes(table.keep_boxes(~find_repeated(table)))
    return _mend_classes(table).with_sound_ids()


def fit_to_files(table: DetectionTable) -> tuple[DetectionTable, list[str]]:
    """The table as its image files have it, after a look at all that are there; what was done.

    See `fit_to_images`. Files that cannot be read say nothing.
    """
    fitted = fit_to_images(table, scan_images(table, decode=False))
    if not fitted.findings:
        return fitted.table, []
    return without_moved_masks(fitted), summary(fitted.findings)


def with_sound_boxes(table: DetectionTable) -> tuple[DetectionTable, list[str]]:
    """The table without boxes that are not finite, and corners in order; what was done."""
    finite = np.asarray(np.isfinite(table.boxes).all(axis=1))
    lines = []
    if lost := int(np.sum(~finite)):
        lines.append(f"{counted(lost, 'box')} not finite: left out (`dh check` names them)")
        table = table.keep_boxes(finite)
    if swapped := int(np.sum((table.boxes[:, 2:] < table.boxes[:, :2]).any(axis=1))):
        lines.append(f"{counted(swapped, 'box')} with corners in the wrong order: put in order")
        table = _order_corners(table)
    return table, lines


def without_moved_masks(fitted: Fitted) -> DetectionTable:
    """The table without the masks of images whose boxes have moved: they are no longer right."""
    return fitted.table.without_source(fitted.moved[fitted.table.image_of_box])


def _refuse_unreadable(table: DetectionTable) -> None:
    """Raise the DataError of the rows that the reader of `table` left out, if there are any."""
    rows = [remark for remark in table.remarks if remark.code == UNREADABLE]
    if rows:
        others = f" (and {counted(len(rows) - 1, 'row')} more)" if len(rows) > 1 else ""
        raise DataError(
            f"{rows[0].what}{others}",
            where=table.root / rows[0].where,
            hint="mend it (`dh check` lists all), or leave such rows out: "
            "`--set data.on_bad_image=skip`",
        )


def _bad_images(table: DetectionTable, findings: Sequence[Finding]) -> DataError:
    first = findings[0]
    others = f" (and {counted(len(findings) - 1, 'image')} more)" if len(findings) > 1 else ""
    return DataError(
        f"{first.what}{others}",
        where=table.root / first.where,
        hint="mend or remove it, or leave such images out: `--set data.on_bad_image=skip`",
    )


def _order_corners(table: DetectionTable) -> DetectionTable:
    """The table with every minimum before its maximum: some draw boxes from right to left."""
    first = table.first_pixel  # taken off what was read as the minimum
    low, high = table.boxes[:, :2], table.boxes[:, 2:]
    inverted = high < low
    ordered = np.where(inverted, high - first, low), np.where(inverted, low + first, high)
    return _with_boxes(table, np.hstack(ordered))


def _mend_boxes(table: DetectionTable) -> DetectionTable:
    """Boxes within their images; those of no use left out, those of no class ignored."""
    keep = ~np.any([mask for _, mask in find_broken(table)], axis=0)
    table = table.keep_boxes(keep) if not keep.all() else table
    limits = np.tile(table.sizes, 2)[table.image_of_box].astype(np.float64)
    flags = table.flags | np.where(find_unknown(table), Flag.IGNORE.value, 0).astype(np.uint8)
    return _with_boxes(replace(table, flags=flags), np.clip(table.boxes, 0, limits))


def _with_boxes(table: DetectionTable, boxes: NDArray[np.float64]) -> DetectionTable:
    """The table with other `boxes` (M, 4), and no area stated of those that now differ in size.

    More than by rounding: an area may be that of a mask, which no box tells.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        was, now = (each[:, 2:] - each[:, :2] for each in (table.boxes, boxes))
        differs = (np.abs(now - was) > SLACK).any(axis=1)
    return replace(table, boxes=boxes, areas=np.where(differs, np.nan, table.areas))


def _spare_copies(table: DetectionTable, images: Scan) -> NDArray[np.int64]:
    """Of images of the same content all but one: the first in the split that is measured on."""
    rank = np.zeros(len(table), np.int64)
    for place, name in enumerate(SPLITS, 1):
        rank[table.splits.get(name, [])] = place
    spare = []
    for same in find_copies(table, images):
        kept = max(same, key=lambda image: (rank[image], -image))
        spare += [image for image in same if image != kept]
    return np.array(spare, np.int64)


def _part_splits(table: DetectionTable) -> DetectionTable:
    """Splits that should be apart without what they share: it stays where it is measured on."""
    splits = dict(table.splits)
    for one, _, shared in find_shared(table):
        splits[one] = np.setdiff1d(splits[one], shared)
    return replace(table, splits=splits)


def _mend_classes(table: DetectionTable) -> DetectionTable:
    """One spelling a class, and no class without boxes."""
    counts = dict(zip(table.classes, count_classes(table).tolist(), strict=True))
    renamed: dict[str, str] = {}
    for names in spellings(table.classes):
        best = max(names, key=lambda name: counts[name])
        renamed |= {name: best for name in names if name != best}
    table = rename_classes(table, renamed)
    used = count_classes(table) > 0
    return table.with_classes(
        [name for name, is_used in zip(table.classes, used, strict=True) if is_used]
    )

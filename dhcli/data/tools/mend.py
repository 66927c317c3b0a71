"""Mending a dataset: as training does in passing, or for good as `dh check --fix` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import UNREADABLE, DetectionTable, Flag
from dhcli.data.tools.check import (
    SPLITS,
    check_images,
    check_table,
    correct_sizes,
    count_classes,
    find_broken,
    find_copies,
    find_repeated,
    find_shared,
    find_unknown,
    spellings,
)
from dhcli.data.tools.findings import Finding
from dhcli.data.tools.scan import Scan
from dhcli.data.tools.select import keep_images, rename_classes
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
        raise _bad_images(table, list(check_images(table, images)))
    findings = check_table(table, images)
    table, _ = correct_sizes(table.without_source(), images)  # which may be most of it
    if images.bad:
        table = keep_images(table, ~images.is_bad)
    return _mend_boxes(_order_corners(table)), findings


def mend_for_good(table: DetectionTable, images: Scan) -> DetectionTable:
    """The table with everything mended that can be, `images` being the look at its files.

    What becomes of each finding that `check_table` names is told in `CODES`, under `fix`.
    """
    upright, sizes = correct_sizes(table, images)
    turned = {finding.where for finding in sizes if finding.code == "image-turned"}
    in_turned = np.array([file in turned for file in table.files], np.bool_)[table.image_of_box]
    upright = upright.without_source(in_turned)  # masks are no longer right there
    keep = ~images.is_bad
    keep[_spare_copies(table, images)] = False
    table = keep_images(_part_splits(upright), keep)
    table = _order_corners(table)
    table = _mend_boxes(table.keep_boxes(~find_repeated(table)))
    return _mend_classes(table).with_sound_ids()


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
    return replace(table, boxes=np.hstack(ordered))


def _mend_boxes(table: DetectionTable) -> DetectionTable:
    """Boxes within their images; those of no use left out, those of no class ignored."""
    keep = ~np.any([mask for _, mask in find_broken(table)], axis=0)
    table = table.keep_boxes(keep) if not keep.all() else table
    limits = np.tile(table.sizes, 2)[table.image_of_box].astype(np.float64)
    flags = table.flags | np.where(find_unknown(table), Flag.IGNORE.value, 0).astype(np.uint8)
    return replace(table, boxes=np.clip(table.boxes, 0, limits), flags=flags)


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

"""Choosing what of a dataset to keep: classes, boxes, images. A table in, a table out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from dhcli.data.table import ANY_CLASS, DetectionTable
from dhcli.errors import DataError, suggest


def rename_classes(table: DetectionTable, names: Mapping[str, str]) -> DetectionTable:
    """Classes called as `names` (old → new) says; those that get the same name become one.

    A class that becomes one with others keeps the place and the id of the first of them. Raises
    DataError where an old name is not there.
    """
    _must_have(table, names)
    new = [names.get(name, name) for name in table.classes]
    classes = tuple(dict.fromkeys(new))
    first = [new.index(name) for name in classes]
    lookup = np.array([*map(classes.index, new), ANY_CLASS], np.int32)
    return replace(
        table,
        labels=lookup[table.labels],
        classes=classes,
        category_ids=table.category_ids[first],
    )


def keep_classes(table: DetectionTable, names: Collection[str]) -> DetectionTable:
    """Only these classes, in the order of `names`, and regions of no class.

    Boxes of others are left out, images stay. Raises DataError where a name is not there.
    """
    _must_have(table, names)
    return table.with_classes(tuple(dict.fromkeys(names)), others="drop")


def drop_classes(table: DetectionTable, names: Collection[str]) -> DetectionTable:
    """Without these classes and their boxes. Raises DataError where a name is not there."""
    _must_have(table, names)
    return keep_classes(table, [name for name in table.classes if name not in names])


def drop_small(table: DetectionTable, area: float) -> DetectionTable:
    """Without boxes of less than `area` pixels²."""
    x1, y1, x2, y2 = table.boxes.T
    return table.keep_boxes((x2 - x1) * (y2 - y1) >= area)


def limit_images(table: DetectionTable, count: int) -> DetectionTable:
    """The first `count` images, and the splits that have any of them."""
    first = table.keep_images(np.arange(len(table)) < count)
    return replace(first, splits={n: images for n, images in first.splits.items() if len(images)})


def _must_have(table: DetectionTable, names: Collection[str]) -> None:
    unknown = next((name for name in names if name not in table.classes), None)
    if unknown is None:
        return
    raise DataError(
        f"there is no class `{unknown}`",
        where=table.root,
        hint=suggest(unknown, table.classes, "its classes are"),
    )

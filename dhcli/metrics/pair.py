"""Truth and detections side by side: the same images, classes matched by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dhcli.data.table import DetectionTable
from dhcli.errors import DataError


def match_classes(found: DetectionTable, truth: DetectionTable) -> DetectionTable:
    """The detections `found`, relabelled to the classes and category ids of `truth` by name.

    Detections of classes that `truth` does not have are left out.
    Raises DataError where no name agrees.
    """
    check_common(found.classes, truth)
    matched = found.with_classes(truth.classes, others="drop")
    return replace(matched, category_ids=truth.category_ids)


def check_common(known: Sequence[str], truth: DetectionTable) -> None:
    """Raise DataError where none of the classes `known` to the detector is one of `truth`'s."""
    if not set(known) & set(truth.classes):
        raise DataError(
            f"no class in common: the detections have {quote_names(known)}, "
            f"the data has {quote_names(truth.classes)}",
            where=truth.root,
            hint="classes are matched by their exact names; `dh finetune` makes a model "
            "for the classes of your data",
        )


def check_pair(truth: DetectionTable, found: DetectionTable) -> None:
    """Raise DataError unless `found` holds finite scored boxes on the images of `truth`."""
    if found.scores is None:
        raise DataError("the detections have no scores", where=found.root)
    if not np.array_equal(truth.image_ids, found.image_ids):
        raise DataError("the detections are for other images than the data", where=truth.root)
    bad = ~(np.isfinite(found.scores) & np.isfinite(found.boxes).all(axis=1))
    if bad.any():
        image = int(found.image_of_box[bad][0])
        raise DataError("a detection's score or box is not a number", where=found.path(image))


def check_classes(truth: DetectionTable, found: DetectionTable) -> None:
    """Raise DataError unless both tables number their classes alike."""
    if truth.classes != found.classes:
        raise DataError("the detections have other classes than the data: use match_classes first")


def quote_names(names: Sequence[str], most: int = 8) -> str:
    """`a`, `b` and so on; of many names the first `most` and how many more there are."""
    shown = ", ".join(f"`{name}`" for name in names[:most]) or "none"
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

"""Small tables, and a drawn COCO dataset with detections that are sometimes right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dhcli.data.table import ANY_CLASS, DetectionTable, make_table

Rows = Sequence[tuple[Any, ...]]
MakeTruth = Callable[..., DetectionTable]


@pytest.fixture
def truth_of() -> MakeTruth:
    """`truth_of(images, classes)`: an image is rows of (class or None, x1, y1, x2, y2, flag)."""

    def build(images: Sequence[Rows], classes: Sequence[str] = ("a",), **columns: Any) -> Any:
        return _table(images, classes, flags=_last(images, np.uint8), **columns)

    return build


@pytest.fixture
def found_of() -> MakeTruth:
    """`found_of(images, classes)`: an image is rows of (class, x1, y1, x2, y2, score)."""

    def build(images: Sequence[Rows], classes: Sequence[str] = ("a",), **columns: Any) -> Any:
        return _table(images, classes, scores=_last(images, np.float64), **columns)

    return build


def _last(images: Sequence[Rows], dtype: Any) -> Any:
    return np.array([row[5] for rows in images for row in rows], dtype)


def _table(images: Sequence[Rows], classes: Sequence[str], **columns: Any) -> DetectionTable:
    rows = [row for image in images for row in image]
    return make_table(
        Path("drawn"),
        [f"{i}.jpg" for i in range(len(images))],
        [(500, 500)] * len(images),
        [len(image) for image in images],
        [row[1:5] for row in rows],
        [ANY_CLASS if row[0] is None else list(classes).index(row[0]) for row in rows],
        classes,
        **columns,
    )

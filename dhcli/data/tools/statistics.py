"""What a dataset is like, in numbers: classes, sizes, shapes, how many to an image, splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable
from dhcli.words import counted

SMALL, MEDIUM = 32.0**2, 96.0**2
"""COCO's limits of small and medium objects, in pixels²."""
_QUANTILES = (0, 0.1, 0.5, 0.9, 1)
_MOST_SIZES = 5
_SHORTEST, _LONGEST = 1e-12, 1e12
"""Sides of an object in pixels: beyond them an area or a shape may be no number."""


@dataclass(frozen=True)
class Spread:
    """Quantiles of some numbers."""

    least: float
    p10: float
    median: float
    p90: float
    most: float


@dataclass(frozen=True)
class ClassNumbers:
    """A class: how many objects, in how many images, how large (√area, pixels), how tall.

    aspect  height / width
    splits  objects in each split
    """

    name: str
    objects: int
    images: int
    side: Spread | None
    aspect: Spread | None
    splits: dict[str, int]


@dataclass(frozen=True)
class SplitNumbers:
    """A split: its images, those without an object, and its objects."""

    images: int
    empty: int
    objects: int


@dataclass(frozen=True)
class Statistics:
    """A dataset in numbers; objects are boxes that have an area and are not regions to ignore.

    empty        images without an object
    regions      boxes to ignore: crowd, ignored, of no class
    per_image    objects an image
    side         √area of all objects, pixels; aspect: height / width
    small, medium, large   objects by COCO's limits of 32² and 96² pixels
    image_sizes  the most frequent (width, height, images), and how many others there are
    """

    images: int
    objects: int
    regions: int
    empty: int
    per_image: Spread | None
    side: Spread | None
    aspect: Spread | None
    small: int
    medium: int
    large: int
    image_sizes: list[tuple[int, int, int]]
    other_sizes: int
    classes: list[ClassNumbers]
    splits: dict[str, SplitNumbers]


def describe_crowd(table: DetectionTable, most: int) -> str | None:
    """A line where images hold more objects than the `most` that a model keeps; None where not."""
    counts = np.bincount(find_objects(table).image_of_box, minlength=1)
    crowded = int(np.sum(counts > most))
    if not crowded:
        return None
    verb = "holds" if crowded == 1 else "hold"
    return (
        f"{counted(crowded, 'image')} {verb} more objects (up to {counts.max():,}) than are kept "
        f"per image: model.detect.max_detections {most:,}"
    )


def measure(table: DetectionTable) -> Statistics:
    """The numbers of a dataset."""
    found = find_objects(table)
    counts = np.bincount(found.image_of_box, minlength=len(found))
    area = found.areas
    sizes = Counter(map(tuple, table.sizes.tolist())).most_common()
    return Statistics(
        images=len(table),
        objects=len(found.boxes),
        regions=int(np.sum(table.regions())),
        empty=int(np.sum(counts == 0)),
        per_image=_spread(counts),
        side=_spread(np.sqrt(area)),
        aspect=_spread(_aspects(found)),
        small=int(np.sum(area < SMALL)),
        medium=int(np.sum((area >= SMALL) & (area < MEDIUM))),
        large=int(np.sum(area >= MEDIUM)),
        image_sizes=[(w, h, count) for (w, h), count in sizes[:_MOST_SIZES]],
        other_sizes=max(0, len(sizes) - _MOST_SIZES),
        classes=_classes(found),
        splits={
            name: SplitNumbers(len(rows), int(np.sum(counts[rows] == 0)), int(counts[rows].sum()))
            for name, rows in table.splits.items()
        },
    )


def find_objects(table: DetectionTable) -> DetectionTable:
    """The table with objects only, `areas` being width × height of each box, in pixels²."""
    with np.errstate(over="ignore", invalid="ignore"):
        sides = table.boxes[:, 2:] - table.boxes[:, :2]
    sound = np.asarray(((sides > _SHORTEST) & (sides < _LONGEST)).all(axis=1))
    found = table.keep_boxes(sound & ~table.regions())
    areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1)
    return replace(found, areas=areas)


def _aspects(table: DetectionTable) -> NDArray[np.float64]:
    x1, y1, x2, y2 = table.boxes.T
    aspects: NDArray[np.float64] = (y2 - y1) / (x2 - x1)
    return aspects


def _classes(table: DetectionTable) -> list[ClassNumbers]:
    order = np.argsort(table.labels, kind="stable")
    ends = np.searchsorted(table.labels[order], np.arange(len(table.classes) + 1))
    side, aspect, image = np.sqrt(table.areas), _aspects(table), table.image_of_box
    members = {name: np.isin(np.arange(len(table)), rows) for name, rows in table.splits.items()}
    found = []
    for name, start, stop in zip(table.classes, ends[:-1], ends[1:], strict=True):
        rows = order[start:stop]
        found.append(
            ClassNumbers(
                name=name,
                objects=len(rows),
                images=len(np.unique(image[rows])),
                side=_spread(side[rows]),
                aspect=_spread(aspect[rows]),
                splits={split: int(mask[image[rows]].sum()) for split, mask in members.items()},
            )
        )
    return found


def _spread(values: Sequence[float] | NDArray[np.float64] | NDArray[np.int64]) -> Spread | None:
    """Quantiles of `values`; None where there are none."""
    if not len(values):
        return None
    return Spread(*(round(float(value), 4) for value in np.quantile(values, _QUANTILES)))

"""How well the anchors that the RPN starts from fit the objects of a dataset."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dhcli.config.schema import Config, TwoStage
from dhcli.data.loading.transforms import resized_boxes
from dhcli.data.table import DetectionTable
from dhcli.data.tools.findings import Finding
from dhcli.data.tools.statistics import find_objects
from dhcli.models.build import anchors_of
from dhcli.ops.anchors import best_ious
from dhcli.report.sheet import Cell, Column, Row, Sheet

IOU = 0.5
"""What an anchor must share with an object to be near it."""
ENOUGH = 0.8
"""A class of which fewer objects have an anchor near them is worth a word."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class AnchorRecall:
    """Objects of K classes by the level, of L, on which their best anchor lies.

    counts  (K, L) int64 objects
    near    (K, L) int64 those whose best anchor has an IoU of at least `IOU`
    ious    (K,) mean IoU of the best anchors, NaN without objects
    sides   (K,) median √area of the resized objects, pixels, NaN without objects
    """

    levels: tuple[str, ...]
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    near: NDArray[np.int64]
    ious: Floats
    sides: Floats

    def recall(self) -> Floats:
        """(K,) the share of objects with an anchor near them, NaN without objects."""
        with np.errstate(invalid="ignore"):
            share: Floats = self.near.sum(axis=1) / self.counts.sum(axis=1)
        return share

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """For JSON: by class, the counts of each level, and None where there are no objects."""
        rows = zip(self.counts.tolist(), self.near.tolist(), self.ious, self.sides, strict=True)
        return {
            name: {
                "objects": counts,
                "near": near,
                "mean_iou": None if np.isnan(iou) else round(float(iou), 4),
                "median_side": None if np.isnan(side) else round(float(side), 2),
            }
            for name, (counts, near, iou, side) in zip(self.classes, rows, strict=True)
        }

    def sheet(self) -> Sheet:
        """For people: by class and level the objects, and the share with an anchor near them."""
        levels = (*self.levels, "all")
        return Sheet(
            "Anchors",
            (
                Column("class", heading="anchors\nof"),
                *(column for level in levels for column in _level_columns(level)),
                Column("mean IoU", "number", heading="mean\nIoU"),
                Column("side", "number"),
            ),
            tuple(self._row(number) for number in range(len(self.classes))),
            caption="objects by the level of their best anchor, and the share of them that it fits",
        )

    def _row(self, number: int) -> Row:
        """Name, count and share of each level and of all, mean IoU and median side of a class."""
        counts, near = self.counts[number].tolist(), self.near[number].tolist()
        pairs = zip((*near, sum(near)), (*counts, sum(counts)), strict=True)
        cells: list[Cell] = [self.classes[number]]
        for hit, all_ in pairs:
            cells += [all_, hit / all_] if all_ else [None, None]
        ends = (float(self.ious[number]), float(self.sides[number]))
        return (*cells, *(None if math.isnan(end) else end for end in ends))

    def findings(self, config: Config) -> list[Finding]:
        """The classes that many anchors miss."""
        rows = zip(self.classes, self.recall().tolist(), self.sides.tolist(), strict=True)
        assert isinstance(config.model, TwoStage)  # the anchors of others are not measured
        sizes = config.model.anchors.known_sizes()
        smallest, largest = min(sizes), max(sizes)
        return [
            Finding(
                "anchor-recall",
                f"class {name}",
                f"an anchor has IoU {IOU:g} with {100 * share:.0f} % of its objects; their median "
                f"side after resizing is {side:.0f} pixels, the anchors' {smallest:g} to "
                f"{largest:g} (model.anchors.sizes, input.min_size)",
            )
            for name, share, side in rows
            if share < ENOUGH
        ]


def _level_columns(level: str) -> tuple[Column, Column]:
    return Column(level, "count"), Column(f"{level} near", "share", below=True)


def measure_anchors(table: DetectionTable, config: Config) -> AnchorRecall:
    """The best anchor of each object, at the size that `config` resizes images to."""
    objects = find_objects(table)
    known = np.asarray((objects.sizes > 0).all(axis=1))
    objects = objects.keep_boxes(known[objects.image_of_box])
    boxes, sizes = resized_boxes(objects, config.input)
    strides, cells = zip(*anchors_of(config), strict=True)
    ious = best_ious(boxes, sizes, strides, torch.stack(cells))  # (M, L)
    level, best = ious.argmax(axis=1), ious.max(axis=1)
    shape = (len(table.classes), ious.shape[1])
    place: NDArray[np.int64] = objects.labels * shape[1] + level
    near: NDArray[np.bool_] = best >= IOU
    side = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    order = np.argsort(objects.labels, kind="stable")
    ends = np.searchsorted(objects.labels[order], np.arange(1, shape[0]))
    return AnchorRecall(
        levels=tuple(f"P{level}" for level in range(2, 7)) if shape[1] > 1 else ("C4",),
        classes=table.classes,
        counts=np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape),
        near=np.bincount(place[near], minlength=shape[0] * shape[1]).reshape(shape),
        ious=np.array(
            [np.mean(part) if len(part) else np.nan for part in np.split(best[order], ends)]
        ),
        sides=np.array(
            [np.median(part) if len(part) else np.nan for part in np.split(side[order], ends)]
        ),
    )

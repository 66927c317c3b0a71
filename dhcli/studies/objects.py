"""The objects of a dataset that a study looks at, image by image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dhcli.data.formats import describe
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable
from dhcli.data.tools.statistics import MEDIUM, SMALL
from dhcli.errors import DataError
from dhcli.inference.score import Say, choose_split, read_truth, sound_truth
from dhcli.metrics.pair import check_common, quote_names
from dhcli.ops.arrays import box_areas
from dhcli.ops.batch import ImageBatch
from dhcli.runtime.eager import EagerRunner
from dhcli.studies.subjects import Subject
from dhcli.words import counted

SIZES = ("small", "medium", "large")
"""COCO's groups: below 32² pixels of the original image, below 96², and the rest."""


@dataclass(frozen=True, eq=False)
class Objects:
    """M objects of classes that every model knows; no crowd, difficult or ignored box.

    table    the I images that are looked at, with all their boxes
    split    name of the split, `all` for every image
    classes  those of the data that every model knows, in the data's order
    images   (M,) int64, number of each object's image in `table`; ascending
    boxes    (M, 4) float64 xyxy in original pixels, cut at the image's border
    labels   (M,) int64 into `classes`
    sizes    (M,) int64 into `SIZES`, by the annotated area, else the box's
    """

    table: DetectionTable
    split: str
    classes: tuple[str, ...]
    images: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)

    def labels_of(self, classes: Sequence[str]) -> NDArray[np.int64]:
        """(M,) int64: the objects' labels in a model of these `classes`."""
        place = np.array([classes.index(name) for name in self.classes], np.int64)
        return place[self.labels]

    def facts(self, subjects: Sequence[Subject]) -> dict[str, Any]:
        """What a study of these objects by `subjects` was made from, in plain values."""
        return {
            "models": {subject.model: str(subject.path) for subject in subjects},
            "subjects": [subject.label for subject in subjects],
            "device": subjects[0].runner.place,
            "data": str(self.table.root),
            "split": self.split,
            "images": len(self.table),
            "objects": len(self),
            "classes": list(self.classes),
        }


class View(NamedTuple):
    """An image as one model sees it.

    image    its number in the table
    batch    the image alone, on the model's device
    rows     (n,) int64, its objects' rows in `Objects`
    boxes    (n, 4) float64 xyxy of those in network pixels
    labels   (n,) int64 of those, in the model's classes
    """

    image: int
    batch: ImageBatch
    rows: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]

    def to_network(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        """Boxes (N, 4) in original pixels as network pixels."""
        return boxes * _scale(self.batch)

    def to_original(self, boxes: Tensor) -> NDArray[np.float64]:
        """Boxes (N, 4) in network pixels as original pixels, on the CPU."""
        return boxes.double().cpu().numpy() / _scale(self.batch)


def read_objects(
    data: Path | DetectionTable,
    split: str | None,
    subjects: Sequence[Subject],
    *,
    images: int | None = None,
    seed: int = 0,
    say: Say,
) -> Objects:
    """The objects that count in a split of the dataset: val, else test, else all where None.

    `images` is the most images to look at, a choice by `seed`. Says what is read and left out.
    Raises DataError where the data cannot be read, share no class with a model, or hold no object.
    """
    table = read_truth(data)
    say(describe(table))
    name, numbers = choose_split(table, split)
    if images is not None and images < len(numbers):
        chosen = np.random.default_rng(seed).choice(len(numbers), images, replace=False)
        numbers = numbers[np.sort(chosen)]
    found = sound_truth(table.take_images(numbers), say)
    classes = _common_classes(found, subjects, say)
    objects = _objects(found, name, classes)
    if not len(objects):
        what = f"the split `{name}` has no object of {quote_names(classes)}"
        hint = "crowd, difficult and ignored boxes are no objects; `dh inspect` counts them"
        raise DataError(what, where=found.root, hint=hint)
    say(f"looking at {counted(len(found), 'image')}, {counted(len(objects), 'object')}")
    for number, size in enumerate(SIZES):
        if not np.any(objects.sizes == number):
            say(f"no {size} objects in these images: left out")
    return objects


def views(objects: Objects, runner: EagerRunner, *, empty: bool = False) -> Iterator[View]:
    """The images that hold objects, with `empty` the others too, as `runner` sees them.

    One at a time, pre-processed as by `dh eval`. Raises DataError naming an image that cannot be
    read.
    """
    counts = np.bincount(objects.images, minlength=len(objects.table))
    numbers = np.flatnonzero((counts > 0) | empty)
    starts = np.concatenate([[0], np.cumsum(counts)])
    labels = objects.labels_of(runner.classes)
    input = runner.config.input.model_copy(update={"divisor": runner.divisor})
    loader = EvalLoader(objects.table.take_images(numbers), input, batch_size=1, workers=0)
    for batch in loader:
        image = int(numbers[batch.indices[0]])
        rows = np.arange(starts[image], starts[image + 1])
        boxes = objects.boxes[rows] * _scale(batch.images)
        yield View(image, batch.images.to(runner.device), rows, boxes, labels[rows])


def _common_classes(
    table: DetectionTable, subjects: Sequence[Subject], say: Say
) -> tuple[str, ...]:
    """The classes that the data and every model have. Raises DataError where there are none."""
    models = {subject.model: subject.runner.classes for subject in subjects}
    known = set(table.classes)
    for classes in models.values():
        check_common(classes, table)
        known &= set(classes)
    common = tuple(name for name in table.classes if name in known)
    if not common:
        raise DataError("no class in common to all models and the data", where=table.root)
    if len(common) < len(table.classes):
        others = [name for name in table.classes if name not in known]
        say(f"left out, because not every model knows these classes: {quote_names(others)}")
    return common


def _objects(table: DetectionTable, split: str, classes: tuple[str, ...]) -> Objects:
    limits = np.tile(np.where(table.sizes > 0, table.sizes, np.inf), 2)[table.image_of_box]
    cut = replace(table, boxes=np.clip(table.boxes, 0, limits))
    narrow = cut.keep_boxes(table.taught("ignore") & (box_areas(cut.boxes) > 0))
    narrow = narrow.with_classes(classes, others="drop")
    areas = np.where(np.isnan(narrow.areas), box_areas(narrow.boxes), narrow.areas)
    return Objects(
        table,
        split,
        classes,
        narrow.image_of_box,
        narrow.boxes,
        narrow.labels.astype(np.int64),
        np.digitize(areas, (SMALL, MEDIUM)).astype(np.int64),
    )


def _scale(batch: ImageBatch) -> NDArray[np.float64]:
    """(4,) float64: network pixels in an original pixel, x, y, x, y, of a batch of one image."""
    scale: Tensor = (batch.sizes[0].double() / batch.originals[0].double()).flip(0).repeat(2)
    return np.asarray(scale.cpu().numpy(), np.float64)

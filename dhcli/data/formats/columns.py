"""The columns of a dataset while it is read: growing arrays, not objects."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.files import fill_sizes
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag, Strings, make_table

DONT_CARE = "DontCare"
"""Name of the class that stands for no class, in every format that must name one."""


class Columns:
    """Images with their boxes, gathered in the order of the images.

    Call `add_image` and then `add_box` for each of its boxes. Classes are numbered as they come
    up; `table` puts them in order.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.annotations: list[str] = []
        self.labels = array("i")
        self.flags = array("B")
        self.lines = array("i")
        self.boxes = array("d")
        self.scores = array("d")
        self._sizes = array("i")
        self._starts = array("q")
        self._classes: dict[str, int] = {}

    def add_image(self, file: str, width: int, height: int, annotation: str = "") -> None:
        """Begin the image `file`; 0 for a side that is not known."""
        self.files.append(file)
        self.annotations.append(annotation)
        self._sizes.extend((width, height))
        self._starts.append(len(self.labels))

    def add_box(self, label: int, xyxy: Sequence[float], flags: int, line: int) -> None:
        """Add a box of the latest image; `line` is where its annotation file tells of it."""
        self.labels.append(label)
        self.boxes.extend(xyxy)
        self.flags.append(flags)
        self.lines.append(line)

    def label_of(self, name: str) -> int:
        """The provisional number of a class; DontCare is ANY_CLASS."""
        if name == DONT_CARE:
            return ANY_CLASS
        return self._classes.setdefault(name, len(self._classes))

    def sizes(self, root: Path) -> NDArray[np.int32]:
        """(I, 2) the sizes given, completed from the images' headers."""
        return fill_sizes(root, self.files, _numpy(self._sizes, np.int32).reshape(-1, 2))

    def image_of_box(self) -> NDArray[np.int64]:
        """(M,) the image of each box."""
        return np.repeat(np.arange(len(self.files)), self._counts())

    def class_names(self) -> list[str]:
        """The classes in the order they came up."""
        return list(self._classes)

    def table(self, root: Path, classes: Sequence[str], **columns: Any) -> DetectionTable:
        """The finished table, its classes in the order of `classes`; `columns` as in make_table.

        Scores count only where every box has one.
        """
        boxes = _numpy(self.boxes, np.float64).reshape(-1, 4)
        labels = _numpy(self.labels, np.int32)
        if self._classes:
            order = {name: index for index, name in enumerate(classes)}
            lookup = np.array([*(order[name] for name in self._classes), ANY_CLASS], np.int32)
            labels = lookup[labels]
        scored = len(self.scores) == len(labels) > 0
        extras: Mapping[str, Any] = columns.pop("extras", {})
        sizes = columns.pop("sizes", None)
        given: dict[str, Any] = {
            "flags": _numpy(self.flags, np.uint8),
            "scores": _numpy(self.scores, np.float64) if scored else None,
            "extras": {"line": _numpy(self.lines, np.int32), **extras},
            "image_extras": {"annotation": Strings.pack(self.annotations)},
        }
        return make_table(
            root,
            self.files,
            self.sizes(root) if sizes is None else sizes,
            self._counts(),
            columns.pop("boxes", boxes),
            labels,
            classes,
            **(given | columns),
        )

    def _counts(self) -> NDArray[np.int64]:
        starts = np.append(_numpy(self._starts, np.int64), len(self.labels))
        return np.diff(starts)


def flags_of(*, difficult: bool, truncated: bool, occluded: bool) -> int:
    """The bits of three common marks."""
    return (
        difficult * Flag.DIFFICULT.value
        | truncated * Flag.TRUNCATED.value
        | occluded * Flag.OCCLUDED.value
    )


def tidy(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """`values` to ten decimals, which bring back what a file said: 1.1 - 1 is not 0.1."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.round(values, 10)


def _numpy(values: array[Any], kind: Any) -> NDArray[Any]:
    return np.frombuffer(values, kind).copy() if len(values) else np.zeros(0, kind)

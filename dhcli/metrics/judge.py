"""Which detections are right, by the rule of the Pascal VOC development kit (see `voc`).

Whether a detection is right depends on those with higher scores alone, so one verdict holds for
every score threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable, Flag
from dhcli.ops.arrays import coverage, iou, is_first


@dataclass(frozen=True)
class Matches:
    """Of each of N detections, whatever the threshold.

    object   (N,) int64, row in the truth of the object overlapped most; -1 without any
    overlap  (N,) IoU with it
    covered  (N,) largest share of the detection that lies in one region that forgives it
    """

    object: NDArray[np.int64]
    overlap: NDArray[np.float64]
    covered: NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """The D detections that count, best first, and how many objects there are to be found.

    scores  (D,) float64
    hits    (D,) bool, True for the one that finds an object
    """

    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    objects: int

    @classmethod
    def together(cls, every: Iterable[Judged]) -> Judged:
        """The detections of several classes as if of one."""
        parts = [cls(np.zeros(0), np.zeros(0, np.bool_), 0), *every]
        scores = np.concatenate([part.scores for part in parts])
        hits = np.concatenate([part.hits for part in parts])
        order = np.argsort(-scores, kind="stable")
        return cls(scores[order], hits[order], sum(part.objects for part in parts))


def judge(truth: DetectionTable, found: DetectionTable, threshold: float) -> dict[str, Judged]:
    """The detections of each class that count at this IoU, by the class's name.

    Both tables have the same images and classes (see `match_classes`).
    """
    matches = match(truth, found)
    return {
        name: judge_class(truth, found, matches, label, threshold)
        for label, name in enumerate(truth.classes)
    }


def match(truth: DetectionTable, found: DetectionTable) -> Matches:
    """What each detection overlaps most among the objects of its class."""
    with np.errstate(over="ignore", invalid="ignore"):  # a box may be as large as a file says
        return _match(truth, found)


def _match(truth: DetectionTable, found: DetectionTable) -> Matches:
    count = len(found.boxes)
    matches = Matches(np.full(count, -1, np.int64), np.zeros(count), np.zeros(count))
    of_no_class = truth.regions(crowds=False)
    is_object = ~truth.regions()
    for image in range(len(truth)):
        boxes, true = found.rows(image), truth.rows(image)
        if boxes.start == boxes.stop or true.start == true.stop:
            continue
        same = found.labels[boxes, None] == truth.labels[None, true]  # (D, M)
        ious = iou(found.boxes[boxes], truth.boxes[true])
        ious = np.where(same & is_object[true], ious, 0)
        matches.overlap[boxes] = ious.max(axis=1)
        nearest = ious.argmax(axis=1) + true.start
        matches.object[boxes] = np.where(matches.overlap[boxes] > 0, nearest, -1)
        shares = coverage(found.boxes[boxes], truth.boxes[true])
        forgives = ~is_object[true] & (same | of_no_class[true])
        matches.covered[boxes] = np.where(forgives, shares, 0).max(axis=1)
    return matches


def judge_class(
    truth: DetectionTable, found: DetectionTable, matches: Matches, label: int, threshold: float
) -> Judged:
    """The detections of one class that count at this IoU, best first, and its objects."""
    difficult = truth.has(Flag.DIFFICULT)
    countable = (truth.labels == label) & ~truth.regions() & ~difficult
    mine = np.flatnonzero(found.labels == label)
    scores = np.zeros(len(found.labels)) if found.scores is None else found.scores
    mine = mine[np.argsort(-scores[mine], kind="stable")]
    target = np.where(matches.overlap[mine] >= threshold, matches.object[mine], -1)
    on_difficult = np.zeros(len(mine), np.bool_)
    on_difficult[target >= 0] = difficult[target[target >= 0]]
    hit = is_first(target) & (target >= 0) & ~on_difficult
    forgiven = on_difficult | (~hit & (matches.covered[mine] >= threshold))
    return Judged(scores[mine][~forgiven], hit[~forgiven], int(countable.sum()))

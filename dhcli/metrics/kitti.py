"""KITTI average precision of 2D boxes: easy, moderate and hard, as the development kit counts.

A level asks for objects of a least height, and of at most some occlusion and truncation. Objects
beyond it, and those of a neighbouring class (Van for Car, Person_sitting for Pedestrian), are
neither to be found nor mistakes when found. Detections below the height are not judged. A detection
whose area lies in a DontCare region by more than the class's IoU is forgiven; crowds, ignored
regions and classes set aside count as such regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.metrics.pair import check_pair
from dhcli.metrics.result import ApResult, mean_of
from dhcli.ops.arrays import coverage, iou


@dataclass(frozen=True)
class _Level:
    """Which objects are to be found: taller than `height` pixels, at most so hidden."""

    height: int
    occlusion: int
    truncation: float


@dataclass(frozen=True)
class _Kind:
    """How a class is judged."""

    iou: float
    neighbour: str


_LEVELS = {
    "easy": _Level(40, 0, 0.15),
    "moderate": _Level(25, 1, 0.30),
    "hard": _Level(25, 2, 0.50),
}
_KINDS = {
    "Car": _Kind(0.7, "Van"),
    "Pedestrian": _Kind(0.5, "Person_sitting"),
    "Cyclist": _Kind(0.5, ""),
}
# Recalls 0, 1/40 … 1; R40 leaves out the first, R11 takes every fourth.
_STEPS = 40

KITTI_STATS = tuple(_LEVELS)


def kitti_ap(
    truth: DetectionTable, found: DetectionTable, *, points: Literal[40, 11] = 40
) -> ApResult:
    """KITTI's AP of Car, Pedestrian and Cyclist, as far as both tables know them by name.

    `truth` is best given with its neighbouring classes still in it (before `with_classes`).
    Occlusion and truncation are the columns `occlusion` and `truncation` of its extras; without
    them the flags stand for a degree that is moderate. `points` is 40 recalls, or the 11 of before
    2019. `objects` are those of the hard level. Raises DataError where no class is KITTI's.
    """
    check_pair(truth, found)
    names = [name for name in _KINDS if name in truth.classes and name in found.classes]
    if not names:
        raise DataError(
            f"KITTI's AP is of {', '.join(_KINDS)}; data and detections share none of them",
            where=truth.root,
            hint="leave `kitti` out of the metrics",
        )
    per_class: dict[str, dict[str, float]] = {}
    for name in names:
        columns: dict[str, float] = {}
        for level in _LEVELS:
            scenes = list(_scenes(truth, found, name, _LEVELS[level]))
            columns[level] = _average_precision(scenes, points)
        objects = sum(scene.objects for scene in scenes)
        mine = found.labels == found.classes.index(name)
        per_class[name] = columns | {"objects": objects, "detections": int(mine.sum())}
    means = {
        level: mean_of(np.array([columns[level] for columns in per_class.values()]))
        for level in _LEVELS
    }
    return ApResult(stats=means, per_class=per_class)


@dataclass(frozen=True)
class _Scene:
    """One image for one class and level: G boxes that detections may take, D detections.

    close    (G, D) IoU where above the class's threshold, else 0
    ignored  (G,) bool: not to be found
    scores   (D,)
    small    (D,) bool: not judged
    stuff    (D,) bool: in a DontCare region
    """

    close: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    scores: NDArray[np.float64]
    small: NDArray[np.bool_]
    stuff: NDArray[np.bool_]

    @property
    def objects(self) -> int:
        return int(np.sum(~self.ignored))


def _scenes(
    truth: DetectionTable, found: DetectionTable, name: str, level: _Level
) -> Iterator[_Scene]:
    kind = _KINDS[name]
    region = truth.regions()
    mine = (truth.labels == truth.classes.index(name)) & ~region
    takes_part = mine | (_has_class(truth, kind.neighbour) & ~region)
    ignored = ~mine | _beyond(truth, level)
    # The kit measures a detection in whole pixels, and sets small ones of any class aside.
    small = np.floor(np.abs(found.boxes[:, 3] - found.boxes[:, 1])) < level.height
    candidate = small | (found.labels == found.classes.index(name))
    scores = np.zeros(0) if found.scores is None else found.scores
    for image in range(len(truth)):
        rows, boxes = truth.rows(image), found.rows(image)
        objects = np.flatnonzero(takes_part[rows]) + rows.start
        regions = np.flatnonzero(region[rows]) + rows.start
        seen = np.flatnonzero(candidate[boxes]) + boxes.start
        if not len(objects) and not len(seen):
            continue
        overlap = iou(truth.boxes[objects], found.boxes[seen])
        covered = coverage(found.boxes[seen], truth.boxes[regions]).max(axis=1, initial=0)
        yield _Scene(
            close=np.where(overlap > kind.iou, overlap, 0),
            ignored=ignored[objects],
            scores=scores[seen],
            small=small[seen],
            stuff=covered > kind.iou,
        )


def _has_class(truth: DetectionTable, name: str) -> NDArray[np.bool_]:
    label = truth.classes.index(name) if name in truth.classes else len(truth.classes)
    mask: NDArray[np.bool_] = truth.labels == label
    return mask


def _beyond(truth: DetectionTable, level: _Level) -> NDArray[np.bool_]:
    """(M,) bool: too small, too occluded or too truncated for the level."""
    flagged = {"occlusion": (Flag.OCCLUDED, 1.0), "truncation": (Flag.TRUNCATED, 0.3)}
    degree = {
        name: np.asarray(truth.extras[name]) if name in truth.extras else truth.has(flag) * value
        for name, (flag, value) in flagged.items()
    }
    heights = truth.boxes[:, 3] - truth.boxes[:, 1]
    beyond: NDArray[np.bool_] = (
        (heights <= level.height)
        | (degree["occlusion"] > level.occlusion)
        | (degree["truncation"] > level.truncation)
    )
    return beyond


def _average_precision(scenes: list[_Scene], points: int) -> float:
    objects = sum(scene.objects for scene in scenes)
    if not objects:
        return float("nan")
    hits = np.concatenate([_scores_of_hits(scene) for scene in scenes])
    thresholds = _thresholds(-np.sort(-hits), objects)
    precision = np.zeros(_STEPS + 1)
    if len(thresholds):
        right, wrong = np.sum([_count(scene, thresholds) for scene in scenes], axis=0)
        precision[: len(thresholds)] = right / np.maximum(right + wrong, 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.mean(precision[1:] if points == 40 else precision[::4]))


def _scores_of_hits(scene: _Scene) -> NDArray[np.float64]:
    """Scores of the hits where every box takes the best-scored detection close to it."""
    free = np.ones(len(scene.scores), np.bool_)
    hits = []
    for close, ignored in zip(scene.close, scene.ignored, strict=True):
        near = np.flatnonzero(free & (close > 0))
        if len(near):
            taken = near[scene.scores[near].argmax()]
            free[taken] = False
            if not ignored and not scene.small[taken]:
                hits.append(scene.scores[taken])
    return np.array(hits, np.float64)


def _thresholds(scores: NDArray[np.float64], objects: int) -> NDArray[np.float64]:
    """The scores whose recalls are next to 0, 1/40 … 1; `scores` are the hits', best first.

    The kit takes each score for one recall at most, so that a perfect detector of n < 41 objects
    would have an AP of n / 41. With so few, each recall takes the first score that reaches it.
    """
    if objects <= _STEPS:
        needed = -(-np.arange(_STEPS + 1) * objects // _STEPS)  # hits for each recall, rounded up
        needed[0] = 1
        few: NDArray[np.float64] = scores[needed[needed <= len(scores)] - 1]
        return few
    chosen: list[float] = []
    recall = 0.0
    for index, score in enumerate(scores.tolist(), 1):
        is_last = index == len(scores)
        if is_last or (index + 1) / objects - recall >= recall - index / objects:
            chosen.append(score)
            recall += 1 / _STEPS
    return np.array(chosen[: _STEPS + 1])


def _count(scene: _Scene, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Hits and false positives (2, T) at each threshold (T,).

    A box takes the detection it overlaps most among those that are judged, else the first of the
    small ones; a detection that is not judged, or on an ignored box, is neither.
    """
    judged = scene.scores >= thresholds[:, None]  # (T, D)
    free = judged.copy()
    right = np.zeros(len(thresholds), np.int64)
    for close, ignored in zip(scene.close, scene.ignored, strict=True):
        preference = np.where(scene.small, 0.5, 1 + close) * (free & (close > 0))
        if not preference.any():
            continue
        taken = preference.argmax(axis=1)
        at = np.flatnonzero(preference.max(axis=1) > 0)
        free[at, taken[at]] = False
        if not ignored:
            right[at] += ~scene.small[taken[at]]
    wrong = (free & ~scene.small & ~scene.stuff).sum(axis=1)
    return np.stack([right, wrong])

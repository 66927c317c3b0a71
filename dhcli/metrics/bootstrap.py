"""How sure an average precision is, and a difference of two: a bootstrap over images.

The images are drawn with replacement, and each time the average is taken anew; the interval holds
the middle 95 % of the draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter
13). Detectors on the same images are compared on the same draws: what makes an image hard for both
then does not count. Who matched whom comes from pycocotools. It does not depend on the other
images, so that a draw only counts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable
from dhcli.metrics.coco import judge_by_pycocotools

Floats = NDArray[np.float64]
NUMBERS = {"AP": slice(0, 10), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Rows of the IoU thresholds .5, .55 … .95 that each is the mean of."""
RECALLS = np.linspace(0, 1, 101)
MIDDLE = (2.5, 97.5)
"""Percentiles at the ends of an interval."""


class Interval(NamedTuple):
    """The middle 95 % of the draws; NaN where a number is undefined."""

    low: float
    high: float


@dataclass(frozen=True)
class Matches:
    """Detections of one class, best first, and how many objects each image has.

    image    (D,) int64
    right    (10, D) bool by IoU threshold
    counted  (10, D) bool, False for what lies on a region to ignore
    objects  (I,) float64
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: Floats

    def average_precision(self, times: Floats) -> Floats:
        """AP (10,) by threshold where image i comes times[i] times; NaN without objects."""
        objects = times @ self.objects
        if not objects:
            return np.full(10, np.nan)
        weight = times[self.image] * self.counted
        right = np.cumsum(weight * self.right, axis=1)
        precision = right / np.maximum(np.cumsum(weight, axis=1), 1e-12)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros((10, len(RECALLS)))
        for k, recall in enumerate(right / objects):
            place = np.searchsorted(recall, RECALLS)
            inside = place < len(recall)
            found[k, inside] = precision[k, place[inside]]
        mean: Floats = found.mean(1)
        return mean


def matches_of(truth: DetectionTable, found: DetectionTable) -> list[Matches]:
    """Those of every class. Both tables have the same images and classes (see `match_classes`)."""
    judge = judge_by_pycocotools(truth, found)
    images, every = len(truth), len(judge.params.areaRng) * len(truth)
    return [
        _of_class(judge.evalImgs[k * every : k * every + images], images)
        for k in range(len(truth.classes))
    ]


def averages(classes: Sequence[Matches], times: Floats) -> Floats:
    """AP, AP50 and AP75 (3,) where image i comes times[i] times; NaN without any object."""
    by_class = np.array([one.average_precision(times) for one in classes])
    known = by_class[~np.isnan(by_class[:, 0])]
    if not len(known):
        return np.full(len(NUMBERS), np.nan)
    return np.array([known[:, rows].mean() for rows in NUMBERS.values()])


def draw_times(images: int, rng: np.random.Generator) -> Floats:
    """How often each of the images comes, (I,) float64, in one draw of I with replacement."""
    return np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float64)


def resample(
    detectors: Sequence[Sequence[Matches]], images: int, draws: int, seed: int = 0
) -> Floats:
    """AP, AP50 and AP75 of each detector in each draw, all on the same draws.

    in   detectors  of each, the matches of every class on the same images
    out  (draws, detectors, 3)
    """
    rng = np.random.default_rng(seed)
    drawn = [draw_times(images, rng) for _ in range(draws)]
    every = [[averages(classes, times) for classes in detectors] for times in drawn]
    return np.array(every).reshape(draws, len(detectors), len(NUMBERS))


def interval(draws: Floats) -> Interval:
    """The middle 95 % of `draws` (n,), of those that are defined."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(known, MIDDLE).tolist()
    return Interval(low, high)


def _of_class(judged: Sequence[dict[str, Any] | None], images: int) -> Matches:
    """From what COCOeval says of each image, at all sizes."""
    objects = np.zeros(images)
    parts: list[tuple[Floats, NDArray[np.int64], Any, Any]] = []
    for image, of_image in enumerate(judged):
        if of_image is None:
            continue
        objects[image] = np.sum(np.asarray(of_image["gtIgnore"]) == 0)
        scores = np.asarray(of_image["dtScores"], np.float64)
        where = np.full(len(scores), image)
        parts.append((scores, where, of_image["dtMatches"] > 0, of_image["dtIgnore"] == 0))
    if not parts:
        none = np.zeros((10, 0), bool)
        return Matches(np.zeros(0, np.int64), none, none, objects)
    scores, where, right, counted = (
        np.concatenate([np.asarray(part[n]) for part in parts], axis=-1) for n in range(4)
    )
    order = np.argsort(-scores, kind="mergesort")  # as COCOeval
    return Matches(where[order], right[:, order], counted[:, order], objects)

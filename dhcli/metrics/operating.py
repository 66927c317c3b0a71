"""The score threshold that a detector is used with, and what it is worth there.

Detections are judged at IoU 0.5 (see `judge`). A threshold t keeps those with `score >= t`: N
detections, TP of them hits, of M objects.

    precision = TP / N      recall = TP / M      F1 = 2 TP / (N + M)

F1 is the harmonic mean of the other two (van Rijsbergen, Information Retrieval, 1979). No threshold
parts detections of equal score.

A threshold stands about halfway between the last score that it keeps and the next lower one. At the
last score itself, the same detection computed elsewhere (another batch, another runtime) would go
where its last digit is lower. Between the two it is a number of few digits, in float32 and float64
alike, so that the number that is shown is the one that is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dhcli.errors import ModelError
from dhcli.metrics.judge import Judged

IOU = 0.5
KEY = "operating_points"
"""Where a model file's metadata have those of its last validation."""
ENOUGH = 10
"""Objects of a class in the validation below which the threshold over all classes holds for it.

With fewer, F1 is about a handful of detections, and its best threshold mostly chance.
"""


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold and what detections from it up are worth: fractions in [0, 1].

    objects  how many there were to be found
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    objects: int


@dataclass(frozen=True)
class OperatingPoints:
    """The point over all classes together, and that of each class; those that exist."""

    all: OperatingPoint | None
    classes: Mapping[str, OperatingPoint]

    def thresholds(self, names: Sequence[str]) -> dict[str, float]:
        """The threshold to use for each class of `names`; {} where there is none over all.

        A class with fewer than `ENOUGH` objects, or without a point, has that of all classes.
        """
        if self.all is None:
            return {}
        own = {k: p.threshold for k, p in self.classes.items() if p.objects >= ENOUGH}
        return {name: own.get(name, self.all.threshold) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        return {
            "iou": IOU,
            "all": self.all and asdict(self.all),
            "classes": {name: asdict(point) for name, point in self.classes.items()},
        }


Pick = Callable[[Judged], OperatingPoint | None]
"""Chooses a threshold for detections; None where none does it."""


def find_points(judged: Mapping[str, Judged], pick: Pick) -> OperatingPoints:
    """What `pick` chooses for all classes together and for each one."""
    points = {name: pick(of_class) for name, of_class in judged.items()}
    known = {name: point for name, point in points.items() if point is not None}
    return OperatingPoints(pick(Judged.together(judged.values())), known)


def best_f1(judged: Judged) -> OperatingPoint | None:
    """The point of best F1, of several the one with the fewest detections; None without a hit."""
    ends, hits = _cuts(judged)
    if not len(ends) or not hits[-1]:
        return None
    return _point(judged, ends, int(np.argmax(2 * hits / (ends + 1 + judged.objects))))


def reach_precision(judged: Judged, target: float) -> OperatingPoint | None:
    """The point of highest recall whose precision is at least `target`; None where none is.

    Of several, the one with the fewest detections, whose precision is the highest.
    """
    ends, hits = _cuts(judged)
    able = np.flatnonzero((hits > 0) & (hits / (ends + 1) >= target))
    return _point(judged, ends, int(able[np.argmax(hits[able])])) if len(able) else None


def measure_at(judged: Mapping[str, Judged], points: OperatingPoints) -> OperatingPoint | None:
    """What all detections are worth at the thresholds of `points`, each class at its own.

    The threshold stated is the one over all classes. None where `points` have none.
    """
    thresholds = points.thresholds(tuple(judged))
    if points.all is None:
        return None
    kept = {name: judged[name].scores >= least for name, least in thresholds.items()}
    hits = sum(int(judged[name].hits[rows].sum()) for name, rows in kept.items())
    count = sum(int(rows.sum()) for rows in kept.values())
    objects = sum(of_class.objects for of_class in judged.values())
    return _worth(points.all.threshold, hits, count, objects)


def read_points(metadata: Mapping[str, Any], where: object = None) -> OperatingPoints | None:
    """The points that the metadata of the model file `where` hold; None where it has none.

    Raises ModelError where they are damaged.
    """
    stored = metadata.get(KEY)
    if stored is None:
        return None
    try:
        classes = {name: _read_point(row) for name, row in stored["classes"].items()}
        return OperatingPoints(_read_point(stored["all"]), classes)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"the `{KEY}` of its description are damaged", where=where) from error


def _read_point(row: Mapping[str, Any]) -> OperatingPoint:
    numbers = {name: float(row[name]) for name in ("threshold", "precision", "recall", "f1")}
    return OperatingPoint(**numbers, objects=int(row["objects"]))


def _cuts(judged: Judged) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Where a threshold can cut: rows (C,) of the last detection kept, and hits (C,) up to it."""
    ends = np.flatnonzero(np.diff(judged.scores, append=-np.inf))
    return ends, np.cumsum(judged.hits)[ends]


def _point(judged: Judged, ends: np.ndarray[Any, Any], cut: int) -> OperatingPoint:
    last = int(ends[cut])
    score = float(judged.scores[last])
    lower = float(judged.scores[last + 1]) if last + 1 < len(judged.scores) else score
    hits = int(judged.hits[: last + 1].sum())
    return _worth(_between(lower, score), hits, last + 1, judged.objects)


def _worth(threshold: float, hits: int, count: int, objects: int) -> OperatingPoint:
    precision, recall = (hits / n if n else float("nan") for n in (count, objects))
    f1 = 2 * hits / (count + objects) if count + objects else float("nan")
    return OperatingPoint(threshold, precision, recall, f1, objects)


def _between(lower: float, score: float) -> float:
    """The number of fewest digits near the middle of (lower, score]; `score` if there is none."""
    for digits in range(2, 8):
        rounded = round((lower + score) / 2, digits)
        if all(lower < number <= score for number in (rounded, float(np.float32(rounded)))):
            return rounded
    return score

"""Objects that one way to detect finds and another misses, and second boxes on an object.

Both sides are judged on the same objects, each from a score threshold of its own. A detection is
about the object of its class that it overlaps most, as in `metrics.judge`:

    found      the best-scored detection about an object with IoU >= `iou` finds it
    only       found by one side, missed by the other
    duplicate  any other detection about a found object with IoU >= `again`; it counts where the
               other side finds the object too and has no duplicate on it

A crowd, a difficult object and a region to ignore are no objects, and forgive what lies on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable, Flag
from dhcli.metrics.judge import Judged, judge, match
from dhcli.metrics.operating import best_f1
from dhcli.ops.arrays import is_first

Ints = NDArray[np.int64]
ONLY, DUPLICATE = "only", "duplicate"
"""The kinds of a case, in the order they are listed."""


@dataclass(frozen=True)
class Rule:
    """From which IoU a detection finds an object, and from which a further one is a duplicate."""

    iou: float = 0.5
    again: float = 0.3


@dataclass(frozen=True)
class Side:
    """One way to detect, on all images.

    name       such as `fc`
    found      its detections of the classes that count, those of the ground truth
    threshold  score from which they count
    """

    name: str
    found: DetectionTable
    threshold: float


@dataclass(frozen=True)
class Verdict:
    """What a side makes of M objects with its D detections; rows are of its table, -1 is none.

    finder      (M,) row of the detection that finds the object
    nearest     (M,) row of the best-scored one with the IoU to find it, whatever its score
    overlap     (D,) IoU of each detection with the object that it is about
    duplicates  (n,) rows of the duplicates, best-scored first
    objects     (n,) the object that each of them is about
    """

    finder: Ints
    nearest: Ints
    overlap: NDArray[np.float64]
    duplicates: Ints
    objects: Ints


@dataclass(frozen=True)
class Case:
    """One object that the sides differ in.

    kind    `only` or `duplicate`
    side    number of the side that alone finds it, or alone has a duplicate on it
    image   number of the image
    object  row of the object in the ground truth
    row     row of the side's detection: the finder, or the duplicate
    other   row of the other side's: the best that overlaps enough but scores too low, or the
            finder; -1 without
    score   of `row`; the cases of a kind and side are ranked by it
    iou     of `row` with the object
    """

    kind: str
    side: int
    image: int
    object: int
    row: int
    other: int
    score: float
    iou: float


def countable(truth: DetectionTable) -> NDArray[np.bool_]:
    """(M,) bool: what is to be found, and neither a crowd nor difficult nor to be ignored."""
    objects: NDArray[np.bool_] = ~truth.regions() & ~truth.has(Flag.DIFFICULT)
    return objects


def best_threshold(truth: DetectionTable, found: DetectionTable, iou: float) -> float | None:
    """The score of best F1 over all classes at this IoU; None where nothing is found."""
    point = best_f1(Judged.together(judge(truth, found, iou).values()))
    return None if point is None else point.threshold


def judge_side(truth: DetectionTable, side: Side, rule: Rule) -> Verdict:
    """Which objects of `truth` a side finds, and which of its detections are duplicates.

    Both tables have the same images and classes (see `match_classes`).
    """
    found, matches = side.found, match(truth, side.found)
    assert found.scores is not None  # they are detections
    kept = found.scores >= side.threshold
    order = np.argsort(-found.scores, kind="stable")
    about = np.where(matches.overlap >= rule.iou, matches.object, -1)
    finder = _first_of(order, np.where(kept, about, -1), len(truth.boxes))
    nearest = _first_of(order, about, len(truth.boxes))
    target = np.where(kept & (matches.overlap >= rule.again), matches.object, -1)
    is_free = (matches.covered < rule.iou) & (target >= 0)
    is_free[is_free] = countable(truth)[target[is_free]]
    is_free[is_free] = finder[target[is_free]] >= 0
    is_free[finder[finder >= 0]] = False
    duplicates = order[is_free[order]]
    return Verdict(finder, nearest, matches.overlap, duplicates, target[duplicates])


def find_cases(
    truth: DetectionTable, sides: Sequence[Side], verdicts: Sequence[Verdict]
) -> list[Case]:
    """What two sides differ in, by kind and side, the highest score first."""
    objects = np.flatnonzero(countable(truth))
    image_of = truth.image_of_box
    cases: list[Case] = []
    for number, (side, mine) in enumerate(zip(sides, verdicts, strict=True)):
        theirs = verdicts[1 - number]
        alone = objects[(mine.finder[objects] >= 0) & (theirs.finder[objects] < 0)]
        pairs = [(ONLY, o, mine.finder[o], theirs.nearest[o]) for o in alone.tolist()]
        doubled = set(theirs.objects.tolist())
        pairs += [
            (DUPLICATE, o, row, theirs.finder[o])
            for row, o in zip(mine.duplicates.tolist(), mine.objects.tolist(), strict=True)
            if theirs.finder[o] >= 0 and o not in doubled
        ]
        scores = side.found.scores
        assert scores is not None  # they are detections
        for kind, o, row, other in pairs:
            about = (int(image_of[o]), int(o), int(row), int(other))
            cases.append(Case(kind, number, *about, float(scores[row]), float(mine.overlap[row])))
    kinds = (ONLY, DUPLICATE)
    return sorted(cases, key=lambda case: (kinds.index(case.kind), case.side, -case.score))


def _first_of(order: Ints, target: Ints, count: int) -> Ints:
    """(count,) the first row, in this order, about each target; -1 where none is."""
    rows = order[target[order] >= 0]
    rows = rows[is_first(target[rows])]
    first = np.full(count, -1, np.int64)
    first[target[rows]] = rows
    return first

"""Objects that one side finds and the other misses, beside a plain loop over every pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dhcli.data.table import DetectionTable, Flag, make_table
from dhcli.studies.errors import (
    Rule,
    Side,
    best_threshold,
    find_cases,
    judge_side,
)

CLASSES = ("a", "b")
RULE = Rule(iou=0.5, again=0.3)


def table(images: list[list[tuple]], last: str) -> DetectionTable:
    """Images of rows (label, x1, y1, x2, y2, score or flag)."""
    rows = [row for image in images for row in image]
    kind = np.float64 if last == "scores" else np.uint8
    return make_table(
        Path("drawn"),
        [f"{i}.jpg" for i in range(len(images))],
        [(200, 200)] * len(images),
        [len(image) for image in images],
        [row[1:5] for row in rows],
        [row[0] for row in rows],
        CLASSES,
        **{last: np.array([row[5] for row in rows], kind)},
    )


def truth_of(*images):
    return table(list(images), "flags")


def side_of(name, threshold, *images):
    return Side(name, table(list(images), "scores"), threshold)


def cases_of(truth, *sides):
    return find_cases(truth, sides, [judge_side(truth, side, RULE) for side in sides])


OBJECT = (0, 10, 10, 50, 50, 0)
FAR = (0, 100, 100, 140, 140, 0)


def test_an_object_that_one_side_scores_too_low_is_found_by_the_other_only() -> None:
    truth = truth_of([OBJECT, FAR])
    fc = side_of("fc", 0.5, [(0, 10, 10, 50, 50, 0.9), (0, 100, 100, 140, 140, 0.8)])
    conv = side_of("conv", 0.4, [(0, 10, 10, 50, 54, 0.3), (0, 100, 100, 140, 140, 0.4)])

    [case] = cases_of(truth, conv, fc)

    assert (case.kind, case.side, case.object, case.row, case.other) == ("only", 1, 0, 0, 0)
    assert (case.score, case.iou) == (0.9, 1.0)


def test_a_second_box_is_a_duplicate_where_the_other_side_has_one_box() -> None:
    truth = truth_of([OBJECT, FAR])
    half = (0, 10, 10, 50, 26, 0.7)  # IoU 0.4: no box of its own, and NMS leaves it
    fc = side_of("fc", 0.5, [(0, 10, 10, 50, 50, 0.9), half, (0, 100, 100, 140, 140, 0.8)])
    conv = side_of("conv", 0.5, [(0, 10, 10, 50, 50, 0.9), (0, 100, 100, 140, 140, 0.8)])

    [case] = cases_of(truth, conv, fc)

    assert (case.kind, case.side, case.object, case.row, case.other) == ("duplicate", 1, 0, 1, 0)
    assert case.iou == pytest.approx(0.4)
    assert cases_of(truth, fc, fc) == []


@pytest.mark.parametrize(
    "box",
    [
        (0, 10, 10, 50, 26, 0.4),  # below the threshold
        (0, 10, 10, 50, 20, 0.7),  # IoU 0.25
        (1, 10, 10, 50, 26, 0.7),  # of another class
    ],
)
def test_what_is_no_duplicate(box: tuple) -> None:
    truth = truth_of([OBJECT])
    one = (0, 10, 10, 50, 50, 0.9)
    assert cases_of(truth, side_of("conv", 0.5, [one]), side_of("fc", 0.5, [one, box])) == []


@pytest.mark.parametrize("flag", [Flag.CROWD, Flag.DIFFICULT, Flag.IGNORE])
def test_what_is_no_object_is_neither_missed_nor_doubled(flag: Flag) -> None:
    truth = truth_of([(*OBJECT[:5], flag)])
    fc = side_of("fc", 0.5, [(0, 10, 10, 50, 50, 0.9), (0, 10, 10, 50, 30, 0.8)])
    assert cases_of(truth, side_of("conv", 0.5, []), fc) == []


def test_a_second_box_on_a_crowd_is_forgiven() -> None:
    crowd = (0, 0, 0, 60, 40, Flag.CROWD)
    one, half = (0, 10, 10, 50, 50, 0.9), (0, 10, 10, 50, 26, 0.7)
    conv, fc = side_of("conv", 0.5, [one]), side_of("fc", 0.5, [one, half])
    assert len(cases_of(truth_of([OBJECT]), conv, fc)) == 1
    assert cases_of(truth_of([OBJECT, crowd]), conv, fc) == []


def draw(rng, images=25):
    """Objects apart from each other, and detections around them."""
    truth, found = [], []
    for _ in range(images):
        low = rng.permutation(9)[: rng.integers(0, 6)]
        corners = np.stack([low % 3, low // 3], 1) * 60.0
        rows = [
            (
                int(rng.integers(0, 2)),
                *c,
                *(c + rng.uniform(20, 40, 2)),
                int(rng.choice(4) == 0) * 2,
            )
            for c in corners
        ]
        truth.append(rows)
        found.append(
            [
                (row[0], *(np.array(row[1:5]) + rng.normal(0, 6, 4)), rng.uniform())
                for row in rows
                for _ in range(rng.integers(0, 4))
            ]
        )
    return truth, found


def by_loops(truth, sides):
    """The same by plain loops over objects, for objects so far apart that none is between two."""
    made = []
    for mine, theirs, number in ((sides[0], sides[1], 0), (sides[1], sides[0], 1)):
        for image, rows in enumerate(truth):
            for place, obj in enumerate(rows):
                (found, doubles), (other, others) = (
                    on_object(obj, images[image], threshold) for images, threshold in (mine, theirs)
                )
                if obj[5]:
                    continue
                if found and not other:
                    made.append(("only", number, image, place, found[0]))
                if found and other and not others:
                    made += [("duplicate", number, image, place, score) for score in doubles]
    return sorted(made)


def on_object(obj, rows, threshold):
    """Scores of the boxes that find it, of which the first counts; of all its others."""
    kept = sorted(((r[5], overlap(obj, r)) for r in rows if r[0] == obj[0]), reverse=True)
    kept = [(score, o) for score, o in kept if score >= threshold]
    hits = [score for score, o in kept if o >= 0.5][:1]
    return hits, [score for score, o in kept if o >= 0.3 and score not in hits]


def overlap(a, b):
    w = min(a[3], b[3]) - max(a[1], b[1])
    h = min(a[4], b[4]) - max(a[2], b[2])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[3] - a[1]) * (a[4] - a[2]) + (b[3] - b[1]) * (b[4] - b[2]) - shared)


def test_all_cases_are_those_of_a_plain_loop(rng: np.random.Generator) -> None:
    truth, first = draw(rng)
    second = [
        [(r[0], *(np.array(r[1:5]) + rng.normal(0, 5, 4)), rng.uniform()) for r in rows]
        for rows in first
    ]
    whole = truth_of(*truth)

    cases = cases_of(whole, side_of("x", 0.3, *first), side_of("y", 0.5, *second))

    said = [
        (c.kind, c.side, c.image, c.object - int(whole.offsets[c.image]), c.score) for c in cases
    ]
    expected = by_loops(truth, ((first, 0.3), (second, 0.5)))
    assert sorted(said) == expected
    assert {(kind, side) for kind, side, *_ in expected} == {
        (kind, side) for kind in ("only", "duplicate") for side in (0, 1)
    }
    for kind in ("only", "duplicate"):
        for side in (0, 1):
            scores = [c.score for c in cases if (c.kind, c.side) == (kind, side)]
            assert scores == sorted(scores, reverse=True)


def test_the_threshold_is_that_of_best_f1() -> None:
    truth = truth_of([OBJECT, FAR])
    found = table(
        [[(0, 10, 10, 50, 50, 0.9), (0, 60, 60, 80, 80, 0.5), (0, 61, 60, 80, 80, 0.4)]], "scores"
    )

    assert best_threshold(truth, found, 0.5) == 0.7
    nothing = table([[(0, 60, 60, 80, 80, 0.5)]], "scores")
    assert best_threshold(truth, nothing, 0.5) is None

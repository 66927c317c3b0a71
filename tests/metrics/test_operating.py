"""The score threshold of best F1, and of a precision: by hand, and against every threshold."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest

from dhcli.data.table import Flag
from dhcli.errors import ModelError
from dhcli.metrics.judge import Judged, judge
from dhcli.metrics.operating import (
    ENOUGH,
    KEY,
    OperatingPoint,
    OperatingPoints,
    best_f1,
    find_points,
    measure_at,
    reach_precision,
    read_points,
)

A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (100, 100, 110, 110)


def judged_of(scores: list[float], hits: list[int], objects: int) -> Judged:
    return Judged(np.array(scores), np.array(hits, np.bool_), objects)


def worth(point: OperatingPoint | None) -> tuple[float, float, float]:
    assert point is not None
    return point.precision, point.recall, point.f1


def at(judged: Judged, threshold: float) -> tuple[int, int]:
    kept = judged.scores >= threshold
    return int(judged.hits[kept].sum()), int(kept.sum())


def test_best_f1_by_hand() -> None:
    # right, wrong, right, wrong, of 3 objects: F1 is 2/4, 2/5, 4/6 and 4/7
    point = best_f1(judged_of([0.9, 0.8, 0.6, 0.5], [1, 0, 1, 0], 3))

    assert worth(point) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert point == OperatingPoint(0.55, 2 / 3, 2 / 3, 2 / 3, 3)


def test_equal_scores_stay_together() -> None:
    # the hit alone would have F1 1, but its equals come with it
    point = best_f1(judged_of([0.9, 0.9, 0.9], [1, 0, 0], 1))

    assert point == OperatingPoint(0.9, 1 / 3, 1, 0.5, 1)


def test_of_equal_f1_the_fewest_detections_are_kept() -> None:
    # one hit of one detection and two of four, of two objects: F1 is 2/3 both times
    point = best_f1(judged_of([0.9, 0.7, 0.6, 0.4], [1, 0, 0, 1], 2))

    assert worth(point) == pytest.approx((1, 0.5, 2 / 3))


def test_a_precision_is_reached_with_the_highest_recall() -> None:
    judged = judged_of([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0, 1, 1, 1, 0, 0], 4)

    assert worth(reach_precision(judged, 0.75))[:2] == (0.75, 0.75)
    assert worth(reach_precision(judged, 0.6))[:2] == (0.75, 0.75)  # 3 of 5 find no more
    assert reach_precision(judged, 0.8) is None


@pytest.mark.parametrize("judged", [judged_of([], [], 3), judged_of([0.9, 0.8], [0, 0], 3)])
def test_without_a_hit_there_is_no_point(judged: Judged) -> None:
    assert best_f1(judged) is None
    assert reach_precision(judged, 0.0) is None


def random_judged(rng: np.random.Generator, steps: int) -> Judged:
    count = int(rng.integers(1, 40))
    raw = rng.integers(0, steps, count) / steps
    scores = -np.sort(-raw.astype(np.float32).astype(np.float64))
    hits = rng.random(count) < rng.random()
    return Judged(scores, hits, int(hits.sum() + rng.integers(0, 5)))


@pytest.mark.parametrize("steps", [5, 1000, 2**24])
def test_points_are_those_of_a_search_over_every_threshold(
    rng: np.random.Generator, steps: int
) -> None:
    for _ in range(100):
        judged = random_judged(rng, steps)
        every = [at(judged, score) for score in judged.scores]
        best = max(2 * hits / (count + judged.objects) for hits, count in every)
        sure = [hits / judged.objects for hits, count in every if hits and hits / count >= 0.6]

        if not judged.hits.any():
            continue
        assert worth(best_f1(judged))[2] == pytest.approx(best, abs=0)
        reached = reach_precision(judged, 0.6)
        assert (reached.recall if reached else None) == (max(sure) if sure else None)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("steps", [5, 1000, 2**24])
def test_a_threshold_gives_just_what_is_stated_of_it(
    rng: np.random.Generator, steps: int, dtype: type
) -> None:
    for _ in range(100):
        judged = random_judged(rng, steps)
        for point in (best_f1(judged), reach_precision(judged, 0.5)):
            if point is not None:
                kept = judged.scores.astype(dtype) >= dtype(point.threshold)
                hits = int(judged.hits[kept].sum())
                assert hits / kept.sum() == point.precision
                assert hits / judged.objects == point.recall


def test_neighbours_in_float32_are_told_apart() -> None:
    high = np.float32(0.7)
    low = np.nextafter(high, np.float32(0))

    point = best_f1(judged_of([float(high), float(low)], [1, 0], 1))

    assert point is not None
    assert np.float32(low) < np.float32(point.threshold) <= high
    assert worth(point) == (1, 1, 1)


@pytest.fixture
def scene(truth_of, found_of):
    """Two classes, with a crowd, a difficult box and a region of no class."""
    truth = truth_of(
        [
            [("a", *A, 0), ("a", *B, Flag.DIFFICULT), ("b", *FAR, 0)],
            [("a", *A, 0), ("a", *B, Flag.CROWD), (None, *FAR, Flag.IGNORE)],
        ],
        ("a", "b"),
    )
    found = found_of(
        [
            [("a", *A, 0.9), ("a", *A, 0.8), ("a", *B, 0.95), ("b", *FAR, 0.3)],
            [("a", *B, 0.85), ("b", *FAR, 0.7), ("b", *A, 0.5), ("a", *A, 0.2)],
        ],
        ("a", "b"),
    )
    return judge(truth, found, 0.5)


def test_regions_and_difficult_boxes_are_neither_right_nor_wrong(scene) -> None:
    assert (scene["a"].scores.tolist(), scene["a"].hits.tolist(), scene["a"].objects) == (
        [0.9, 0.8, 0.2],
        [True, False, True],
        2,
    )
    assert (scene["b"].scores.tolist(), scene["b"].hits.tolist()) == ([0.5, 0.3], [False, True])


def test_all_classes_are_one_list_and_each_has_its_own_point(scene) -> None:
    points = find_points(scene, best_f1)

    # all: 0.9 right, 0.8 wrong, 0.5 wrong, 0.3 right, 0.2 right, of 3 objects
    assert points.all == OperatingPoint(0.2, 3 / 5, 1, 0.75, 3)
    assert {name: worth(point) for name, point in points.classes.items()} == {
        "a": pytest.approx((2 / 3, 1, 0.8)),
        "b": pytest.approx((0.5, 1, 2 / 3)),
    }
    sure = find_points(scene, partial(reach_precision, target=0.9))
    assert sure.all is not None
    assert worth(sure.all) == (1, 1 / 3, 0.5)
    assert list(sure.classes) == ["a"]


def point_at(threshold: float, objects: int) -> OperatingPoint:
    return OperatingPoint(threshold, 0.5, 0.5, 0.5, objects)


POINTS = OperatingPoints(
    point_at(0.4, 30), {"a": point_at(0.6, ENOUGH), "b": point_at(0.1, ENOUGH - 1)}
)


def test_a_rare_class_has_the_threshold_of_all_classes() -> None:
    assert POINTS.thresholds(("a", "b", "c")) == {"a": 0.6, "b": 0.4, "c": 0.4}
    assert OperatingPoints(None, {}).thresholds(("a",)) == {}


def test_stored_thresholds_are_measured_by_class_on_other_data(scene) -> None:
    point = measure_at(scene, POINTS)  # a from 0.6: one right of two; b from 0.4: one wrong

    assert point == OperatingPoint(0.4, 1 / 3, 1 / 3, 1 / 3, 3)
    nothing = OperatingPoints(point_at(1.0, 30), {})
    assert math.isnan(measure_at(scene, nothing).precision)  # type: ignore[union-attr]


def test_points_come_back_from_metadata() -> None:
    assert read_points({KEY: POINTS.as_dict()}) == POINTS
    assert read_points({"epoch": 3}) is None


@pytest.mark.parametrize("stored", [5, {}, {"all": None, "classes": {}}, {"all": {}, "classes": 3}])
def test_damaged_points_are_one_clear_error(stored: object) -> None:
    with pytest.raises(ModelError, match=r"m.onnx: the `operating_points` .* are damaged"):
        read_points({KEY: stored}, "m.onnx")

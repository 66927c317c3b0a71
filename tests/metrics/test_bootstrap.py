"""The bootstrap over images, beside COCO's own average on a dataset that repeats the images."""

from __future__ import annotations

import numpy as np
import pytest

from dhcli.data.table import DetectionTable, Flag, make_table
from dhcli.metrics.bootstrap import averages, draw_times, interval, matches_of, resample
from dhcli.metrics.coco import coco_ap

CLASSES = ("a", "b", "never")


def draw_truth(rng: np.random.Generator, images: int = 12) -> DetectionTable:
    counts = rng.integers(0, 5, images)
    low = rng.uniform(0, 80, (counts.sum(), 2))
    boxes = np.hstack([low, low + rng.uniform(5, 40, low.shape)])
    return make_table(
        "drawn",
        [f"{i}.jpg" for i in range(images)],
        [(200, 200)] * images,
        counts,
        boxes,
        rng.integers(0, 2, len(boxes)),
        CLASSES,
        flags=rng.choice([0, 0, 0, 0, Flag.CROWD, Flag.DIFFICULT], len(boxes)).astype(np.uint8),
    )


def draw_found(rng: np.random.Generator, truth: DetectionTable, moved: float) -> DetectionTable:
    """Every box once, moved; scores of their own, so that no order is a matter of taste."""
    boxes = truth.boxes + rng.normal(0, moved, truth.boxes.shape)
    return make_table(
        truth.root,
        truth.files,
        truth.sizes,
        np.diff(truth.offsets),
        boxes,
        truth.labels,
        CLASSES,
        scores=rng.permutation(len(boxes)) / len(boxes),
    )


def numbers_of(truth: DetectionTable, found: DetectionTable) -> list[float]:
    stats = coco_ap(truth, found).stats
    return [stats[name] for name in ("AP", "AP50", "AP75")]


def repeated(table: DetectionTable, times: np.ndarray) -> DetectionTable:
    taken = table.take_images(np.repeat(np.arange(len(table)), times.astype(int)))
    return make_table(
        taken.root,
        [f"{i}.jpg" for i in range(len(taken))],
        taken.sizes,
        np.diff(taken.offsets),
        taken.boxes,
        taken.labels,
        CLASSES,
        flags=taken.flags,
        scores=taken.scores,
    )


def test_an_image_drawn_twice_counts_as_two_images_would(rng: np.random.Generator) -> None:
    truth = draw_truth(rng)
    found = draw_found(rng, truth, moved=1.5)
    classes = matches_of(truth, found)

    assert averages(classes, np.ones(len(truth))) == pytest.approx(numbers_of(truth, found))
    for _ in range(5):
        times = draw_times(len(truth), rng)
        expected = numbers_of(repeated(truth, times), repeated(found, times))
        assert averages(classes, times) == pytest.approx(expected, abs=1e-9)


def test_all_detectors_are_counted_on_the_same_draws(rng: np.random.Generator) -> None:
    truth = draw_truth(rng)
    better, worse = (matches_of(truth, draw_found(rng, truth, moved)) for moved in (0.5, 3))

    draws = resample([better, worse, better], len(truth), 40)

    assert draws.shape == (40, 3, 3)
    assert np.array_equal(draws[:, 0], draws[:, 2])
    assert np.ptp(draws[:, 0, 0]) > 0
    assert interval(draws[:, 0, 0] - draws[:, 1, 0]).low > 0
    assert np.array_equal(draws, resample([better, worse, better], len(truth), 40))
    assert not np.array_equal(draws, resample([better, worse, better], len(truth), 40, seed=1))


def test_a_draw_has_as_many_images_as_there_are(rng: np.random.Generator) -> None:
    times = np.array([draw_times(9, rng) for _ in range(4000)])

    assert set(times.sum(axis=1)) == {9.0}
    assert times.mean(axis=0) == pytest.approx(1, abs=0.1)


def test_the_interval_holds_the_middle_of_the_draws_that_are_defined() -> None:
    draws = np.r_[np.arange(1001.0), np.nan]

    assert interval(draws) == pytest.approx((25, 975))
    assert np.isnan(interval(np.full(3, np.nan))).all()


def test_images_without_objects_have_no_average() -> None:
    truth = make_table("drawn", ["a.jpg"], [(9, 9)], [0], [], [], CLASSES)
    found = make_table("drawn", ["a.jpg"], [(9, 9)], [0], [], [], CLASSES, scores=np.zeros(0))

    assert np.isnan(averages(matches_of(truth, found), np.ones(1))).all()

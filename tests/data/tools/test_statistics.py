"""A dataset in numbers, on hand-counted cases."""

from pathlib import Path

import numpy as np
import pytest

from dhcli.data.table import ANY_CLASS, Flag, make_table
from dhcli.data.tools.statistics import Spread, describe_crowd, find_objects, measure


@pytest.fixture
def table():
    """Three images; two cats, a dog, a crowd, a region of no class, and a box without area."""
    boxes = [(0, 0, 10, 20), (0, 0, 40, 40), (0, 0, 100, 100)]
    boxes += [(0, 0, 9, 9), (0, 0, 9, 9), (5, 5, 5, 9)]
    return make_table(
        Path("root"),
        ["a.jpg", "b.jpg", "c.jpg"],
        [[200, 100], [200, 100], [50, 50]],
        [3, 3, 0],
        boxes,
        [0, 0, 1, 1, ANY_CLASS, 0],
        ("cat", "dog", "owl"),
        flags=np.array([0, 0, 0, Flag.CROWD, Flag.IGNORE, 0], np.uint8),
        splits={"train": np.array([0, 2]), "val": np.array([1])},
    )


def test_objects_are_boxes_with_an_area_that_are_no_regions(table):
    found = find_objects(table)

    assert found.labels.tolist() == [0, 0, 1]
    assert found.areas.tolist() == [200, 1600, 10000]


def test_the_whole_is_counted(table):
    numbers = measure(table)

    assert (numbers.images, numbers.objects, numbers.regions, numbers.empty) == (3, 3, 2, 2)
    assert (numbers.small, numbers.medium, numbers.large) == (1, 1, 1)
    assert numbers.image_sizes == [(200, 100, 2), (50, 50, 1)]
    assert numbers.side == Spread(14.1421, 19.3137, 40, 88, 100)
    assert numbers.aspect is not None
    assert numbers.aspect.most == 2


def test_classes_and_splits_are_counted(table):
    numbers = measure(table)

    counted = {each.name: (each.objects, each.images, each.splits) for each in numbers.classes}
    assert counted == {
        "cat": (2, 1, {"train": 2, "val": 0}),
        "dog": (1, 1, {"train": 1, "val": 0}),
        "owl": (0, 0, {"train": 0, "val": 0}),
    }
    assert numbers.classes[2].side is None
    split = numbers.splits["train"]
    assert (split.images, split.empty, split.objects) == (2, 1, 3)
    assert numbers.splits["val"].objects == 0


def test_a_dataset_without_boxes_has_numbers_too():
    numbers = measure(make_table(Path("root"), ["a.jpg"], [[9, 9]], [0], [], [], ("cat",)))

    assert (numbers.objects, numbers.empty, numbers.side) == (0, 1, None)


def test_images_with_more_objects_than_are_kept_are_counted(table):
    said = "1 image holds more objects (up to 3) than are kept per image: model.detect.max"
    assert describe_crowd(table, 2) == f"{said}_detections 2"
    assert describe_crowd(table, 3) is None

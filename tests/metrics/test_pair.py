import re

import numpy as np
import pytest

from dhcli.data.table import Flag
from dhcli.errors import DataError
from dhcli.metrics.pair import check_pair, match_classes

BOX = (0, 0, 10, 10)


def test_classes_are_matched_by_name_not_by_position(truth_of, found_of) -> None:
    truth = truth_of([[("dog", *BOX, 0)]], ("cat", "dog"), category_ids=np.array([7, 42]))
    found = found_of([[("dog", *BOX, 0.9), ("cat", *BOX, 0.8)]], ("dog", "cat"))

    matched = match_classes(found, truth)

    assert matched.classes == ("cat", "dog")
    assert matched.labels.tolist() == [1, 0]
    assert matched.category_ids.tolist() == [7, 42]


def test_detections_of_a_class_that_the_data_does_not_have_are_left_out(truth_of, found_of) -> None:
    truth = truth_of([[("dog", *BOX, 0)]], ("dog",))
    found = found_of([[("cat", *BOX, 0.9), ("dog", *BOX, 0.8)]], ("cat", "dog"))

    matched = match_classes(found, truth)

    assert matched.scores.tolist() == [0.8]
    assert found.scores.tolist() == [0.9, 0.8]


def test_no_name_in_common_is_an_error_that_names_both_sides(truth_of, found_of) -> None:
    truth, found = truth_of([[]], ("Car",)), found_of([[]], ("car", "bus"))

    with pytest.raises(DataError, match=r"detections have `car`, `bus`, the data has `Car`"):
        match_classes(found, truth)


def test_regions_are_boxes_of_no_class_and_ignored_ones(truth_of) -> None:
    rows = [(None, *BOX, 0), ("a", *BOX, Flag.IGNORE), ("a", *BOX, Flag.CROWD), ("a", *BOX, 0)]

    assert truth_of([rows]).regions(crowds=False).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": None}, "no scores"),
        ({"image_ids": np.array([5])}, "other images"),
        ({"scores": np.array([np.nan])}, "0.jpg: a detection's score or box is not a number"),
        ({"boxes": np.array([[0, 0, np.inf, 1]])}, "0.jpg: a detection's score or box"),
    ],
)
def test_detections_that_cannot_be_judged_are_an_error(truth_of, found_of, change, said) -> None:
    from dataclasses import replace

    truth, found = truth_of([[("a", *BOX, 0)]]), found_of([[("a", *BOX, 0.9)]])

    with pytest.raises(DataError, match=re.escape(said)):
        check_pair(truth, replace(found, **change))

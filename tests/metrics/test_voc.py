"""VOC AP: cases computed by hand from the development kit's rule."""

import numpy as np
import pytest

from dhcli.data.table import Flag
from dhcli.metrics.voc import voc_ap

BOX = (0, 0, 10, 10)
NEAR = (0, 0, 10, 9)
FAR = (200, 200, 210, 210)
OTHER = (100, 100, 110, 110)
RULES = ("voc07", "voc12")


def ap(truth, found, rule):
    return voc_ap(truth, found, rule=rule).stats["mAP"]


@pytest.mark.parametrize(("rule", "expected"), [("voc07", (6 + 5 * 2 / 3) / 11), ("voc12", 5 / 6)])
def test_interpolated_precision(truth_of, found_of, rule, expected) -> None:
    # Hit, miss, hit of 2 objects: precision 1 up to recall .5, then 2/3.
    truth = truth_of([[("a", *BOX, 0)], [("a", *BOX, 0)]])
    found = found_of([[("a", *BOX, 0.9), ("a", *FAR, 0.8)], [("a", *BOX, 0.7)]])

    result = voc_ap(truth, found, rule=rule)

    assert result.stats == pytest.approx({"mAP": expected})
    assert result.per_class["a"] == pytest.approx(
        {"AP": expected, "recall": 1, "objects": 2, "detections": 3}
    )


@pytest.mark.parametrize("rule", RULES)
def test_precision_is_the_best_at_any_higher_recall(truth_of, found_of, rule) -> None:
    # Miss, hit, hit of 2 objects: precision 1/2 and then 2/3.
    truth = truth_of([[("a", *BOX, 0)], [("a", *BOX, 0)]])
    found = found_of([[("a", *FAR, 0.9), ("a", *BOX, 0.8)], [("a", *BOX, 0.7)]])

    assert ap(truth, found, rule) == pytest.approx(2 / 3)


def test_a_recall_of_3_in_10_reaches_the_level_of_0_3(truth_of, found_of) -> None:
    truth = truth_of([[("a", *BOX, 0)]] * 10)
    found = found_of([[("a", *BOX, 0.9)]] * 3 + [[]] * 7)

    assert ap(truth, found, "voc07") == pytest.approx(4 / 11)
    assert ap(truth, found, "voc12") == pytest.approx(0.3)


@pytest.mark.parametrize("rule", RULES)
def test_a_second_detection_of_an_object_is_a_false_positive(truth_of, found_of, rule) -> None:
    truth = truth_of([[("a", *BOX, 0)], [("a", *BOX, 0)]])
    found = found_of([[("a", *NEAR, 0.9), ("a", *BOX, 0.8)], [("a", *BOX, 0.7)]])

    result = voc_ap(truth, found, rule=rule)

    assert result.stats["mAP"] == pytest.approx(
        {"voc07": (6 + 5 * 2 / 3) / 11, "voc12": 5 / 6}[rule]
    )


def test_only_the_object_overlapped_most_is_looked_at(truth_of, found_of) -> None:
    # Both detections overlap the first box most; the second one is not passed on to the other box.
    truth = truth_of([[("a", 0, 0, 10, 10, 0), ("a", 0, 0, 10, 14, 0)]])
    found = found_of([[("a", 0, 0, 10, 10, 0.9), ("a", 0, 0, 10, 11, 0.8)]])

    assert ap(truth, found, "voc12") == pytest.approx(0.5)


@pytest.mark.parametrize(("height", "expected"), [(5, 1), (4.99, 0)])
def test_an_iou_of_the_threshold_is_enough(truth_of, found_of, height, expected) -> None:
    found = found_of([[("a", 0, 0, 10, height, 0.9)]])

    assert ap(truth_of([[("a", *BOX, 0)]]), found, "voc12") == expected


def test_iou_threshold_is_a_choice(truth_of, found_of) -> None:
    truth, found = truth_of([[("a", *BOX, 0)]]), found_of([[("a", *NEAR, 0.9)]])

    assert voc_ap(truth, found, rule="voc12", iou_threshold=0.9).stats["mAP"] == 1
    assert voc_ap(truth, found, rule="voc12", iou_threshold=0.91).stats["mAP"] == 0


@pytest.mark.parametrize("rule", RULES)
def test_difficult_is_neither_to_be_found_nor_a_mistake(truth_of, found_of, rule) -> None:
    truth = truth_of([[("a", *BOX, 0), ("a", *FAR, Flag.DIFFICULT)]])
    found = found_of([[("a", *FAR, 0.9), ("a", *FAR, 0.85), ("a", *BOX, 0.8)]])

    result = voc_ap(truth, found, rule=rule)

    assert result.stats["mAP"] == 1
    assert result.per_class["a"]["objects"] == 1


def test_difficult_forgives_by_iou_and_not_by_coverage(truth_of, found_of) -> None:
    truth = truth_of([[("a", *BOX, 0), ("a", *FAR, Flag.DIFFICULT)]])
    found = found_of([[("a", 202, 202, 206, 206, 0.9), ("a", *BOX, 0.8)]])

    assert ap(truth, found, "voc12") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("region", "classes_forgiven"),
    [
        (("a", *FAR, Flag.CROWD), "a"),
        (("a", *FAR, Flag.IGNORE), "ab"),
        ((None, *FAR, 0), "ab"),
        ((None, *OTHER, 0), ""),
    ],
)
def test_regions_forgive_by_coverage(truth_of, found_of, region, classes_forgiven) -> None:
    truth = truth_of([[("a", *BOX, 0), ("b", *BOX, 0), region]], "ab")
    found = found_of(
        [[(n, *box, s) for n in "ab" for box, s in (((202, 202, 206, 206), 0.9), (BOX, 0.8))]], "ab"
    )

    result = voc_ap(truth, found, rule="voc12")

    for name in "ab":
        expected = 1 if name in classes_forgiven else 0.5
        assert result.per_class[name]["AP"] == pytest.approx(expected)
        assert result.per_class[name]["objects"] == 1


def test_a_class_is_found_by_its_own_detections_only(truth_of, found_of) -> None:
    truth = truth_of([[("a", *BOX, 0), ("b", *FAR, 0)]], "ab")

    result = voc_ap(truth, found_of([[("a", *BOX, 0.9), ("a", *FAR, 0.8)]], "ab"), rule="voc12")

    assert [result.per_class[name]["AP"] for name in "ab"] == [1, 0]


@pytest.mark.parametrize("rule", RULES)
def test_no_detections_are_zero_and_no_objects_undefined(truth_of, found_of, rule) -> None:
    truth = truth_of([[("a", *BOX, 0)]], "ab")

    result = voc_ap(truth, found_of([[]], "ab"), rule=rule)

    assert result.stats["mAP"] == result.per_class["a"]["AP"] == 0
    assert np.isnan(result.per_class["b"]["AP"])
    assert np.isnan(ap(truth_of([[]]), found_of([[("a", *BOX, 0.9)]]), rule))


def test_order_is_by_score_over_all_images(truth_of, found_of) -> None:
    truth = truth_of([[("a", *BOX, 0)], []])

    assert ap(truth, found_of([[("a", *BOX, 0.5)], [("a", *BOX, 0.6)]]), "voc12") == 0.5
    assert ap(truth, found_of([[("a", *BOX, 0.6)], [("a", *BOX, 0.5)]]), "voc12") == 1

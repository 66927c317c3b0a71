"""KITTI AP: cases computed by hand from the development kit's rule."""

import numpy as np
import pytest

from dhcli.data.table import Flag
from dhcli.errors import DataError
from dhcli.metrics.kitti import kitti_ap

CLASSES = ("Car", "Van", "Pedestrian", "Person_sitting", "Cyclist")
BOX = (0, 0, 50, 50)
FAR = (200, 200, 250, 250)
WIDE = (200, 200, 400, 400)


@pytest.fixture
def car_ap(truth_of, found_of):
    """AP of Car at one level: rows of the truth and detections of one image."""

    def judge(truth, found, level="easy", **columns):
        pair = truth_of([truth], CLASSES, **columns), found_of([found], CLASSES)
        return kitti_ap(*pair).per_class["Car"][level]

    return judge


@pytest.mark.parametrize("images", [1, 7, 40, 41, 200])
def test_a_perfect_detector_has_1(truth_of, found_of, images) -> None:
    truth = truth_of([[("Car", *BOX, 0)]] * images, CLASSES)
    scores = np.linspace(0.1, 0.9, images)
    found = found_of([[("Car", *BOX, score)] for score in scores], CLASSES)

    for points in (40, 11):
        assert kitti_ap(truth, found, points=points).stats["easy"] == pytest.approx(1)


def test_half_of_50_found_among_as_many_mistakes(truth_of, found_of) -> None:
    # Precision .5 at the recalls 0, 1/40 … 20/40, then 0.
    truth = truth_of([[("Car", *BOX, 0)]] * 50, CLASSES)
    found = found_of([[("Car", *BOX, 0.8)]] * 25 + [[("Car", *FAR, 0.9)]] * 25, CLASSES)

    assert kitti_ap(truth, found).stats["easy"] == pytest.approx(20 * 0.5 / 40)
    assert kitti_ap(truth, found, points=11).stats["easy"] == pytest.approx(6 * 0.5 / 11)


def test_many_objects_are_measured_next_to_each_recall(truth_of, found_of) -> None:
    # Of 210 objects the 5th hit is next to a recall of 1/40, and the only mistake comes after it.
    truth = truth_of([[("Car", *BOX, 0)]] * 210, CLASSES)
    rows = [[("Car", *BOX, score)] for score in np.linspace(0.9, 0.1, 210)]
    rows[4].append(("Car", *FAR, rows[4][0][5] - 1e-6))

    stats = kitti_ap(truth, found_of(rows, CLASSES)).stats

    assert stats["easy"] == pytest.approx((1 + 39 * 210 / 211) / 40)


def test_few_objects_are_measured_at_every_recall(truth_of, found_of) -> None:
    # Of 4 objects: hit, mistake, hit. Precision 1 up to 1/4, 2/3 up to 2/4.
    truth = truth_of([[("Car", *BOX, 0)]] * 4, CLASSES)
    found = found_of(
        [[("Car", *BOX, 0.9)], [("Car", *FAR, 0.8)], [("Car", *BOX, 0.7)], []], CLASSES
    )

    assert kitti_ap(truth, found).stats["easy"] == pytest.approx((10 * 1 + 10 * 2 / 3) / 40)
    expected = (3 * 1 + 3 * 2 / 3) / 11
    assert kitti_ap(truth, found, points=11).stats["easy"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("height", "occlusion", "truncation", "levels"),
    [
        (41, 0, 0.15, "easy moderate hard"),
        (40, 0, 0, "moderate hard"),
        (41, 1, 0, "moderate hard"),
        (41, 0, 0.3, "moderate hard"),
        (26, 2, 0, "hard"),
        (26, 0, 0.5, "hard"),
        (25, 0, 0, ""),
        (41, 3, 0, ""),
        (41, 0, 0.51, ""),
    ],
)
def test_levels(truth_of, found_of, height, occlusion, truncation, levels) -> None:
    row = (0, 0, 50, height)
    extras = {"occlusion": np.array([occlusion], np.int8), "truncation": np.array([truncation])}
    truth = truth_of([[("Car", *row, 0)]], CLASSES, extras=extras)

    result = kitti_ap(truth, found_of([[("Car", *row, 0.9)]], CLASSES))

    defined = [level for level, value in result.stats.items() if not np.isnan(value)]
    assert defined == levels.split()
    assert result.per_class["Car"]["objects"] == int("hard" in levels)


@pytest.mark.parametrize("flag", [Flag.OCCLUDED, Flag.TRUNCATED])
def test_without_degrees_a_flag_is_moderate(truth_of, found_of, flag) -> None:
    truth = truth_of([[("Car", *BOX, flag)]], CLASSES)

    stats = kitti_ap(truth, found_of([[("Car", *BOX, 0.9)]], CLASSES)).stats

    assert np.isnan(stats["easy"])
    assert stats["moderate"] == 1


def test_a_van_is_not_a_mistake_for_a_car_nor_to_be_found(car_ap) -> None:
    truth = [("Car", *BOX, 0), ("Van", *FAR, 0)]

    assert car_ap(truth, [("Car", *FAR, 0.9), ("Car", *BOX, 0.8)]) == 1
    assert car_ap(truth, [("Car", *BOX, 0.8)]) == 1


def test_a_cyclist_is_a_mistake_for_a_car(car_ap) -> None:
    truth = [("Car", *BOX, 0), ("Cyclist", *FAR, 0)]

    assert car_ap(truth, [("Car", *FAR, 0.9), ("Car", *BOX, 0.8)]) == pytest.approx(0.5)


def test_a_hidden_car_is_not_a_mistake(car_ap) -> None:
    truth = [("Car", *BOX, 0), ("Car", *FAR, 0)]
    extras = {"occlusion": np.array([0, 3], np.int8), "truncation": np.zeros(2)}

    assert car_ap(truth, [("Car", *FAR, 0.9), ("Car", *BOX, 0.8)], extras=extras) == 1


@pytest.mark.parametrize("region", [(None, *WIDE, 0), ("Car", *WIDE, Flag.CROWD)])
def test_dont_care_forgives_by_share_of_the_detection(car_ap, region) -> None:
    truth = [("Car", *BOX, 0), region]
    inside = ("Car", 200, 200, 245, 245, 0.9)
    partly = ("Car", 165, 200, 250, 250, 0.9)  # 50 of 85 columns: .59, below .7

    assert car_ap(truth, [inside, ("Car", *BOX, 0.8)]) == 1
    assert car_ap(truth, [partly, ("Car", *BOX, 0.8)]) == pytest.approx(0.5)


def test_detections_below_the_height_are_not_judged(car_ap) -> None:
    truth = [("Car", *BOX, 0)]
    low = ("Car", 200, 200, 250, 239.9, 0.9)

    assert car_ap(truth, [low, ("Car", *BOX, 0.8)], "easy") == 1
    assert car_ap(truth, [low, ("Car", *BOX, 0.8)], "moderate") == pytest.approx(0.5)


def test_a_car_needs_an_iou_of_7_and_a_pedestrian_of_5(truth_of, found_of) -> None:
    truth = truth_of([[("Car", *BOX, 0), ("Pedestrian", *BOX, 0)]], CLASSES)
    loose = (0, 0, 50, 70)  # IoU .71
    looser = (0, 0, 50, 72)  # IoU .69
    found = [
        found_of([[(name, *box, 0.9) for name in CLASSES]], CLASSES) for box in (loose, looser)
    ]

    results = [kitti_ap(truth, table).per_class for table in found]

    assert [result["Car"]["easy"] for result in results] == [1, 0]
    assert [result["Pedestrian"]["easy"] for result in results] == [1, 1]


def test_the_closest_judged_detection_is_taken(truth_of, found_of) -> None:
    # At the lower threshold the closer box is taken and the other one is a mistake.
    truth = truth_of([[("Car", *BOX, 0)], [("Car", *BOX, 0)]], CLASSES)
    found = found_of(
        [[("Car", 0, 0, 50, 45, 0.9), ("Car", *BOX, 0.8)], [("Car", *BOX, 0.7)]], CLASSES
    )

    assert kitti_ap(truth, found).stats["easy"] == pytest.approx((20 + 20 * 2 / 3) / 40)


def test_classes_are_those_that_both_know(truth_of, found_of) -> None:
    truth = truth_of([[("Car", *BOX, 0)]], CLASSES)

    result = kitti_ap(truth, found_of([[("Car", *BOX, 0.9)]], ("Cyclist", "Car")))

    assert list(result.per_class) == ["Car", "Cyclist"]
    assert result.stats["easy"] == 1
    assert np.isnan(result.per_class["Cyclist"]["easy"])


def test_classes_set_aside_forgive_every_class(truth_of, found_of) -> None:
    truth = truth_of([[("Car", *BOX, 0), ("Van", *FAR, 0)]], CLASSES)
    truth = truth.with_classes(("Car",), others="ignore")

    result = kitti_ap(truth, found_of([[("Car", *FAR, 0.9), ("Car", *BOX, 0.8)]], ("Car",)))

    assert result.stats["easy"] == 1


def test_no_detections_are_zero(car_ap) -> None:
    assert car_ap([("Car", *BOX, 0)], []) == 0


def test_data_without_kitti_classes_is_an_error(truth_of, found_of) -> None:
    with pytest.raises(DataError, match="Car, Pedestrian, Cyclist"):
        kitti_ap(truth_of([[]], ("cell",)), found_of([[]], ("cell",)))

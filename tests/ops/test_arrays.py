import numpy as np
import pytest

from dhcli.ops.arrays import box_areas, coverage, intersections, iou, is_first, paired_iou

BOXES = np.array([[0, 0, 4, 2], [2, 1, 6, 5], [9, 9, 9, 12]], np.float64)


def test_areas_are_width_times_height_and_0_for_a_line() -> None:
    assert box_areas(BOXES).tolist() == [8, 16, 0]


def test_iou_is_intersection_over_union() -> None:
    assert intersections(BOXES[:1], BOXES).tolist() == [[8, 2, 0]]
    assert iou(BOXES[:1], BOXES)[0] == pytest.approx([1, 2 / 22, 0])


def test_coverage_is_intersection_over_the_area_of_the_first() -> None:
    assert coverage(BOXES, BOXES[:1])[:, 0] == pytest.approx([1, 2 / 16, 0])


def test_two_empty_boxes_at_one_place_do_not_overlap() -> None:
    assert iou(BOXES[2:], BOXES[2:]).tolist() == [[0]]


def test_no_boxes_give_an_empty_matrix() -> None:
    assert iou(BOXES[:0], BOXES).shape == (0, 3)
    assert coverage(BOXES, BOXES[:0]).shape == (3, 0)


def test_pairs_are_the_diagonal_of_the_matrix(rng: np.random.Generator) -> None:
    a, b = (np.sort(rng.uniform(0, 9, (5, 2, 2)), axis=1).reshape(5, 4) for _ in range(2))

    assert paired_iou(a, b).tolist() == np.diagonal(iou(a, b)).tolist()


def test_rows_that_come_first() -> None:
    assert is_first(np.array([3, 1, 3, 1])).tolist() == [True, True, False, False]
    assert is_first(np.array([[1, 2], [1, 3], [1, 2]])).tolist() == [True, True, False]

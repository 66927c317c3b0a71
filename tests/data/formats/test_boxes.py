"""Boxes around points."""

import pytest

from dhcli.data.formats.boxes import hull, hull_of_row


def test_the_box_around_points():
    assert hull([(3, "4.5"), ("1", 7)]) == (1, 4.5, 3, 7)
    assert hull_of_row([3, 4.5, 1, 7]) == (1, 4.5, 3, 7)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], "no points"),
        ([[1]], "points that are not x, y pairs"),
        ([[1, 2, 3]], "points that are not x, y pairs"),
        ([1, 2], "points that are not x, y pairs"),
        (zip([1, 2], [3], strict=True), "points that are not x, y pairs"),
        ([["a", 2]], "`a`"),
    ],
)
def test_what_are_no_points_is_said(points, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        hull(points)

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhcli.errors import DhError
from dhcli.inference.writers import Prediction
from dhcli.report.draw import (
    HATCH,
    PALETTE,
    Style,
    colour_of,
    draw_boxes,
    draw_detections,
    place_label,
    write_drawing,
)

GREY = 128


def drawn(
    width: int, height: int, boxes: Sequence[Sequence[float]], classes: Sequence[str] = ("car",)
) -> np.ndarray:
    image = np.full((height, width, 3), GREY, np.uint8)
    scores = np.linspace(0.9, 0.5, len(boxes))
    labels = np.arange(len(boxes)) % len(classes)
    return np.array(draw_detections(image, np.array(boxes, float), labels, scores, classes))


def test_the_line_runs_along_the_box_and_the_rest_stays() -> None:
    picture = drawn(200, 100, [[40, 30, 160, 80]])

    assert tuple(picture[50, 40]) == PALETTE[0]
    assert tuple(picture[79, 100]) == PALETTE[0]
    assert (picture[40:75, 110:155] == GREY).all()
    assert (picture[85:] == GREY).all()


def test_the_label_stands_above_the_box_on_its_colour() -> None:
    picture = drawn(200, 100, [[40, 50, 160, 90]])

    above = picture[38:48, 40:60].reshape(-1, 3)
    assert (above == PALETTE[0]).all(axis=1).mean() > 0.4
    assert (above > 200).all(axis=1).any()  # white letters on blue


@pytest.mark.parametrize("length", [100, 2_000_000])  # Pillow measures a million at most
def test_a_name_without_end_is_drawn_as_far_as_there_is_room(length: int) -> None:
    name = "car " * length

    assert (
        drawn(80, 60, [[10, 30, 60, 50]], (name,))
        == drawn(80, 60, [[10, 30, 60, 50]], (name[:60],))
    ).all()


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (64, 48), (3, 300)])
def test_any_image_can_be_drawn_on(size: tuple[int, int]) -> None:
    boxes = [[-5, -5, 500, 500], [0, 0, 0, 0], [2, 2, 1, 1], [*size, *size]]

    picture = drawn(*size, boxes, ("a name that is far too long for the image", "b"))

    assert picture.shape == (size[1], size[0], 3)


def test_a_name_too_long_for_the_image_is_shortened() -> None:
    picture = drawn(64, 48, [[0, 20, 64, 48]], ("M" * 30,))

    assert (picture[:18, 10:50] > 200).all(axis=2).any()  # letters
    assert not (picture[:18, 62:] > 200).all(axis=2).any()  # that end before the image does


def test_a_region_to_ignore_is_hatched_below_the_boxes_and_says_nothing() -> None:
    image = np.full((100, 200, 3), GREY, np.uint8)
    box, region = np.array([[100.0, 30, 190, 80]]), [[20.0, 30, 120, 80]]

    picture = np.array(draw_boxes(image, box, np.zeros(1, int), ["car"], region))

    assert tuple(picture[30, 60]) == HATCH  # its edge
    inside = (picture[32:78, 22:95] == HATCH).all(axis=2).mean()
    assert 0.05 < inside < 0.5
    assert tuple(picture[50, 100]) == PALETTE[0]
    assert (picture[:29, :90] == GREY).all()


def test_nothing_found_leaves_the_image_as_it_was() -> None:
    assert (drawn(20, 10, np.zeros((0, 4))) == GREY).all()


def test_a_label_stays_inside_the_image() -> None:
    for box in ((0, 0, 10, 10), (90, 0, 100, 100), (95, 90, 100, 99), (0, 0, 100, 100)):
        x1, y1, x2, y2 = place_label(box, (40, 12), (100, 100), [])

        assert min(x1, y1) >= 0
        assert max(x2, y2) <= 99
        assert (x2 - x1, y2 - y1) == (40, 12)


def test_a_label_gives_way_to_another() -> None:
    box = (20, 40, 60, 80)
    first = place_label(box, (30, 10), (100, 100), [])

    second = place_label(box, (30, 10), (100, 100), [first])

    assert first == (20, 30, 50, 40)  # above the box
    assert second == (20, 80, 50, 90)  # below it


def test_neighbouring_classes_differ_and_a_class_keeps_its_colour() -> None:
    colours = [colour_of(label) for label in range(21)]

    assert len(set(colours)) == 21
    assert colours[:7] == list(PALETTE)
    assert colour_of(3) == colours[3]


def test_lines_and_letters_grow_with_the_image() -> None:
    assert Style.of(64, 48) == Style(line=2, letters=10)
    assert Style.of(4000, 3000) == Style(line=10, letters=69)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a", "JPEG")])
def test_a_drawing_is_written_as_its_name_says(tmp_path: Path, name: str, kind: str) -> None:
    pixels = np.full((48, 64, 3), GREY, np.uint8)
    found = Prediction(
        "a", (64, 48), np.array([[5.0, 20, 60, 40]]), np.ones(1), np.zeros(1, int), pixels
    )

    write_drawing(found, ("car",), tmp_path / "deep" / name)

    with Image.open(tmp_path / "deep" / name) as image:
        assert (image.format, image.size) == (kind, (64, 48))
        assert not (np.asarray(image) == GREY).all()
    assert (pixels == GREY).all()  # the original is not drawn on


def test_a_drawing_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = Prediction(
        "a", (8, 8), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros((8, 8, 3), np.uint8)
    )

    with pytest.raises(DhError, match="cannot be written"):
        write_drawing(found, ("car",), tmp_path / "file" / "a.jpg")


def test_a_crowd_is_drawn_thin_and_named_once_per_class() -> None:
    grid = np.array([[x, y, x + 6, y + 6] for y in range(0, 200, 10) for x in range(0, 200, 10)])
    labels = np.arange(len(grid)) % 2
    grey = np.full((200, 200, 3), 128, np.uint8)

    crowd = np.asarray(draw_boxes(grey, grid.astype(float), labels, ["a"] * len(grid)))
    few = np.asarray(draw_boxes(grey, grid[:4].astype(float), labels[:4], ["a"] * 4))

    assert Style.of(200, 200, 400).line == 1 < Style.of(200, 200).line
    assert (crowd[102:105, 102:105] == 128).all()  # what a box is around is seen
    assert (few == colour_of(1)).all(axis=2).any()

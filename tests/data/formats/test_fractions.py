"""Boxes in fractions of their images, in formats that tell them in pixels."""

import json

import pytest

from dhcli.data.formats import read_dataset
from dhcli.errors import DataError

NOTE = "boxes lie within 0…1: read as fractions of their images"


def voc(x1, y1, x2, y2):
    box = f"<xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    return f"<object><name>cat</name><bndbox>{box}</bndbox></object>"


def labelme(x1, y1, x2, y2):
    return {"label": "cat", "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}


def via(x1, y1, x2, y2):
    sides = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1}
    return {"shape_attributes": {"name": "rect", **sides}, "region_attributes": {"type": "cat"}}


def createml(x1, y1, x2, y2):
    sides = {"x": (x1 + x2) / 2, "y": (y1 + y2) / 2, "width": x2 - x1, "height": y2 - y1}
    return {"label": "cat", "coordinates": sides}


def text_of(kind, *boxes):
    """The name and the text of a file of `boxes` in a.jpg."""
    rows = [",".join(map(str, box)) for box in boxes]
    objects = {"bbox": [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes]}
    many = {
        "voc": ("Annotations/a.xml", "\n".join(["<annotation>", *(voc(*b) for b in boxes)])),
        "kitti": ("labels/a.txt", "".join(f"Car 0 0 0 {r} 1 1 1 1 1 1 0\n" for r in rows)),
        "labelme": (
            "a.json",
            {"shapes": [labelme(*b) for b in boxes], "imagePath": "images/a.jpg"},
        ),
        "via": ("via.json", {"a": {"filename": "a.jpg", "regions": [via(*b) for b in boxes]}}),
        "createml": ("c.json", [{"image": "a.jpg", "annotations": [createml(*b) for b in boxes]}]),
        "imagefolder": ("metadata.jsonl", {"file_name": "images/a.jpg", "objects": objects}),
        "retinanet": ("annotations.csv", "".join(f"images/a.jpg,{r},cat\n" for r in rows)),
        "csv": ("l.csv", "".join(["image,x1,y1,x2,y2\n", *(f"a.jpg,{r}\n" for r in rows)])),
    }
    name, told = many[kind]
    text = told if isinstance(told, str) else json.dumps(told)
    text = text.replace(",", " ") if kind == "kitti" else text
    return name, f"{text}</annotation>" if kind == "voc" else text


KINDS = ("voc", "kitti", "labelme", "via", "createml", "imagefolder", "retinanet", "csv")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("over", [1, 1.0005])
def test_boxes_that_all_lie_within_0_to_1_are_fractions(lay, kind, over):
    name, text = text_of(kind, (0.25, 0.5, 0.75, 0.75), (0, 0, 1, over))

    table = read_dataset(lay({name: text}, "images/a.jpg"), format=kind)

    assert table.boxes[0].tolist() == [10, 15, 30, 22.5]
    assert table.boxes[1].tolist() == pytest.approx([0, 0, 40, 30 * over])
    assert NOTE in table.notes
    assert not any("pixels counted" in note for note in table.notes)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_of_which_some_are_fractions_are_an_error(lay, kind):
    name, text = text_of(kind, (10, 10, 20, 20), (0.25, 0.5, 0.75, 0.75))
    said = rf"{name}(:\d)?: a box: its corners 0\.25, 0\.5, 0\.75, 0\.75 lie .* so do 1 of 2 boxes"

    with pytest.raises(DataError, match=said):
        read_dataset(lay({name: text}, "images/a.jpg"), format=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_few_boxes_of_less_than_a_pixel_are_left_to_the_check(lay, kind):
    name, text = text_of(kind, *[(10, 10, 20, 20)] * 20, (0.25, 0.5, 0.75, 0.75))

    table = read_dataset(lay({name: text}, "images/a.jpg"), format=kind)

    assert table.boxes[-1, 2:].tolist() == [0.75, 0.75]
    assert NOTE not in table.notes

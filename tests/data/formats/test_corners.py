"""Boxes that are told as two corners, in formats that tell them as a corner and sides."""

import json

import pytest

from dhcli.data.formats import read_dataset

NOTE = "boxes extend beyond the image, and would not if they were corners"
CORNERS = [(2, 3, 18, 20), (5, 5, 12, 9), (10, 12, 35, 30)]
SIDES = [(2, 3, 18, 20), (15, 12, 12, 9), (10, 12, 35, 30)]
"""The first and the last look like corners, the last reaches over the edge; the second does not."""


def text_of(kind, boxes):
    """The name and the text of a file of `boxes` in a.jpg, as they are."""
    if kind == "coco":
        rows = [{"id": n, "image_id": 1, "category_id": 1, "bbox": b} for n, b in enumerate(boxes)]
        images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]
        categories = [{"id": 1, "name": "cat"}]
        parts = {"images": images, "annotations": rows, "categories": categories}
        return "instances.json", json.dumps(parts)
    if kind == "imagefolder":
        objects = {"bbox": boxes, "category": ["cat"] * len(boxes)}
        return "metadata.jsonl", json.dumps({"file_name": "images/a.jpg", "objects": objects})
    if kind == "csv in a list":
        return "l.csv", "image,label,bbox\n" + "".join(f'a.jpg,cat,"{list(b)}"\n' for b in boxes)
    header = "image,label,x,y,w,h\n" if kind == "csv" else "image,label,x1,y1,x2,y2\n"
    return "l.csv", header + "".join(f"a.jpg,cat,{','.join(map(str, b))}\n" for b in boxes)


@pytest.mark.parametrize("kind", ["coco", "imagefolder", "csv", "csv in a list"])
def test_corners_in_place_of_sides_are_noticed(lay, kind):
    name, text = text_of(kind, CORNERS)

    assert NOTE in read_dataset(lay({name: text}, "images/a.jpg")).notes


@pytest.mark.parametrize("kind", ["coco", "imagefolder", "csv", "csv in a list"])
def test_boxes_that_are_none_as_corners_are_not_doubted(lay, kind):
    name, text = text_of(kind, SIDES)

    assert NOTE not in read_dataset(lay({name: text}, "images/a.jpg")).notes


@pytest.mark.parametrize(("kind", "boxes"), [("corners", CORNERS), ("csv", [(0, 0, 40.2, 30)])])
def test_corners_that_are_told_as_such_and_boxes_just_over_the_edge_are_not_doubted(
    lay, kind, boxes
):
    name, text = text_of(kind, boxes)

    assert NOTE not in read_dataset(lay({name: text}, "images/a.jpg")).notes

"""Label Studio's JSON and JSON_MIN, as it exports them and as they are put together by hand."""

import json
import math
import re

import pytest

from dhcli.data.formats import read_dataset
from dhcli.data.table import Flag
from dhcli.errors import DataError


def rectangle(x, y, width, height, label="cat", **more):
    """A result of a rectangle, in percent of an image of 40 × 30 pixels."""
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": more.pop("rotation", 0)}
    return {
        "original_width": 40,
        "original_height": 30,
        "image_rotation": 0,
        "value": value | {"rectanglelabels": [label]},
        "id": f"{x}-{label}",
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    } | more


def shape(kind, **value):
    """A result of another shape."""
    return rectangle(0, 0, 0, 0) | {"value": value, "type": kind, "id": f"{kind} {value}"}


def task(image, *results, **more):
    told = {"id": 1, "annotations": [annotation(*results)], "data": {"image": image}}
    return told | more


def annotation(*results, **more):
    return {"id": 7, "completed_by": 1, "was_cancelled": False, "result": list(results)} | more


@pytest.fixture
def read(lay):
    """A function that reads tasks, the images named lying below the folder."""

    def read_tasks(tasks, *images):
        return read_dataset(lay({"project-1.json": json.dumps(tasks, indent=1)}, *images))

    return read_tasks


def test_percent_become_pixels(read):
    tasks = [
        task("/data/upload/1/a.jpg", rectangle(25, 10, 50, 20), rectangle(0, 0, 10, 10, "dog"))
    ]

    table = read(tasks, "images/a.jpg")

    assert table.format == "label-studio"
    assert list(table.files) == ["images/a.jpg"]
    assert table.boxes.tolist() == [[10, 3, 30, 9], [0, 0, 4, 3]]
    assert table.classes == ("cat", "dog")
    assert table.notes == ()


@pytest.mark.parametrize(
    ("address", "image"),
    [
        ("/data/upload/1/1a2b3c4d-a.jpg", "images/1a2b3c4d-a.jpg"),
        ("/data/upload/1/1a2b3c4d-a.jpg", "a.jpg"),
        ("/data/upload/1/1a2b3c4d-my_photo_1.jpg", "images/my photo (1).jpg"),
        ("/data/upload/1/1a2b3c4d-my%20photo.jpg", "images/my photo.jpg"),
        ("/data/local-files/?d=media/set/a%20b.jpg", "set/a b.jpg"),
        ("/data/local-files/?d=media%5Cset%5Ca.jpg", "deep/er/set/a.jpg"),
        ("s3://bucket/some/where/a.jpg", "pictures/a.jpg"),
        ("https://host/x/a.jpg?X-Amz-Expires=1&Sig=a%2Fb", "x/a.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("C:\\me\\a.jpg", "me/a.jpg"),
    ],
)
def test_images_are_found_by_the_ends_of_their_addresses(read, address, image):
    table = read([task(address, rectangle(0, 0, 100, 100))], image)

    assert list(table.files) == [image]
    assert table.boxes.tolist() == [[0, 0, 40, 30]]


def test_the_longest_end_counts_and_none_where_two_have_it(read):
    tasks = [task("s3://b/set/day/a.jpg"), task("s3://b/a.jpg")]

    table = read(tasks, "x/day/a.jpg", "x/night/a.jpg")

    assert list(table.files) == ["x/day/a.jpg", "a.jpg"]


def test_turned_boxes_polygons_and_ellipses_are_read_as_the_box_around(read):
    results = [
        rectangle(50, 50, 20, 10, rotation=90),  # 8 × 3 pixels, about (20, 15)
        shape("polygonlabels", points=[[0, 0], [50, 0], [25, 100]], polygonlabels=["dog"]),
        shape("ellipselabels", x=50, y=50, radiusX=25, radiusY=10, ellipselabels=["dog"]),
        shape("brushlabels", format="rle", rle=[1, 2], brushlabels=["dog"]),
        shape("keypointlabels", x=1, y=2, width=0.1, keypointlabels=["dog"]),
    ]

    table = read([task("a.jpg", *results)], "a.jpg")

    assert table.boxes.tolist() == [[17, 15, 20, 23], [0, 0, 20, 30], [10, 12, 30, 18]]
    assert table.notes == (
        "1 box turned: read as the upright box around",
        "1 shape `polygonlabels`: read as the upright box around",
        "1 shape `ellipselabels`: read as the upright box around",
        "1 result `brushlabels`: left out",
        "1 result `keypointlabels`: left out",
    )


def test_a_turned_ellipse_lies_within_its_box(read):
    result = shape(
        "ellipselabels", x=50, y=50, radiusX=25, radiusY=10, rotation=45, ellipselabels=["dog"]
    )

    table = read([task("a.jpg", result)], "a.jpg")

    half = math.hypot(10, 3) / math.sqrt(2)
    assert table.boxes[0] == pytest.approx([20 - half, 15 - half, 20 + half, 15 + half])


def test_the_first_annotation_that_is_not_skipped_counts(read):
    tasks = [
        task("a.jpg") | {"annotations": [
            annotation(rectangle(0, 0, 10, 10), was_cancelled=True),
            annotation(rectangle(0, 0, 50, 50)),
            annotation(rectangle(0, 0, 60, 60), rectangle(1, 1, 5, 5)),
        ]},
        task("b.jpg", predictions=[{"result": [rectangle(0, 0, 9, 9)]}]),
        task("c.jpg") | {"annotations": []},
        task("d.jpg") | {"annotations": [annotation(was_cancelled=True)]},
    ]  # fmt: skip

    table = read(tasks, "a.jpg", "b.jpg", "c.jpg", "d.jpg")

    assert list(table.files) == ["a.jpg", "b.jpg"]
    assert table.boxes.tolist() == [[0, 0, 20, 15]]
    assert table.notes == (
        "2 annotations cancelled (was_cancelled): left out",
        "1 annotation of a task that has one already: left out",
        "1 prediction of a model: left out",
        "2 tasks without annotation: left out",
    )


def test_what_was_left_out_is_said_where_nothing_is_left(read):
    tasks = [{"data": {"image": "a.jpg"}, "annotations": [], "predictions": [annotation()]}]

    with pytest.raises(DataError, match="holds no images as Label Studio") as error:
        read(tasks, "a.jpg")

    assert error.value.hint == (
        "1 task without annotation: left out; 1 prediction of a model: left out"
    )


def test_older_files_and_other_names_of_the_image(read):
    old = {"id": 3, "completions": [annotation(rectangle(0, 0, 50, 50))]}

    table = read([old | {"data": {"note": "x", "picture": "/data/a.jpg"}}], "a.jpg")

    assert table.boxes.tolist() == [[0, 0, 20, 15]]


def test_results_of_one_region_are_one_box(read):
    box = rectangle(0, 0, 50, 50) | {"type": "rectangle"}
    del box["value"]["rectanglelabels"]
    label = box | {"type": "labels", "value": box["value"] | {"labels": ["dog"]}}
    choice = box | {"type": "choices", "value": box["value"] | {"choices": ["Occluded"]}}
    other = rectangle(10, 10, 10, 10)
    del other["value"]["rectanglelabels"]
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}

    table = read([task("a.jpg", box, label, choice, other, relation)], "a.jpg")

    assert [table.classes[k] for k in table.labels] == ["dog", "object"]
    assert table.flags.tolist() == [Flag.OCCLUDED, 0]
    assert table.notes == ("1 region of no class: called `object`",)


def test_json_min(read):
    def value(label, **more):
        told = rectangle(25, 10, 50, 20, label)
        return told["value"] | {"original_width": 40, "original_height": 30} | more

    polygon = {"points": [[0, 0], [50, 100]], "polygonlabels": ["dog"]}
    rows = [
        {
            **{"image": "/data/upload/1/1a2b3c4d-a.jpg", "id": 1, "annotator": 1},
            **{"label": [value("cat"), value("dog")], "outline": [polygon]},
            "seen": [value("cat", choices=["x"])],
        },
        {"image": "/data/upload/1/1a2b3c4d-a.jpg", "id": 1, "annotator": 2, "label": []},
        {"image": "/data/upload/1/b.jpg", "id": 2, "annotator": 1},
    ]

    table = read(rows, "a.jpg", "b.jpg")

    assert table.format == "label-studio"
    assert list(table.files) == ["a.jpg", "b.jpg"]
    assert table.boxes.tolist() == [[10, 3, 30, 9], [10, 3, 30, 9], [0, 0, 20, 30]]
    assert "1 annotation of an image that has one already: left out" in table.notes


def test_the_size_of_the_image_counts_where_none_is_told(read):
    result = rectangle(25, 10, 50, 20)
    turned = rectangle(50, 50, 20, 10, "dog", rotation=90)
    for each in (result, turned):
        del each["original_width"], each["original_height"]

    table = read([task("a.jpg", result, turned)], "a.jpg")

    assert table.boxes[0].tolist() == [10, 3, 30, 9]
    assert table.notes == ("1 box turned, in an image of unknown size: read as if it were square",)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            task("a.jpg", rectangle("wide", 0, 1, 1)),
            "a result has a value .*: `wide`",
        ),
        (task("a.jpg") | {"data": {}}, "a task has no `image`"),
        (task("a.jpg") | {"annotations": 7}, "a task has a value that cannot be used"),
        (task("a.jpg", rectangle(0, 0, 1, 1, [])), "a result has a value that cannot be used"),
    ],
)
def test_what_cannot_be_used_is_named(lay, row, said):
    root = lay({"a.json": json.dumps([task("b.jpg", rectangle(0, 0, 1, 1)), row])}, "b.jpg")

    table = read_dataset(root, format="label-studio")

    (remark,) = table.remarks
    assert (remark.code, remark.where) == ("row-unreadable", "a.json:1")
    assert re.search(said, remark.what)
    assert len(table.boxes) == 1

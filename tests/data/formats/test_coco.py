"""COCO JSON: what is tolerated, what is kept, how splits are told."""

import json
import re

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.table import ANY_CLASS, Flag, make_table
from dhcli.errors import DataError

RLE = {"counts": [10, 4, 186], "size": [10, 20]}


def document(**changes):
    """Two images, three annotations, sparse ids."""
    return {
        "info": {"year": 2017},
        "licenses": [{"id": 4, "name": "by"}],
        "images": [
            {"id": 90, "file_name": "b.jpg", "width": 40, "height": 30, "license": 4},
            {"id": 5, "file_name": "a.jpg", "width": 40, "height": 30},
        ],
        "annotations": [
            {
                **{"id": 8, "image_id": 5, "category_id": 44, "bbox": [1.5, 2, 10, 20.25]},
                **{"area": 77.5, "iscrowd": 0, "segmentation": [[1.5, 2, 11.5, 2, 6, 22.25]]},
            },
            {
                **{"id": 3, "image_id": 90, "category_id": 7, "bbox": [0, 0, 4, 1]},
                **{"area": 4, "iscrowd": 1, "segmentation": RLE},
            },
            {
                **{"id": 1, "image_id": 5, "category_id": 7, "bbox": [0, 0, 3, 3]},
                **{"area": 9, "iscrowd": 0, "segmentation": [], "attributes": {"occluded": True}},
            },
        ],
        "categories": [
            {"id": 44, "name": "dog", "supercategory": "animal"},
            {"id": 7, "name": "köter", "keypoints": ["nose"]},
        ],
    } | changes


@pytest.fixture
def put(tmp_path, draw):
    """A function that writes a COCO document and its images."""

    def lay(told, name="annotations/instances_val2017.json", images="val2017"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(told if isinstance(told, str) else json.dumps(told), "utf-8")
        for file in ("a.jpg", "b.jpg"):
            draw(tmp_path / images / file)
        return tmp_path

    return lay


def test_numbers_that_were_text_are_written_as_numbers(put, tmp_path):
    told = document()
    told["annotations"][0] |= {"bbox": ["1,5", "2", "10", "20.25"], "area": "77.5", "note": "x"}
    told["annotations"][2] |= {"bbox": ["0", "0", "3", "3"], "iscrowd": None, "segmentation": None}

    write_dataset(read_dataset(put(told)), tmp_path / "new", format="coco", images="none")

    [written] = (tmp_path / "new/annotations").glob("*.json")
    rows = {row["id"]: row for row in json.loads(written.read_text("utf-8"))["annotations"]}
    assert (rows[8]["bbox"], rows[8]["area"], rows[8]["note"]) == ([1.5, 2, 10, 20.25], 77.5, "x")
    assert (rows[1]["bbox"], rows[1]["iscrowd"], rows[1]["segmentation"]) == ([0, 0, 3, 3], 0, [])


def test_fields_that_another_format_does_not_hold_are_counted(put, tmp_path):
    table = read_dataset(put(document()))

    said = write_dataset(table, tmp_path / "voc", "voc")
    assert "license of 1 image: not kept" in said
    assert "keypoints, supercategory of 2 categories: not kept" in said
    assert "info, licenses of COCO: not kept" in said
    assert write_dataset(table, tmp_path / "coco", "coco") == ()


def test_columns_of_a_file(put):
    table = read_dataset(put(document()))

    assert list(table.files) == ["val2017/b.jpg", "val2017/a.jpg"]
    assert table.image_ids.tolist() == [90, 5]
    assert table.classes == ("köter", "dog")
    assert table.category_ids.tolist() == [7, 44]
    assert table.offsets.tolist() == [0, 1, 3]
    assert table.boxes.tolist() == [[0, 0, 4, 1], [1.5, 2, 11.5, 22.25], [0, 0, 3, 3]]
    assert table.labels.tolist() == [0, 1, 0]
    assert table.flags.tolist() == [Flag.CROWD, 0, Flag.OCCLUDED]
    assert table.areas.tolist() == [4, 77.5, 9]
    assert table.box_ids.tolist() == [3, 8, 1]
    assert table.splits["val"].tolist() == [0, 1]


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_coco_to_coco_loses_nothing(put, tmp_path, ensure_ascii):
    root = put(json.dumps(document(), ensure_ascii=ensure_ascii))

    lost = write_dataset(read_dataset(root), tmp_path / "out", "coco")

    assert lost == ()
    text = (tmp_path / "out/annotations/instances_val.json").read_text("utf-8")
    told, expected = json.loads(text), document()
    assert told["annotations"] == [expected["annotations"][row] for row in (1, 0, 2)]
    for key in ("info", "licenses", "images"):
        assert told[key] == expected[key]
    assert told["categories"] == expected["categories"][::-1]


@pytest.mark.realdata
def test_real_coco_to_coco_loses_nothing(realdata, tmp_path):
    write_dataset(read_dataset(realdata / "coco_tiny_val80"), tmp_path / "out", "coco")

    source = realdata / "coco_tiny_val80/annotations/instances_val2017.json"
    told = json.loads((tmp_path / "out/annotations/instances_val.json").read_text("utf-8"))
    expected = json.loads(source.read_text("utf-8"))
    by_id = {row["id"]: row for row in told["annotations"]}
    assert by_id == {row["id"]: row for row in expected["annotations"]}
    assert [told["images"], told["categories"]] == [expected["images"], expected["categories"]]


def test_what_was_changed_is_written_changed(put, tmp_path):
    from dataclasses import replace

    table = read_dataset(put(document()))
    flags = np.array([0, Flag.DIFFICULT | Flag.IGNORE, 0], np.uint8)
    changed = replace(
        table, boxes=table.boxes + np.array([0, 0, 1, 0]), flags=flags, labels=table.labels[::-1]
    )

    write_dataset(changed, tmp_path / "out", "coco")

    told = json.loads((tmp_path / "out/annotations/instances_val.json").read_text("utf-8"))
    first, second, third = told["annotations"]
    assert (first["bbox"], first["iscrowd"], first["segmentation"]) == ([0, 0, 5, 1], 0, RLE)
    assert (second["bbox"], second["ignore"]) == ([1.5, 2, 11, 20.25], 1)
    assert second["attributes"] == {"difficult": True}
    assert third["attributes"] == {"occluded": False}
    again = read_dataset(tmp_path / "out")
    np.testing.assert_array_equal(again.flags, flags)
    np.testing.assert_array_equal(again.labels, changed.labels)


MARKED = {
    "zero": ({"iscrowd": "0", "ignore": "0"}, 0),
    "false": ({"iscrowd": "false", "ignore": "False"}, 0),
    "attributes": ({"attributes": {"occluded": "False", "truncated": "0", "difficult": []}}, 0),
    "one": ({"iscrowd": "1", "ignore": "true"}, Flag.CROWD | Flag.IGNORE),
    "yes": ({"attributes": {"occluded": "True", "truncated": "1"}}, Flag.OCCLUDED | Flag.TRUNCATED),
    "below zero": ({"iscrowd": -1}, 0),
}


@pytest.mark.parametrize("name", MARKED)
def test_marks_may_be_text(put, name):
    told, flags = MARKED[name]
    box = {"id": 1, "image_id": 5, "category_id": 7, "bbox": [1, 2, 3, 4]}

    table = read_dataset(put(document(annotations=[box | told])))

    assert table.flags.tolist() == [flags]


def test_little_is_enough(put):
    sparse = {
        "categories": [{"id": 0, "name": "cat"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": [1, 2, 3, 4]}],
        "images": [{"id": 0, "file_name": "a.jpg"}],
    }

    table = read_dataset(put(sparse))

    assert table.boxes.tolist() == [[1, 2, 4, 6]]
    assert np.isnan(table.areas).all()
    assert table.sizes.tolist() == [[40, 30]]  # from the image
    assert "coco" not in table.extras


def test_annotation_id_0_and_repeated_ids_are_given_anew(tmp_path, draw):
    draw(tmp_path / "in/a.jpg")
    ids = np.array([0, 4, 4, -2, 9])
    boxes = [[k, 0, k + 1, 1] for k in range(5)]
    labels = [0] * 5
    table = make_table(
        tmp_path / "in", ["a.jpg"], [[40, 30]], [5], boxes, labels, ("c",), box_ids=ids
    )

    write_dataset(table, tmp_path / "out", "coco")

    again = read_dataset(tmp_path / "out")
    assert again.box_ids.tolist() == [10, 4, 11, 12, 9]
    assert again.areas.tolist() == [1] * 5


def test_ids_as_text(put):
    told = json.loads(json.dumps(document()).replace('"image_id": 5', '"image_id": "5"'))
    for row in told["images"]:
        row["id"] = "img-90" if row["id"] == 90 else 5
    told["annotations"][1]["image_id"] = "img-90"

    table = read_dataset(put(told))

    assert table.offsets.tolist() == [0, 1, 3]
    assert table.image_ids.tolist() == [6, 5]


def test_dont_care_is_no_class_and_comes_back(put, tmp_path):
    told = document()
    told["categories"][1]["name"] = "DontCare"

    table = read_dataset(put(told))
    write_dataset(table, tmp_path / "out", "coco")
    again = read_dataset(tmp_path / "out")

    for each in (table, again):
        assert each.classes == ("dog",)
        assert each.labels.tolist() == [ANY_CLASS, 0, ANY_CLASS]
        assert each.flags.tolist() == [Flag.IGNORE, 0, Flag.IGNORE]


def test_a_box_that_is_not_told_is_that_of_its_mask_or_left_to_the_check(put):
    told = document()
    for annotation in told["annotations"]:
        annotation["bbox"] = []
    del told["annotations"][0]["bbox"]

    table = read_dataset(put(told))

    assert table.boxes[:2].tolist() == [[1, 0, 2, 4], [1.5, 2, 11.5, 22.25]]
    assert np.isnan(table.boxes[2]).all()
    assert table.notes == ("2 annotations without box: read as the box around its mask",)


def test_categories_of_the_same_name_are_one_class(put, tmp_path):
    told = document()
    told["categories"].append({"id": 2, "name": "dog"})
    told["annotations"][0]["category_id"] = 2

    table = read_dataset(put(told))
    write_dataset(table, tmp_path / "out", "coco")

    assert (table.classes, table.labels.tolist()) == (("dog", "köter"), [1, 0, 1])
    assert table.category_ids.tolist() == [2, 7]
    assert table.notes == ("categories of the same name are one class: `dog`",)
    assert read_dataset(tmp_path / "out").labels.tolist() == [1, 0, 1]


def test_images_told_by_lviss_address(put):
    told = document()
    for row in told["images"]:
        row["coco_url"] = f"http://images.cocodataset.org/val2017/{row.pop('file_name')}"

    assert list(read_dataset(put(told)).files) == ["val2017/b.jpg", "val2017/a.jpg"]


def test_utf16_is_read(put, tmp_path):
    root = put(document())
    file = root / "annotations/instances_val2017.json"
    file.write_text(json.dumps(document()), "utf-16")

    assert read_dataset(root).classes == ("köter", "dog")


def test_annotations_without_image_or_category_are_counted(put):
    told = document()
    told["annotations"][0]["image_id"] = 1234
    told["annotations"][1]["category_id"] = 1234

    table = read_dataset(put(told))

    assert table.labels.tolist() == [ANY_CLASS, 0]
    assert table.flags.tolist() == [Flag.CROWD, Flag.OCCLUDED]
    assert table.notes == (
        "1 annotation of an image that the file does not list: left out",
        "1 annotation of a category that the file does not define",
    )


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("annotations/train.json", "images"),
        ("train/_annotations.coco.json", "train"),
        ("train.json", "."),
        ("coco_train.json", "JPEGImages"),
        ("annotations/train.json", "pictures/images"),
        ("train/labels.json", "train/data"),
    ],
)
def test_layouts(put, name, images):
    table = read_dataset(put(document(), name, images))

    assert table.path(0).is_file()
    assert list(table.splits) == ["train"]


@pytest.mark.parametrize(
    ("said", "there"),
    [("c.jpg", "C.JPG"), ("c.jpg", "c.png"), ("\u00fc.jpg", "u\u0308.jpg"), ("x/c.jpg", "x/c.JPG")],
)
def test_images_spelled_otherwise_are_found_and_counted(put, draw, tmp_path, said, there):
    draw(tmp_path / "val2017" / there)
    told = document()
    told["images"][0]["file_name"] = said

    table = read_dataset(put(told))

    assert table.path(0).is_file()
    assert "1 name spelled otherwise than the image" in table.notes


def test_several_files_are_splits(put, tmp_path):
    put(document(), "train/_annotations.coco.json", "train")
    other = document(categories=[{"id": 7, "name": "köter"}, {"id": 45, "name": "cat"}])
    other["annotations"] = other["annotations"][1:]

    table = read_dataset(put(other, "valid/_annotations.coco.json", "valid"))

    assert list(table.files) == ["train/b.jpg", "train/a.jpg", "valid/b.jpg", "valid/a.jpg"]
    assert {k: v.tolist() for k, v in table.splits.items()} == {"train": [0, 1], "val": [2, 3]}
    assert (table.classes, table.category_ids.tolist()) == (("köter", "dog", "cat"), [7, 44, 45])
    assert table.image_ids.tolist() == [1, 2, 3, 4]
    assert table.notes == ("ids of images repeat: all get new ids",)
    annotation = table.image_extras["annotation"]
    assert annotation[3] == "valid/_annotations.coco.json"


def test_an_image_in_two_files_is_one_image_in_two_splits(put):
    put(document())
    put(document(images=document()["images"][:1]), "annotations/instances_test2017.json")

    table = read_dataset(put(document(), "annotations/captions_val2017.json"))

    assert {k: sorted(v.tolist()) for k, v in table.splits.items()} == {"test": [0], "val": [0, 1]}
    assert len(table.boxes) == 3


def test_a_split_that_no_file_of_instances_tells_is_read_from_another(put):
    put(document(), "annotations/instances_train2017.json", "train2017")
    put(document(), "annotations/person_keypoints_test2017.json")

    table = read_dataset(put(document(), "annotations/val.json", "val"))

    assert list(table.splits) == ["train", "val"]
    assert table.notes[-1] == (
        "1 file of COCO beside those of the splits: left out: "
        "annotations/person_keypoints_test2017.json"
    )


def test_files_beside_are_named(put, tmp_path):
    put(document())
    (tmp_path / "annotations/captions_val2017.json").write_text('{"images": [], "info": 1}')

    table = read_dataset(put(document(), "val.json"))

    assert table.notes == (
        "1 file of COCO beside those of the splits: left out: val.json",
        "1 file not of COCO: left out: annotations/captions_val2017.json",
    )


def test_a_file_an_image_is_one_dataset(put):
    told = document()
    for image, name in zip(told["images"], "ab", strict=True):
        rows = [row for row in told["annotations"] if row["image_id"] == image["id"]]
        root = put(document(images=[image], annotations=rows), f"Annotations/{name}.json", "Images")

    table = read_dataset(root)

    assert sorted(table.files) == ["Images/a.jpg", "Images/b.jpg"]
    assert (len(table.boxes), dict(table.splits)) == (3, {})


def test_years_tell_splits_apart(put):
    put(document(), "annotations/instances_train2014.json")

    table = read_dataset(put(document(), "annotations/instances_train2017.json"))

    assert list(table.splits) == ["instances_train2014", "instances_train2017"]


def test_several_files_that_name_no_split_are_an_error(put):
    put(document(), "first.json", ".")

    with pytest.raises(
        DataError, match=r"do not say which split each is: first\.json, second\.json"
    ):
        read_dataset(put(document(), "second.json", "."))


def test_one_file_alone_has_no_splits(put):
    root = put(document())

    table = read_dataset(root / "annotations/instances_val2017.json")

    assert table.splits == {}
    assert table.path(0).is_file()


def test_other_json_is_not_coco(put, tmp_path):
    put(document())
    (tmp_path / "annotations/instances_z.json").write_text('{"images": [], "labels": 1}')
    (tmp_path / "annotations/instances_0.json").write_text("")

    assert len(read_dataset(tmp_path)) == 2


@pytest.mark.parametrize("name", ["../../a.jpg", "/etc/a.jpg", r"C:\photos\a.jpg", "x/../../a.jpg"])
def test_file_names_cannot_leave_the_dataset(put, name):
    told = document()
    told["images"][1]["file_name"] = name

    table = read_dataset(put(told))

    assert table.files[1] == "val2017/a.jpg"
    assert table.notes == ("1 name leading out of the dataset: only the end is used",)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_kept_for_the_check(put, value):
    table = read_dataset(put(json.dumps(document()).replace("20.25", value)))

    assert not np.isfinite(table.boxes[1, 3])


def broken(old, new):
    text = json.dumps(document())
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (broken('"id": 5,', '"id": 90,'), "two images have the id 90"),
        (broken('"id": 44,', '"id": 7,'), "two categories have the id 7"),
        (broken('{"id": 44', '3, {"id": 44'), "a category is not an object"),
        (json.dumps(document())[:-2], "is not JSON"),
        (json.dumps(document()) + "x", "is not JSON: there is more text after its end"),
        (broken("2017", "[" * 100_000), "is nested too deep"),
        (broken("2017", "9" * 5000), "too many digits"),
    ],
)
def test_bad_files_are_named(put, text, said):
    with pytest.raises(DataError, match=said) as caught:
        read_dataset(put(text), format="coco")

    assert "instances_val2017.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (broken('"bbox": [1.5,', '"bbox": ["x",'), "annotation 8 whose `bbox` is not four numbers"),
        (broken('"bbox": [1.5, ', '"bbox": ['), "annotation 8 whose `bbox` is not four numbers"),
        (broken('"image_id": 5, ', ""), "annotation 8 has no `image_id`"),
        (broken('"category_id": 44', '"category_id": null'), "annotation 8 has no category"),
        (broken('"category_id": 44', '"category_id": {}'), "whose `category_id` is neither"),
        (broken('"file_name"', '"name"'), "an image has no `file_name`"),
        (broken('"b.jpg"', "3"), "an image whose `file_name` is not text"),
        (broken('"annotations": [', '"annotations": [[], '), "an annotation is not an object"),
    ],
)
def test_an_entry_that_cannot_be_read_is_left_out_and_remarked(put, text, said):
    table = read_dataset(put(text), format="coco")

    (remark,) = table.remarks
    assert remark.code == "row-unreadable"
    assert said in remark.what
    assert remark.where == "annotations/instances_val2017.json:1"
    left = 2 if "image " in said else 3 if "not an object" in said else 2
    assert len(table.boxes) == left


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("segmentation", [[1, 2, 10, 2, 10]], "not polygons, each a list x, y, x, y …"),
        ("segmentation", [[[1, 2], [10, 2], [10, 20]]], "not polygons, each a list x, y, x, y …"),
        ("segmentation", [[]], "not polygons, each a list x, y, x, y …"),
        ("segmentation", 3, "not polygons, each a list x, y, x, y …"),
        ("segmentation", {"size": [4], "counts": [1]}, "not run lengths with their `size`"),
        ("segmentation", {"size": [4, 4], "counts": None}, "not run lengths with their `size`"),
        ("area", "large", "not a number"),
    ],
)
def test_a_mask_or_area_that_makes_no_sense_is_said(put, field, value, said):
    row = {"id": 8, "image_id": 5, "category_id": 7} | {field: value}
    others = document()["annotations"][1:]

    table = read_dataset(put(document(annotations=[row, *others])))

    assert [each.what for each in table.remarks] == [f"annotation 8 whose `{field}` is {said}"]


def test_an_image_of_which_no_annotation_can_be_read_is_left_out(put):
    told = document()
    told["annotations"][1]["bbox"] = "none"

    table = read_dataset(put(told))

    assert (list(table.files), len(table.boxes)) == (["val2017/a.jpg"], 2)
    assert "1 image of which no row can be read, left out: val2017/b.jpg" in table.notes
    assert table.splits["val"].tolist() == [0]


def test_the_line_of_a_bad_entry_is_named(put):
    text = json.dumps(document(), indent=1).replace('"bbox"', '"bbox": 3, "box"', 1)
    line = text[: text.index('"box"')].count("\n")

    (remark,) = read_dataset(put(text), format="coco").remarks

    assert "whose `bbox` is not four numbers" in remark.what
    assert abs(int(remark.where.rpartition(":")[2]) - line) <= 5


LOST = {
    "no category": ({"category_id": None}, "annotation 8 has no category: `category_id` is null"),
    "another category": ({"category_id": 99}, "none of its annotations (3) is of a category"),
    "another image": ({"image_id": 99}, "none of its annotations (3) is of an image that it"),
    "no box": ({"bbox": None, "segmentation": None}, "none of its annotations (3) has a box"),
}


@pytest.mark.parametrize("name", LOST)
def test_annotations_that_are_all_lost_are_an_error(put, name):
    change, said = LOST[name]
    told = document()
    told["annotations"] = [row | change for row in told["annotations"]]

    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_dataset(put(told))

    assert ("VIA" in str(caught.value.hint)) == (name == "no category")


def test_vias_export_without_categories_says_so_though_its_category_is_bad_too(put):
    told = document(categories=[{"id": None, "name": "dog"}])
    told["annotations"] = [row | {"category_id": None} for row in told["annotations"]]

    with pytest.raises(DataError, match="annotation 8 has no category") as caught:
        read_dataset(put(told))

    assert "VIA's own JSON" in caught.value.hint


@pytest.mark.parametrize("name", [None, "", " ", {}, True])
def test_a_category_without_a_name_is_called_by_its_id(put, name):
    told = document()
    told["categories"][0]["name"] = name

    table = read_dataset(put(told))

    assert table.classes == ("köter", "44")
    assert table.notes == ("1 category without a name, called by its id: 44",)


def roboflow(*boxes, root="animals", over="animals"):
    categories = [{"id": 0, "name": root, "supercategory": "none"}]
    categories += [{"id": k, "name": n, "supercategory": over} for k, n in enumerate("ab", 1)]
    rows = [{"id": k, "image_id": 5, "category_id": k, "bbox": [1, 2, 3, 4]} for k in boxes]
    return document(categories=categories, annotations=rows)


def test_roboflows_category_above_the_others_is_no_class(put):
    table = read_dataset(put(roboflow(1, 2)))

    assert (table.classes, table.category_ids.tolist()) == (("a", "b"), [1, 2])
    assert table.labels.tolist() == [0, 1]
    assert table.notes == (
        "category 0, `animals`, is above the others and has no boxes: not a class",
    )


@pytest.mark.parametrize("told", [roboflow(0, 1), roboflow(1, 2, over="things")])
def test_a_category_0_with_boxes_or_above_none_is_a_class(put, told):
    assert read_dataset(put(told)).classes == ("animals", "a", "b")


def in_fractions(*boxes):
    rows = [
        {"id": k, "image_id": 5, "category_id": 7, "bbox": box, "area": 0.25}
        for k, box in enumerate(boxes, 1)
    ]
    return document(annotations=rows)


def test_boxes_that_all_lie_within_0_to_1_are_fractions(put):
    table = read_dataset(put(in_fractions([0.25, 0.5, 0.5, 0.25], [0, 0, 1, 1])))

    assert table.boxes.tolist() == [[10, 15, 30, 22.5], [0, 0, 40, 30]]
    assert np.isnan(table.areas).all()
    assert table.notes == ("boxes lie within 0…1: read as fractions of their images",)


def test_boxes_of_which_some_are_fractions_are_an_error(put):
    with pytest.raises(
        DataError, match=r"annotation 2: its corners 0\.25, 0\.5, .* so do 1 of 2 box"
    ):
        read_dataset(put(in_fractions([10, 10, 20, 20], [0.25, 0.5, 0.5, 0.25])))


def test_few_boxes_of_less_than_a_pixel_are_left_to_the_check(put):
    pixels = [[k, k, 20, 20] for k in range(30)]

    table = read_dataset(put(in_fractions([0, 0, 0.5, 0.5], *pixels)))

    assert table.boxes[0].tolist() == [0, 0, 0.5, 0.5]


def test_one_pixel_in_the_corner_is_no_fraction(put):
    assert read_dataset(put(in_fractions([0, 0, 1, 1]))).boxes.tolist() == [[0, 0, 1, 1]]


def test_a_flat_list_of_corners_is_a_polygon(put):
    told = document()
    told["annotations"][0] |= {"bbox": None, "segmentation": [1, 2, 9, 2, 9, 8]}

    assert read_dataset(put(told)).boxes[1].tolist() == [1, 2, 9, 8]


def test_predictions_are_written_as_results(sample, tmp_path):
    from dataclasses import replace

    from dhcli.data.formats import read_results

    scored = replace(sample, scores=np.array([0.5, 0.25, 1 / 3, 0.75, 1]))
    write_dataset(scored, tmp_path / "out", "coco")

    rows = json.loads((tmp_path / "out/predictions.bbox.json").read_text("utf-8"))
    assert [row["category_id"] for row in rows] == [3, 17, 17, 3]
    assert rows[1] == {
        **{"image_id": 7, "category_id": 17, "bbox": [4, 5, 16.5, 20.25], "score": 0.25}
    }
    again = read_results(tmp_path / "out/predictions.bbox.json", sample)
    np.testing.assert_array_equal(again.boxes, sample.boxes[:4])
    assert again.classes == sample.classes


@pytest.mark.parametrize(("area", "told"), [(np.nan, 0.12), (12.5, 12.5), (1e22, 1e22)])
def test_annotations_are_the_same_whether_they_say_more_or_not(tmp_path, area, told):
    box = [0.1, 0.2, 0.1 + 0.3, 0.2 + 0.4]
    flags = np.array([0, Flag.OCCLUDED], np.uint8)
    table = make_table(
        *(tmp_path, ["a.jpg"], [(9, 9)], [2], [box, box], [0, 0], ["c"]),
        flags=flags,
        areas=np.full(2, area),
    )

    write_dataset(table, tmp_path / "out", "coco", images="none")

    document = json.loads((tmp_path / "out/annotations/instances.json").read_text("utf-8"))
    plain, full = document["annotations"]
    assert plain == {
        **{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0.1, 0.2, 0.3, 0.4], "area": told},
        **{"iscrowd": 0, "segmentation": []},
    }
    assert full == plain | {"id": 2, "attributes": {"occluded": True}}

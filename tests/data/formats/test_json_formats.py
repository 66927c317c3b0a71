"""LabelMe, VIA, Datumaro, Supervisely and CreateML as their own tools write them."""

import base64
import copy
import io
import json
import math
import subprocess
import zlib
from pathlib import Path

import pytest
from PIL import Image

from dhcli.data.formats import read_dataset
from dhcli.data.table import Flag
from dhcli.errors import DataError

LABELME = {
    "version": "5.2.1",
    "flags": {},
    "shapes": [
        {
            "label": "cat",
            "points": [[20.5, 25.25], [4, 5]],
            "group_id": None,
            "description": "",
            "shape_type": "rectangle",
            "flags": {"difficult": True},
        },
        {"label": "dog", "points": [[1, 2], [9, 2], [5, 8]], "shape_type": "polygon", "flags": {}},
        {"label": "ball", "points": [[10, 10], [13, 14]], "shape_type": "circle", "flags": {}},
        {"label": "nose", "points": [[10, 10]], "shape_type": "point", "flags": {}},
    ],
    "imagePath": "..\\images\\a.jpg",
    "imageData": None,
    "imageHeight": 30,
    "imageWidth": 40,
}


def test_labelme_shapes_become_boxes_and_are_counted(lay):
    root = lay({"labels/a.json": json.dumps(LABELME, indent=2)}, "images/a.jpg", "images/b.jpg")

    table = read_dataset(root)

    assert table.format == "labelme"
    assert list(table.files) == ["images/a.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20.5, 25.25], [1, 2, 9, 8], [5, 5, 15, 15]]
    assert [table.classes[label] for label in table.labels] == ["cat", "dog", "ball"]
    assert table.flags.tolist() == [Flag.DIFFICULT, 0, 0]
    assert table.notes == (
        "1 shape `polygon`: read as the box around",
        "1 shape `circle`: read as the box around",
        "1 point or line: left out",
    )


def shape(label, x, group, **more):
    points = [[x, 10], [x + 10, 10], [x + 10, 20]]
    return {"label": label, "points": points, "group_id": group, "shape_type": "polygon", **more}


def test_shapes_of_one_label_and_group_are_one_object(lay):
    shapes = [shape("cat", 0, 0), shape("cat", 20, 0, flags={"occluded": True}), shape("cat", 5, 1)]
    shapes += [shape("dog", 0, 0), shape("cat", 30, None), shape("cat", 31, None)]
    told = {"imagePath": "a.jpg", "imageData": None, "shapes": shapes}
    other = told | {"imagePath": "b.jpg", "shapes": shapes[:1]}

    table = read_dataset(
        lay({"a.json": json.dumps(told), "b.json": json.dumps(other)}, "a.jpg", "b.jpg")
    )

    assert table.offsets.tolist() == [0, 5, 6]
    assert table.boxes[0].tolist() == [0, 10, 30, 20]
    assert table.boxes[1:, 0].tolist() == [5, 0, 30, 31, 0]
    assert table.flags.tolist() == [Flag.OCCLUDED, 0, 0, 0, 0, 0]
    assert "1 object of several parts, of one class and group: one box around all" in table.notes


def test_marks_of_x_anylabeling(lay):
    shapes = [shape("cat", 0, None, difficult=True, score=None, attributes={"occluded": "true"})]
    told = {"imagePath": "a.jpg", "imageData": None, "shapes": shapes}

    table = read_dataset(lay({"a.json": json.dumps(told)}, "a.jpg"))

    assert table.flags.tolist() == [Flag.DIFFICULT | Flag.OCCLUDED]


def test_labelme_image_with_a_file_of_its_own_is_not_that_of_another_file(lay):
    small = LABELME | {"shapes": [], "imagePath": "gone.jpg"}
    late = LABELME | {"imagePath": "1.jpg"}  # as 2.jpg was called before it was renamed
    files = {"1.json": json.dumps(small), "2.json": json.dumps(late)}

    table = read_dataset(lay(files, "1.jpg", "2.jpg"))

    assert (list(table.files), table.offsets.tolist()) == (["1.jpg", "2.jpg"], [0, 0, 3])
    assert any("read for the image of its name: 2.json" in note for note in table.notes)


@pytest.mark.parametrize(("first", "second"), [("a.json", "a copy.json"), ("y.json", "z.json")])
def test_labelme_second_file_of_an_image_is_left_out_and_named(lay, unreadable, first, second):
    text = json.dumps(LABELME | {"imagePath": "a.jpg"})

    table = read_dataset(lay({first: text, second: text}, "a.jpg"))

    assert list(table.files) == ["a.jpg"]
    assert unreadable(table) == [f"{second}: is of the image a.jpg, as {first} is"]


def test_labelme_finds_the_image_beside_the_file_where_the_path_is_gone(lay):
    told = LABELME | {"imagePath": "C:\\Users\\me\\a.jpg", "imageData": "aGVsbG8="}
    files = {"a.json": json.dumps(told), "b.json": json.dumps(told | {"imagePath": "b.png"})}

    table = read_dataset(lay(files, "a.jpg", "b.jpg", "c.jpg"))

    assert list(table.files) == ["a.jpg", "b.jpg"]
    assert "1 image without annotation file: left out: c.jpg" in table.notes


VIA = {
    "a.jpg1048": {
        "filename": "a.jpg",
        "size": 1048,
        "regions": [
            {
                "shape_attributes": {"name": "rect", "x": 3, "y": 4, "width": 10, "height": 5},
                "region_attributes": {"quality": {"good": True}, "type": "cat"},
            },
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": [1, 9, 5],
                    "all_points_y": [2, 2, 8],
                },
                "region_attributes": {"type": {"dog": True}, "occluded": "1"},
            },
            {
                "shape_attributes": {"name": "ellipse", "cx": 20, "cy": 10, "rx": 6, "ry": 2},
                "region_attributes": {"type": "cat"},
            },
            {"shape_attributes": {"name": "point", "cx": 2, "cy": 2}, "region_attributes": {}},
        ],
        "file_attributes": {},
    },
    "b.jpg99": {
        "filename": "b.jpg",
        "size": 99,
        "regions": {
            "0": {
                "shape_attributes": {"name": "circle", "cx": 9, "cy": 8, "r": 2},
                "region_attributes": {},
            }
        },
        "file_attributes": {},
    },
}
PROJECT = {
    "_via_settings": {"ui": {}, "core": {}, "project": {"name": "via_project"}},
    "_via_img_metadata": VIA,
    "_via_attributes": {
        "region": {"type": {"type": "dropdown", "options": {"dog": "", "cat": "", "owl": ""}}},
        "file": {},
    },
}


@pytest.mark.parametrize(
    ("told", "classes"),
    [(VIA, ("cat", "dog", "object")), (PROJECT, ("dog", "cat", "owl", "object"))],
)
def test_via_annotations_and_projects(lay, told, classes):
    table = read_dataset(lay({"via_region_data.json": json.dumps(told)}, "a.jpg", "b.jpg"))

    assert table.format == "via"
    assert table.classes == classes
    assert [table.classes[k] for k in table.labels] == ["cat", "dog", "cat", "object"]
    assert table.boxes.tolist() == [[3, 4, 13, 9], [1, 2, 9, 8], [14, 8, 26, 12], [7, 6, 11, 10]]
    assert table.flags.tolist() == [0, Flag.OCCLUDED, 0, 0]
    assert "1 shape `point`: left out" in table.notes
    assert "1 region of no class: called `object`" in table.notes
    assert not any("attributes" in note for note in table.notes)


def test_via_says_which_of_several_attributes_is_taken_for_the_class(lay):
    shape = {"name": "rect", "x": 3, "y": 4, "width": 10, "height": 5}
    several = {"colour": "red", "animal": "cat", "occluded": "1"}
    told = [{"shape_attributes": shape, "region_attributes": a} for a in (several, {"animal": "x"})]
    text = json.dumps({"a.jpg9": {"filename": "a.jpg", "regions": told}})

    table = read_dataset(lay({"via.json": text}, "a.jpg"))

    note = "1 region with attributes `colour`, `animal`: `colour` is taken for the class"
    assert (table.classes, table.notes) == (("red", "x"), (note,))


def via3(key, xy, view="1", **values):
    return {f"{view}_{key}": {"vid": view, "flg": 0, "z": [], "xy": xy, "av": values}}


VIA3 = {
    "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1"]},
    "config": {"file": {"loc_prefix": {"1": "", "3": ""}}, "ui": {}},
    "attribute": {
        "1": {"aname": "colour", "anchor_id": "FILE1_Z0_XY1", "type": 1, "options": {}},
        "2": {
            **{"aname": "class", "anchor_id": "FILE1_Z0_XY1", "type": 4},
            "options": {"7": "dog", "8": "cat"},
        },
        "3": {"aname": "occluded", "type": 2, "options": {"1": "yes"}},
    },
    "file": {
        "1": {"fid": 1, "fname": "a.jpg", "type": 2, "loc": 1, "src": ""},
        "2": {"fid": 2, "fname": "bee", "type": 2, "loc": 3, "src": "/home/me/pictures/b.jpg"},
        "3": {"fid": 3, "fname": "c.mp4", "type": 4, "loc": 1, "src": "c.mp4"},
    },
    "metadata": {
        **via3("a", [2, 3, 4, 10, 5], **{"1": "red", "2": "8"}),
        **via3("b", [7, 1, 2, 9, 2, 5, 8], **{"2": "7", "3": "1"}),
        **via3("c", [8, 1, 5, 6, 2, 9, 5, 6, 8], view="2", **{"2": "cat"}),
        **via3("d", [4, 20, 10, 6, 2], view="2"),
        **via3("e", [1, 5, 5], **{"2": "7"}),
        **via3("f", [], **{"1": "the image as a whole"}),
        **via3("g", [2, 1, 1, 5, 5], view="3", **{"2": "7"}),
    },
    "view": {str(number): {"fid_list": [number]} for number in (1, 2, 3)},
}


def test_via_projects_of_version_3(lay):
    table = read_dataset(lay({"via.json": json.dumps(VIA3)}, "a.jpg", "pictures/b.jpg"))

    assert table.format == "via"
    assert list(table.files) == ["a.jpg", "pictures/b.jpg"]
    assert table.boxes.tolist() == [[3, 4, 13, 9], [1, 2, 9, 8], [1, 2, 9, 8], [14, 8, 26, 12]]
    assert table.classes == ("dog", "cat", "object")
    assert [table.classes[k] for k in table.labels] == ["cat", "dog", "cat", "object"]
    assert table.flags.tolist() == [0, Flag.OCCLUDED, 0, 0]
    assert "1 shape `point`: left out" in table.notes
    assert "1 region of a video or of several images: left out" in table.notes


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("view", {"1": {}}, "a project of VIA 3 that has no `fid_list`"),
        ("file", {}, "a project of VIA 3 that has no `1`"),
        (
            "metadata",
            via3("a", [2, 3, 4]),
            r"via.json:\d+: a region has a value that cannot be used",
        ),
        ("metadata", {"a": {"xy": [2, 3, 4, 5, 6]}}, r"via.json:\d+: a region has no `vid`"),
    ],
)
def test_via_projects_that_cannot_be_read_say_why(lay, part, value, said):
    told = json.dumps(VIA3 | {part: value, "fname": ""}, indent=1)

    with pytest.raises(DataError, match=said):
        read_dataset(lay({"via.json": told}, "a.jpg"))


def test_via_rows_of_csv(lay, tmp_path):
    rows = []
    for image in VIA.values():
        regions = image["regions"]
        for region in regions.values() if isinstance(regions, dict) else regions:
            parts = (json.dumps(region[key]) for key in ("shape_attributes", "region_attributes"))
            quoted = ",".join('"{}"'.format(part.replace('"', '""')) for part in parts)
            rows.append(f'{image["filename"]},99,"{{}}",4,0,{quoted}\n')
    head = "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes"
    text = f"{head},region_attributes\n{''.join(rows)}c.jpg,9,{{}},0,0,{{}},{{}}\n"

    table = read_dataset(lay({"via_export_csv.csv": text}, "a.jpg", "b.jpg", "c.jpg"))

    assert table.format == "via"
    assert list(table.files) == ["a.jpg", "b.jpg", "c.jpg"]
    assert [table.classes[k] for k in table.labels] == ["cat", "dog", "cat", "object"]
    assert table.boxes[0].tolist() == [3, 4, 13, 9]
    (remark,) = read_dataset(lay({"via_export_csv.csv": text.replace("0,0,{}", "0,0,{")})).remarks
    assert remark.where == "via_export_csv.csv:7"
    assert "a region has a value that cannot be used" in remark.what


DATUMARO = {
    "info": {},
    "items": [
        {
            "id": "a",
            "annotations": [
                {
                    "id": 0,
                    "type": "bbox",
                    "attributes": {"occluded": True, "track_id": 7},
                    "group": 0,
                    "label_id": 1,
                    "z_order": 0,
                    "bbox": [4.0, 5.0, 16.5, 20.25],
                },
                {"id": 1, "type": "polygon", "label_id": 0, "points": [1.0, 2.0, 9, 2, 5, 8]},
                {"id": 2, "type": "label", "label_id": 0, "attributes": {}},
            ],
            "image": {"path": "a.jpg", "size": [30, 40]},
        },
        {"id": "b", "annotations": [], "attr": {"frame": 0}, "media": {"path": ""}},
    ],
    "categories": {"label": {"labels": [{"name": "cat", "parent": ""}, {"name": "dog"}]}},
}


def test_datumaro_items_by_number_of_label(lay):
    files = {"annotations/train.json": json.dumps(DATUMARO)}

    table = read_dataset(lay(files, "images/train/a.jpg", "images/train/b.jpg"))

    assert table.format == "datumaro"
    assert list(table.files) == ["images/train/a.jpg", "images/train/b.jpg"]
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [1, 0]
    assert table.boxes.tolist() == [[4, 5, 20.5, 25.25], [1, 2, 9, 8]]
    assert table.extras["track"].tolist() == [7, -1]
    assert table.splits["train"].tolist() == [0, 1]
    assert "1 annotation `label`: left out" in table.notes


def test_datumaro_annotations_of_one_group_are_one_object(lay):
    parts = [
        {"type": "bbox", "label_id": 0, "group": 3, "bbox": [x, 2, 5, 5], "attributes": {}}
        for x in (1, 20)
    ]
    told = DATUMARO | {"items": [{"id": "a", "annotations": parts, "image": {"path": "a.jpg"}}]}

    table = read_dataset(lay({"annotations/train.json": json.dumps(told)}, "images/train/a.jpg"))

    assert table.boxes.tolist() == [[1, 2, 25, 7]]


def bitmap(width, height):
    """A bitmap as Supervisely packs it."""
    file = io.BytesIO()
    Image.new("1", (width, height), 1).save(file, "PNG")
    return base64.b64encode(zlib.compress(file.getvalue())).decode()


SUPERVISELY = {
    "description": "",
    "tags": [{"name": "val", "value": None}],
    "size": {"height": 30, "width": 40},
    "objects": [
        {
            "id": 497521358,
            "geometryType": "rectangle",
            "classTitle": "bike",
            "tags": [{"name": "occluded", "value": None}],
            "points": {"exterior": [[0, 0], [39, 29]], "interior": []},
        },
        {
            "geometryType": "bitmap",
            "classTitle": "person",
            "tags": [],
            "bitmap": {"data": bitmap(6, 4), "origin": [3, 5]},
        },
        {"geometryType": "point", "classTitle": "person", "points": {"exterior": [[1, 1]]}},
    ],
}


def test_supervisely_counts_pixels_included(lay):
    meta = {"classes": [{"title": "person", "shape": "bitmap"}, {"title": "bike"}], "tags": []}
    files = {"meta.json": json.dumps(meta), "ds0/ann/a.jpg.json": json.dumps(SUPERVISELY)}

    table = read_dataset(lay(files, "ds0/img/a.jpg"))

    assert table.format == "supervisely"
    assert list(table.files) == ["ds0/img/a.jpg"]
    assert table.classes == ("person", "bike")
    assert table.boxes.tolist() == [[0, 0, 40, 30], [3, 5, 9, 9]]
    assert table.flags.tolist() == [Flag.OCCLUDED, 0]
    assert table.splits["val"].tolist() == [0]
    assert "1 figure `point`: left out" in table.notes


def test_supervisely_files_called_without_the_suffix_of_the_image(lay):
    files = {"meta.json": '{"classes": []}', "ds0/ann/a.json": json.dumps(SUPERVISELY)}

    assert list(read_dataset(lay(files, "ds0/img/a.PNG")).files) == ["ds0/img/a.PNG"]


CREATEML = [
    {
        "image": "a.jpg",
        "annotations": [
            {"label": "cat", "coordinates": {"x": 12.5, "y": 15.1, "width": 17, "height": 20.2}}
        ],
    },
    {"image": "b.jpg", "annotations": []},
]


@pytest.mark.parametrize("old", [False, True])
def test_createml_centres_and_older_names(lay, old):
    text = json.dumps(CREATEML)
    text = (
        text.replace('image"', 'imagefilename"').replace("annotations", "annotation")
        if old
        else text
    )

    table = read_dataset(
        lay({"train/_annotations.createml.json": text}, "train/a.jpg", "train/b.jpg")
    )

    assert table.format == "createml"
    assert list(table.files) == ["train/a.jpg", "train/b.jpg"]
    assert table.boxes.tolist() == [[4, 5, 21, 25.2]]
    assert table.splits["train"].tolist() == [0, 1]


BAD = {
    "labelme": ("a.json", LABELME, '"points": [[1,', '"points": [["x",', "a shape has a value"),
    "via": ("via.json", VIA, '"width": 10', '"width": "wide"', "a region has a value"),
    "datumaro": ("annotations/a.json", DATUMARO, '"label_id": 1', '"label_id": 9', "label_id 9"),
    "supervisely": ("d/ann/a.jpg.json", SUPERVISELY, "eJ", "!!", "a bitmap"),
    "createml": ("a.json", CREATEML, '"x": 12.5', '"z": 12.5', "an annotation has no `x`"),
}


@pytest.mark.parametrize("format", BAD)
def test_what_is_wrong_is_said_with_its_line(lay, format):
    file, told, good, bad, said = BAD[format]
    text = json.dumps(told)
    assert good in text
    root = lay({file: "\n\n" + text.replace(good, bad, 1)}, "a.jpg")

    if format == "createml":  # which has this box alone
        with pytest.raises(DataError, match=said) as caught:
            read_dataset(root, format=format)
        where = str(Path(caught.value.where).relative_to(root))
    else:
        (remark,) = read_dataset(root, format=format).remarks
        where = remark.where
        assert said in remark.what

    assert where == f"{file}:3"


def test_an_image_of_which_no_entry_can_be_read_is_left_out(lay):
    bad = copy.deepcopy(CREATEML[0]) | {"image": "c.jpg"}
    del bad["annotations"][0]["coordinates"]

    table = read_dataset(lay({"a.json": json.dumps([*CREATEML, bad])}, "a.jpg", "b.jpg", "c.jpg"))

    assert list(table.files) == ["a.jpg", "b.jpg"]
    assert table.remarks[0].what == "an annotation has no `coordinates`"


@pytest.mark.parametrize("format", ["labelme", "supervisely"])
def test_a_file_that_cannot_be_read_is_left_out_with_its_image(lay, format):
    file, told, *_ = BAD[format]
    text = json.dumps(told | {"imagePath": ""})
    other = file.replace("a.", "b.")
    images = file.replace("/ann/", "/img/").replace("a.jpg.json", "a.jpg").replace(".json", ".jpg")

    table = read_dataset(
        lay({file: text, other: text[:-9]}, images, images.replace("a.", "b.")), format=format
    )

    assert list(table.files) == [images]
    assert [(remark.code, remark.where) for remark in table.remarks] == [
        ("row-unreadable", f"{other}:1")
    ]
    assert len(table.boxes) == (3 if format == "labelme" else 2)


def test_json_without_shapes_beside_labelmes_is_left_out_and_named(lay):
    files = {"a.json": json.dumps(LABELME), "classes.json": '{"classes": ["cat"]}'}

    table = read_dataset(lay(files, "a.jpg"))

    assert list(table.files) == ["a.jpg"]
    assert "1 file without `shapes`, not of LabelMe: left out: classes.json" in table.notes


def png():
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_images_inside_labelmes_files_alone_are_an_error_whose_command_helps(lay):
    told = LABELME | {"imagePath": "C:\\x\\a.png", "imageData": png()}
    root = lay({"a.json": json.dumps(told), "b.json": json.dumps(told)})

    with pytest.raises(DataError, match="images inside the JSON files alone") as caught:
        read_dataset(root)
    command = caught.value.hint.removeprefix("put them beside: ")
    subprocess.run(command, shell=True, check=True)

    assert list(read_dataset(root).files) == ["a.png", "b.png"]


def test_an_image_inside_one_file_alone_is_named(lay):
    inside = LABELME | {"imagePath": "b.png", "imageData": png()}
    files = {"a.json": json.dumps(LABELME), "b.json": json.dumps(inside)}

    notes = read_dataset(lay(files, "a.jpg")).notes

    what = "1 image inside its JSON file alone (`imageData`), to be put beside it: b.json"
    assert what in notes


@pytest.mark.parametrize("format", BAD)
@pytest.mark.parametrize(
    "inner", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000, "9" * 5000]
)
def test_depth_and_length_are_errors_for_people(lay, format, inner):
    file, told, *_ = BAD[format]
    text = json.dumps(told)
    bracket = text.rindex("]" if text[0] == "[" else "}")
    extra = inner if text[0] == "[" else f'"deep": {inner}'

    with pytest.raises(DataError, match=r"too deep|too many digits"):
        read_dataset(lay({file: f"{text[:bracket]}, {extra}{text[bracket:]}"}), format=format)


def with_each_part_replaced(told, value):
    """`told` with one of its parts, each in turn, replaced by `value`."""
    keys = told if isinstance(told, dict) else range(len(told)) if isinstance(told, list) else ()
    for key in keys:
        for part in (value, *with_each_part_replaced(told[key], value)):
            whole = copy.copy(told)
            whole[key] = part
            yield whole


ANYTHING = [None, [[1]], {}, "\ud800", 1e308, math.nan]


@pytest.mark.parametrize("format", BAD)
@pytest.mark.filterwarnings("error")
def test_any_part_may_be_anything(lay, tmp_path, format):
    file, told, *_ = BAD[format]
    lay({file: ""}, "a.jpg")
    refused = read = 0

    for value in ANYTHING:
        for odd in with_each_part_replaced(told, value):
            (tmp_path / file).write_text(json.dumps(odd))
            try:
                table = read_dataset(tmp_path, format=format)
            except DataError:
                refused += 1
            else:
                refused += bool(table.remarks)
                read += 1
                assert all(table.path(i).is_relative_to(tmp_path) for i in range(len(table)))

    assert refused > 10
    assert read > 10

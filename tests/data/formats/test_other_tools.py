"""MakeSense, keras-yolo3, Hugging Face, CrowdHuman, BDD100K, LabelMe's web tool, Ground Truth."""

import json
import re

import pytest

from dhcli.data.formats import read_dataset
from dhcli.data.table import ANY_CLASS, Flag
from dhcli.errors import DataError


def names_of(table):
    return [None if k == ANY_CLASS else table.classes[k] for k in table.labels]


def lines_of(*rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


MAKESENSE = "cat,4,5,16,20,a.jpg,40,30\nhot dog,0,0,40,30,a.jpg,40,30\ncat,1,2,2,2,b.jpg,40,30\n"


def test_makesense(lay):
    table = read_dataset(lay({"labels_my-project.csv": MAKESENSE}, "images/a.jpg", "images/b.jpg"))

    assert table.format == "makesense"
    assert list(table.files) == ["images/a.jpg", "images/b.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20, 25], [0, 0, 40, 30], [1, 2, 3, 4]]
    assert names_of(table) == ["cat", "hot dog", "cat"]
    assert table.sizes.tolist() == [[40, 30], [40, 30]]


KERAS = "a one.jpg 4,5,20,25,1 0,0,40,30,0\nb.jpg 1,2,3.5,4,12 0,0,1,1,7\nc.jpg\n"


def test_keras_yolo(lay):
    files = {"train/_annotations.txt": KERAS, "train/_classes.txt": "cat\nhot dog\nowl\n"}

    table = read_dataset(lay(files, *(f"train/{name}.jpg" for name in ("a one", "b", "c"))))

    assert table.format == "keras-yolo"
    assert list(table.files) == ["train/a one.jpg", "train/b.jpg", "train/c.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20, 25], [0, 0, 40, 30], [1, 2, 3.5, 4], [0, 0, 1, 1]]
    assert names_of(table) == ["hot dog", "cat", "12", "7"]
    assert table.classes == ("cat", "hot dog", "owl", "7", "12")
    assert table.notes == ("2 boxes of a class without a name: called by its number",)
    assert list(table.splits) == ["train"]


def test_keras_yolo_lists_with_whole_paths(lay):
    files = {
        "train.txt": "/home/me/pics/a.jpg 4,5,20,25,1\n",
        "val.txt": "/home/me/pics/b.jpg 4,5,20,25,0\n",
        "model_data/my_classes.txt": "cat\ndog\n",
    }

    table = read_dataset(lay(files, "images/a.jpg", "images/b.jpg"))

    assert (table.format, table.classes) == ("keras-yolo", ("cat", "dog"))
    assert list(table.files) == ["images/a.jpg", "images/b.jpg"]
    assert {name: images.tolist() for name, images in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }


def hf(name, **objects):
    return {"file_name": name, "objects": objects}


CARD = """---
dataset_info:
  features:
  - name: objects
    sequence:
    - name: categories
      dtype:
        class_label:
          names:
            '0': dog
            '1': hot cat
---
# Card
"""


@pytest.mark.parametrize("key", ["categories", "category", "label"])
def test_imagefolder_with_numbers_of_classes(lay, key):
    rows = [
        hf("a.jpg", id=[7], bbox=[[4, 5, 16, 20]], **{key: [1]}),
        hf("b.jpg", bbox=[], **{key: []}),
    ]
    files = {"data/train/metadata.jsonl": lines_of(*rows), "data/README.md": CARD}

    table = read_dataset(lay(files, "data/train/a.jpg", "data/train/b.jpg"))

    assert table.format == "imagefolder"
    assert [file.rpartition("/")[2] for file in table.files] == ["a.jpg", "b.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20, 25]]
    assert names_of(table) == ["hot cat"]
    assert table.classes == ("dog", "hot cat")
    assert list(table.splits) == ["train"]


HEAD = "---\ndataset_info:\n  class_label:\n    names:\n"
ROW = hf("a.jpg", bbox=[[4, 5, 16, 20]], categories=[1])


def test_imagefolder_with_names_as_yaml_may_write_them(lay):
    for names in ('["a: b", no]', '{"0": "a: b", "1": no}'):
        card = f"---\nnames: {{en: Animals}}\nclass_label: {{names: {names}}}\n---\n"

        table = read_dataset(lay({"metadata.jsonl": lines_of(ROW), "README.md": card}, "a.jpg"))

        assert table.classes == ("a: b", "no")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("      0: cat\n      1: [dog]\n", "class 1 is not text"),
        ("      0: &a cat\n      1: *a\n", "is not YAML: line 6: aliases"),
        (f"      0: {'[' * 500}\n", "is not YAML: nested too deep"),
    ],
)
def test_imagefolder_with_names_that_are_none(lay, names, said):
    root = lay({"metadata.jsonl": lines_of(ROW), "README.md": f"{HEAD}{names}---\n"}, "a.jpg")

    with pytest.raises(DataError, match=said) as caught:
        read_dataset(root)

    assert caught.value.where.endswith("README.md")


def test_imagefolder_without_names_of_classes_and_with_objects_one_by_one(lay):
    rows = [
        hf("train/a.jpg", bbox=[[4, 5, 16, 20], [0, 0, 1, 1]], categories=[12, 3], iscrowd=[0, 1]),
        {"file_name": "test/b.jpg", "objects": [{"bbox": [1, 2, 3, 4], "category": "cat"}]},
    ]

    table = read_dataset(lay({"metadata.jsonl": lines_of(*rows)}, "train/a.jpg", "test/b.jpg"))

    assert names_of(table) == ["12", "3", "cat"]
    assert table.classes == ("3", "12", "cat")
    assert table.flags.tolist() == [0, Flag.CROWD, 0]
    assert "2 boxes of a class without a name: called by its number" in table.notes
    assert {name: images.tolist() for name, images in table.splits.items()} == {
        "train": [0],
        "test": [1],
    }


def test_imagefolder_without_a_column_around(lay):
    row = {"file_name": "data/train/a.jpg", "bbox": [[4, 5, 16, 20]], "label": ["cat"]}

    table = read_dataset(lay({"metadata.jsonl": lines_of(row)}, "data/train/a.jpg"))

    assert (table.format, names_of(table)) == ("imagefolder", ["cat"])
    assert list(table.splits) == ["train"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"file_name": "b.jpg", "obejcts": {}}, "has no `objects`"),
        (hf("b.jpg", boxes=[[1, 2, 3, 4]]), "has no `bbox`"),
        (
            hf("b.jpg", bbox=[1, 2, 3, 4]),
            "has a value that cannot be used: `bbox` is one box, not a list of boxes",
        ),
    ],
)
def test_imagefolder_rows_that_do_not_tell_of_boxes_are_no_background(lay, unreadable, row, said):
    empty = hf("c.jpg")

    table = read_dataset(lay({"metadata.jsonl": lines_of(ROW, row, empty)}, "a.jpg", "c.jpg"))

    assert list(table.files) == ["a.jpg", "c.jpg"]
    assert unreadable(table) == [f"metadata.jsonl:2: an image {said}"]


def test_imagefolder_as_csv(lay):
    told = json.dumps({"bbox": [[4, 5, 16, 20]], "categories": ["cat"]}).replace('"', '""')
    files = {"metadata.csv": f'file_name,objects\na.jpg,"{told}"\nb.jpg,\n'}

    table = read_dataset(lay(files, "a.jpg", "b.jpg"))

    assert table.format == "imagefolder"
    assert list(table.files) == ["a.jpg", "b.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20, 25]]


CROWD = {
    "ID": "273271,c9db000d5146c15",
    "gtboxes": [
        {
            **{"fbox": [4, 5, 16, 20], "vbox": [4, 5, 16, 10], "hbox": [8, 5, 4, 4]},
            **{"tag": "person", "extra": {"box_id": 0, "occ": 1}, "head_attr": {"ignore": 0}},
        },
        {"tag": "mask", "fbox": [0, 0, 40, 30], "extra": {"box_id": 1, "ignore": 1}},
        {"tag": "person", "fbox": [1, 1, 2, 2], "extra": {"box_id": 2, "ignore": 1}},
        {"tag": "person", "hbox": [8, 5, 4, 4], "extra": {}},
    ],
}


def test_crowdhuman(lay):
    files = {"annotation_train.odgt": lines_of(CROWD), "annotation_val.odgt": lines_of()}

    table = read_dataset(lay(files, "Images/273271,c9db000d5146c15.jpg"))

    assert table.format == "crowdhuman"
    assert list(table.files) == ["Images/273271,c9db000d5146c15.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20, 25], [0, 0, 40, 30], [1, 1, 3, 3], [8, 5, 12, 9]]
    assert names_of(table) == ["person", None, "person", "person"]
    assert table.flags.tolist() == [Flag.OCCLUDED, Flag.IGNORE, Flag.IGNORE, 0]
    assert table.notes == (
        "2 boxes of the visible part or the head: not kept",
        "1 mask: a region to ignore, of no class",
    )


def frame(name, **more):
    label = {
        **{"id": "1", "category": "car", "manualShape": True},
        "attributes": {"occluded": True, "truncated": False, "trafficLightColor": "none"},
        "box2d": {"x1": 4, "y1": 5.5, "x2": 20, "y2": 25},
    }
    lane = {"category": "lane", "poly2d": [{"vertices": [[1, 2], [3, 4]], "types": "LL"}]}
    return {"name": name, "attributes": {"weather": "clear"}, "labels": [label, lane]} | more


def test_bdd100k_as_it_is_published(lay):
    train = [frame("a.jpg"), {"name": "b.jpg", "labels": None}]
    files = {
        "bdd100k/labels/det_20/det_train.json": json.dumps(train),
        "bdd100k/labels/det_20/det_val.json": json.dumps([frame("c.jpg")]),
    }
    places = [f"images/100k/{name}" for name in ("train/a.jpg", "train/b.jpg", "val/c.jpg")]

    table = read_dataset(lay(files, *(f"bdd100k/{place}" for place in places)))

    assert table.format == "scalabel"
    assert list(table.files) == places
    assert table.boxes.tolist() == [[4, 5.5, 20, 25]] * 2
    assert names_of(table) == ["car"] * 2
    assert table.flags.tolist() == [Flag.OCCLUDED] * 2
    assert "1 label without box2d: left out" in table.notes
    assert {name: len(images) for name, images in table.splits.items()} == {"train": 2, "val": 1}
    alone = read_dataset(table.root / "labels/det_20/det_val.json")
    assert list(alone.files) == places[2:]


def test_scalabel_with_a_config_and_videos(lay):
    vehicles = {"name": "vehicle", "subcategories": [{"name": "van"}, {"name": "car"}]}
    told = {
        "frames": [frame("a.jpg", videoName="drive"), frame("a.jpg", videoName="walk")],
        "config": {"categories": [vehicles, {"name": "person"}]},
    }

    table = read_dataset(lay({"labels.json": json.dumps(told)}, "drive/a.jpg", "walk/a.jpg"))

    assert list(table.files) == ["drive/a.jpg", "walk/a.jpg"]
    assert table.classes == ("van", "car", "person")


LABELME_WEB = """<annotation><filename>a.jpg</filename><folder>sub</folder>
<source><sourceImage>x</sourceImage><sourceAnnotation>LabelMe Webtool</sourceAnnotation></source>
<object><name>window</name><deleted>0</deleted><verified>0</verified><occluded>yes</occluded>
<attributes>Difficult, red</attributes><parts><hasparts>1</hasparts><ispartof/></parts><id>0</id>
<polygon><username>me</username><pt><x>3</x><y>4</y></pt><pt><x>20</x><y>4</y></pt>
<pt><x>11</x><y>27</y></pt></polygon></object>
<object><name>gone</name><deleted>1</deleted><polygon><pt><x>3</x><y>4</y></pt></polygon></object>
<object><name>scribble</name><deleted>0</deleted><segm><box><xmin>1</xmin></box></segm></object>
<imagesize><nrows>30</nrows><ncols>40</ncols></imagesize></annotation>
"""


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("Annotations/users/me/a.xml", "Images/users/me/a.jpg"),
        ("Annotations/a.xml", "Images/a.jpg"),
        ("a.xml", "a.jpg"),
    ],
)
def test_labelme_web(lay, xml, image):
    table = read_dataset(lay({xml: LABELME_WEB}, image))

    assert table.format == "labelme-web"
    assert list(table.files) == [image]
    assert table.sizes.tolist() == [[40, 30]]
    assert table.boxes.tolist() == [[3, 4, 20, 27]]
    assert names_of(table) == ["window"]
    assert table.flags.tolist() == [Flag.OCCLUDED | Flag.DIFFICULT]
    assert table.extras["line"].tolist() == [3]
    assert table.notes == ("1 deleted object: left out", "1 object without polygon: left out")


def test_labelme_web_one_file(lay):
    root = lay({"Annotations/a.xml": LABELME_WEB}, "Images/a.jpg")

    table = read_dataset(root / "Annotations/a.xml")

    assert (table.format, list(table.files)) == ("labelme-web", ["Images/a.jpg"])


MANIFEST = {
    "source-ref": "s3://bucket/photos/a.jpg",
    "job": {
        "image_size": [{"width": 40, "height": 30, "depth": 3}],
        "annotations": [
            {"class_id": 1, "left": 4, "top": 5, "width": 16, "height": 20},
            {"class_id": 10, "left": 0, "top": 0, "width": 1, "height": 1},
        ],
    },
    "job-metadata": {
        "objects": [{"confidence": 0.09}, {"confidence": 0}],
        "class-map": {"10": "zebra", "1": "dog", "0": "cat"},
        "type": "groundtruth/object-detection",
    },
}


def test_ground_truth(lay):
    other = MANIFEST | {"source-ref": "s3://bucket/photos/b.jpg", "review": 1, "job": "failed"}

    table = read_dataset(lay({"output.manifest": lines_of(MANIFEST, other)}, "a.jpg", "b.jpg"))

    assert table.format == "ground-truth"
    assert list(table.files) == ["a.jpg"]
    assert table.boxes.tolist() == [[4, 5, 20, 25], [0, 0, 1, 1]]
    assert table.classes == ("cat", "dog", "zebra")
    assert names_of(table) == ["dog", "zebra"]
    assert table.scores is None
    assert table.notes == ("1 image without boxes of a labelling job: left out",)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", f"{MAKESENSE}cat,4,5,x,20,a.jpg,40,30", "has a value .*`x`"),
        ("a.csv", f"{MAKESENSE}cat,4,5", "expected 8 columns, found 3"),
        ("a.txt", f"{KERAS}d.jpg 1,2,3,4", "expected an image and boxes"),
        ("a.txt", f"{KERAS}d.jpg 1,2,3,--4,0", "has a value .*`--4`"),
    ],
)
def test_rows_that_cannot_be_used_are_left_out_and_named(lay, unreadable, name, text, said):
    table = read_dataset(lay({name: text}, "a.jpg"))

    (remark,) = unreadable(table)
    assert re.match(f"{name}:4: {said}", remark)
    assert len(table.boxes)


@pytest.mark.parametrize(
    ("format", "name", "text", "said"),
    [
        (
            "imagefolder",
            "metadata.jsonl",
            lines_of(hf("a.jpg", bbox=[[1, 2, 3]])),
            ":1: an object has a",
        ),
        (
            *("imagefolder", "metadata.jsonl"),
            *(
                lines_of(hf("a.jpg", bbox=[[1, 2, 3, 4]], category=[])),
                "0 of `category` for 1 box",
            ),
        ),
        ("imagefolder", "metadata.jsonl", lines_of({"objects": {}}), "an image has no `file_name`"),
        ("crowdhuman", "a.odgt", lines_of({"ID": "a"}), "a.odgt:1: an image has no `gtboxes`"),
        ("scalabel", "a.json", json.dumps([{"labels": []}]), "a.json:1: a frame has no `name`"),
        ("ground-truth", "a.manifest", lines_of({"job": {}}), "an image has no `source-ref`"),
        ("ground-truth", "a.manifest", "7\n", "a.manifest:1: an image has a value"),
        ("labelme-web", "a.xml", LABELME_WEB.replace("<y>27", "<y>low"), "a.xml:3: .*`low`"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(lay, format, name, text, said):
    root = lay({name: text}, "a.jpg")

    with pytest.raises(DataError, match=said):
        read_dataset(root / name, format=format)


def test_a_line_that_is_not_json_is_left_out(lay):
    table = read_dataset(lay({"a.odgt": f"{lines_of(CROWD)}{{"}), format="crowdhuman")

    assert [(r.code, r.where) for r in table.remarks] == [("row-unreadable", "a.odgt:2")]
    assert table.remarks[0].what.startswith("is not JSON")

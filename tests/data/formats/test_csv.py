"""CSV: TensorFlow's, keras-retinanet's and Open Images' columns, as their producers write them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.table import Flag
from dhcli.data.tools.split import group_images
from dhcli.errors import DataError

TUTORIAL = """filename,width,height,class,xmin,ymin,xmax,ymax
raccoon-117.jpg,259,194,raccoon,12,10,99,150
raccoon-5.jpg,40,30,raccoon,1,2,39,29
raccoon-117.jpg,259,194,dog,0,0,5.5,6
"""


def test_tensorflow_rows_are_gathered_by_image(lay):
    root = lay(
        {"data/train_labels.csv": TUTORIAL}, "images/raccoon-5.jpg", "images/raccoon-117.jpg"
    )

    table = read_dataset(root)

    assert table.format == "csv"
    assert list(table.files) == ["images/raccoon-117.jpg", "images/raccoon-5.jpg"]
    assert table.sizes.tolist() == [[259, 194], [40, 30]]
    assert table.boxes.tolist() == [[12, 10, 99, 150], [0, 0, 5.5, 6], [1, 2, 39, 29]]
    assert [table.classes[label] for label in table.labels] == ["raccoon", "dog", "raccoon"]
    assert table.extras["line"].tolist() == [2, 4, 3]
    assert table.splits["train"].tolist() == [0, 1]


ODD = {
    "capitals and another order": "Label,X1,Y1,X2,Y2,Image Name\ncat,1,2,3,4,a.jpg\n",
    "decimal commas": "filename;class;xmin;ymin;xmax;ymax\na.jpg;cat;1,0;2,0;3,0;4,0\n",
    "tabs": "filename\tclass\txmin\tymin\txmax\tymax\na.jpg\tcat\t1\t2\t3\t4\n",
    "quotes": 'filename,class,xmin,ymin,xmax,ymax\n"a.jpg","cat","1","2","3","4"\n',
    "blank lines, ends of Windows": "\r\nfilename,class,xmin,ymin,xmax,ymax\r\n\r\n"
    "a.jpg,cat,1,2,3,4\r\n",
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_odd_tables_say_the_same(lay, name, encoding):
    table = read_dataset(lay({"boxes.csv": ODD[name].encode(encoding)}, "a.jpg"))

    assert (table.boxes.tolist(), table.classes) == ([[1, 2, 3, 4]], ("cat",))
    assert list(table.files) == ["a.jpg"]


def test_columns_of_marks_and_scores_are_kept(lay):
    text = (
        "path,label,xmin,ymin,xmax,ymax,IsDifficult,occluded,score\na.jpg,cat,1,2,3,4,1,yes,0.5\n"
    )

    table = read_dataset(lay({"a.csv": text}, "a.jpg"), predictions=True)

    assert table.flags.tolist() == [Flag.DIFFICULT | Flag.OCCLUDED]
    assert table.scores.tolist() == [0.5]


WAYS = {
    "x, y, width, height": ("image,x,y,width,height,label", "a.jpg,1,2,2,2,cat", "cat"),
    "a list in one column": ("image_id,width,height,bbox", 'a,40,30,"[1.0, 2, 2.0, 2]"', "object"),
    "no class": ("image,xmin,ymin,xmax,ymax", "a.jpg,1,2,3,4", "object"),
}


@pytest.mark.parametrize("name", WAYS)
def test_ways_to_tell_a_box(lay, name):
    header, row, label = WAYS[name]

    table = read_dataset(lay({"boxes.csv": f"{header}\n{row}\n"}, "a.jpg"), format="csv")

    assert (table.boxes.tolist(), table.classes) == ([[1, 2, 3, 4]], (label,))
    assert table.sizes.tolist() == [[40, 30]]
    assert list(table.files) == ["a.jpg"]
    assert table.notes == (() if label == "cat" else ("no column with the class: called `object`",))


def test_four_corners_are_read_as_the_box_around_them(lay):
    header = "image,label,x1,y1,x2,y2,x3,y3,x4,y4"
    text = f"{header}\na.jpg,cat,5,2,20,1,22,10,4,11\na.jpg,cat,,,,,,,,\n"

    table = read_dataset(lay({"boxes.csv": text}, "a.jpg"))

    assert table.boxes.tolist() == [[4, 1, 22, 11]]
    assert table.notes == ("1 box of four corners: read as the box around them",)


def test_a_comma_for_thousands_costs_its_row(lay, unreadable):
    rows = 'a.jpg,"1,200",30,cat,1,2,3,4\na.jpg,40,30,cat,1,2,"1,030",4\n'
    text = f"filename,width,height,class,xmin,ymin,xmax,ymax\n{rows}"

    table = read_dataset(lay({"boxes.csv": text}, "a.jpg"))

    assert (table.boxes.tolist(), table.sizes.tolist()) == ([[1, 2, 3, 4]], [[40, 30]])
    assert unreadable(table) == [
        "boxes.csv:3: has a value that cannot be used: `1,030` has a comma for thousands or "
        "decimals: write it without"
    ]


def test_excels_line_of_the_separator_is_none_of_data(lay):
    text = "sep=;\nfilename;class;xmin;ymin;xmax;ymax\na.jpg;cat;1,5;2;3;4\n"

    table = read_dataset(lay({"boxes.csv": text}, "a.jpg"))

    assert table.boxes.tolist() == [[1.5, 2, 3, 4]]
    assert table.extras["line"].tolist() == [3]


def test_coordinates_of_1_at_most_are_fractions(lay):
    text = "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,0.1,0,0.5,1\n"

    table = read_dataset(lay({"boxes.csv": text}, "a.jpg"))

    assert table.boxes.tolist() == [[4, 0, 20, 30]]
    assert table.notes == ("boxes lie within 0…1: read as fractions of their images",)


def test_a_table_without_classes_is_a_dataset_only_when_it_is_named(lay):
    root = lay({"boxes.csv": "image,xmin,ymin,xmax,ymax\na.jpg,1,2,3,4\n"}, "a.jpg")

    assert len(read_dataset(root / "boxes.csv").boxes) == 1
    with pytest.raises(DataError, match="not a dataset of a known format") as caught:
        read_dataset(root)
    assert "no class: --from csv" in caught.value.hint


def test_a_row_without_coordinates_is_an_image_without_boxes(lay):
    text = "image_id,class_name,x_min,y_min,x_max,y_max\na,No finding,,,,\nb,cat,1,2,3,4\n"

    table = read_dataset(lay({"boxes.csv": text}, "a.png", "b.png"))

    assert (list(table.files), table.offsets.tolist()) == (["a.png", "b.png"], [0, 0, 1])
    assert table.classes == ("cat",)


@pytest.mark.parametrize("nothing", ["NaN", "None", "null"])
def test_words_for_nothing_are_no_box_where_the_class_is_none_too(lay, nothing):
    rows = [["a.jpg", "cat", "1", "2", "3", "4"], ["b.jpg", *[nothing] * 5]]
    lines = ["image,label,x1,y1,x2,y2", *(",".join(row) for row in rows)]

    table = read_dataset(lay({"labels.csv": "\n".join(lines)}, "a.jpg", "b.jpg"))

    assert (list(table.files), table.offsets.tolist()) == (["a.jpg", "b.jpg"], [0, 1, 1])
    assert (table.classes, table.remarks) == (("cat",), ())


def test_a_class_without_a_box_that_is_a_number_is_left_to_the_check(lay):
    text = "image,label,x1,y1,x2,y2\na.jpg,cat,NaN,NaN,NaN,NaN\n"

    assert np.isnan(read_dataset(lay({"labels.csv": text}, "a.jpg")).boxes).all()


@pytest.mark.parametrize("column", ["split", "Subset"])
def test_a_column_of_splits_puts_images_into_them(lay, tmp_path, column):
    rows = ("a.jpg,cat,1,2,3,4,Training", "b.jpg,cat,1,2,3,4,valid", "c.jpg,,,,,,train")
    text = "\n".join([f"image,label,x1,y1,x2,y2,{column}", *rows])
    root = lay({"in/train.csv": text}, "in/a.jpg", "in/b.jpg", "in/c.jpg")

    table = read_dataset(root / "in")

    assert {name: rows.tolist() for name, rows in table.splits.items()} == {
        "train": [0, 2],
        "val": [1],
    }
    assert (table.own_columns(), table.notes) == ({}, ())
    write_dataset(replace(table, splits={"test": np.array([0, 1])}), tmp_path / "out", "csv")
    assert list(read_dataset(tmp_path / "out").splits) == ["test"]


def test_an_image_in_two_splits_costs_its_later_rows(lay, unreadable):
    rows = "a.jpg,cat,1,2,3,4,train\na.jpg,cat,1,2,3,4,Train\na.jpg,dog,5,6,7,8,test\n"

    table = read_dataset(lay({"labels.csv": f"image,label,x1,y1,x2,y2,split\n{rows}"}, "a.jpg"))

    assert table.splits["train"].tolist() == [0]
    assert unreadable(table) == [
        "labels.csv:4: has a value that cannot be used: `split` is `test`, and above `train`"
    ]


def test_a_column_of_other_splits_is_kept_as_it_is(lay):
    text = "image,label,x1,y1,x2,y2,split\na.jpg,cat,1,2,3,4,fold1\nb.jpg,cat,1,2,3,4,train\n"

    table = read_dataset(lay({"labels.csv": text}, "a.jpg", "b.jpg"))

    assert table.splits == {}
    assert list(table.own_columns()["split"]) == ["fold1", "train"]


def test_columns_of_images_are_kept_and_others_are_named(lay, tmp_path):
    rows = "a.jpg,cat,1,2,3,4,p 1,x\nb.jpg,cat,1,2,3,4,,z\na.jpg,dog,5,6,7,8,p 1,y\n"
    text = f"image,class,xmin,ymin,xmax,ymax,Patient,reader\n{rows}"

    table = read_dataset(lay({"in/boxes.csv": text}, "in/a.jpg", "in/b.jpg") / "in")
    lost = write_dataset(table, tmp_path / "out", "csv")

    assert {name: list(column) for name, column in table.own_columns().items()} == {
        "Patient": ["p 1", ""]
    }
    assert table.notes == ("columns not kept, because they differ within an image: `reader`",)
    assert lost == ()
    assert read_dataset(tmp_path / "out").own_columns() == table.own_columns()
    assert write_dataset(table, tmp_path / "yolo", "yolo") == (
        "columns Patient of 2 images: not kept",
    )


def test_columns_of_images_become_fields_of_cocos(lay, tmp_path):
    text = "image,class,xmin,ymin,xmax,ymax,patient\na.jpg,cat,1,2,3,4,p\nb.jpg,cat,1,2,3,4,q\n"
    table = read_dataset(lay({"in/boxes.csv": text}, "in/a.jpg", "in/b.jpg") / "in")

    assert write_dataset(table, tmp_path / "out", "coco") == ()

    told = json.loads((tmp_path / "out/annotations/instances.json").read_text("utf-8"))
    assert [row["patient"] for row in told["images"]] == ["p", "q"]
    assert group_images(read_dataset(tmp_path / "out"), "patient").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.jpg,cat,1,2,3", "boxes.csv:3: expected 6 columns, found 5"),
        ("a.jpg,cat,1,2,3,wide", "boxes.csv:3: has a value that cannot be used: `wide`"),
        ("a.jpg,,1,2,3,4", "is not a class name"),
        ("a.jpg,cat,1,2,3,4,5", "boxes.csv:3: expected 6 columns, found 7"),
    ],
)
def test_a_bad_row_is_left_out_and_named(lay, unreadable, row, said):
    text = f"filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,3,4\n{row}\n"

    table = read_dataset(lay({"boxes.csv": text}, "a.jpg"))

    (remark,) = unreadable(table)
    assert said in remark
    assert table.boxes.tolist() == [[1, 2, 3, 4]]


RETINANET = """/data/imgs/img_001.jpg,837,346,981,456,cow
/data/imgs/img_002.jpg,215,312,279,391,cat
/data/imgs/img_002.jpg,22,5,89,84,bird
/data/imgs/img_003.jpg,,,,,
"""


def test_keras_retinanet_keeps_empty_images_and_the_order_of_classes(lay):
    files = {"annotations.csv": RETINANET, "classes.csv": "cow,0\ncat,1\nbird,2\n"}
    images = [f"imgs/img_00{number}.jpg" for number in (1, 2, 3)]

    table = read_dataset(lay(files, *images))

    assert table.format == "retinanet"
    assert table.classes == ("cow", "cat", "bird")
    assert list(table.files) == images
    assert table.offsets.tolist() == [0, 1, 3, 3]
    assert table.boxes[0].tolist() == [837, 346, 981, 456]
    assert table.notes == ("3 names leading out of the dataset: only the end is used",)


def test_of_an_absolute_path_the_longest_end_that_is_there_counts(lay):
    rows = "".join(f"/home/me/data/{folder}/a.jpg,1,2,3,4,cat\n" for folder in "xy")

    table = read_dataset(lay({"annotations.csv": rows}, "x/a.jpg", "y/a.jpg"))

    assert list(table.files) == ["x/a.jpg", "y/a.jpg"]


OPEN_IMAGES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,\
IsGroupOf,IsDepiction,IsInside
0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.025,0.975,0.1,0.9,0,1,0,0,0
000595fe6fee6369,activemil,/m/01g317,1,0,1,0,1,-1,-1,1,-1,-1
0001eeaf4aed83f9,xclick,/m/01g317,1,0.5,0.75,0.5,1,1,0,0,0,0
"""


def test_open_images_fractions_codes_and_flags(lay):
    files = {
        "validation-annotations-bbox.csv": OPEN_IMAGES,
        "class-descriptions-boxable.csv": "/m/01g317,Person\n/m/0cmf2,Airplane\n/m/05r655,Girl\n",
    }

    table = read_dataset(lay(files, "val/0001eeaf4aed83f9.jpg", "val/000595fe6fee6369.jpg"))

    assert table.format == "openimages"
    assert list(table.files) == ["val/0001eeaf4aed83f9.jpg", "val/000595fe6fee6369.jpg"]
    assert table.classes == ("Person", "Airplane")
    assert table.labels.tolist() == [1, 0, 0]
    assert table.boxes.tolist() == [[1, 3, 39, 27], [20, 15, 30, 30], [0, 0, 40, 30]]
    assert table.flags.tolist() == [Flag.TRUNCATED, Flag.OCCLUDED, Flag.CROWD]
    assert table.scores is None
    assert list(table.splits) == ["val"]


def test_open_images_without_any_image_is_an_error(lay):
    with pytest.raises(DataError, match="none of its images can be read"):
        read_dataset(lay({"train-annotations-bbox.csv": OPEN_IMAGES}))


AUTOML = """TRAIN,gs://bucket/set/a.jpg,cat,0.1,0.2,,,0.5,0.6,,
TRAIN,gs://bucket/set/a.jpg,hot dog,0,0,1,0,1,1,0,1
validation,gs://bucket/set/b.jpg,,,,,,,,,
UNASSIGNED,gs://bucket/set/c.jpg,cat,,,,,,,,
"""


ROWS = "ImageID,LabelName,XMin,XMax,YMin,YMax\n{},/m/1,0.1,0.5,0.1,0.5\n"


@pytest.mark.parametrize("place", ["metadata/classes.csv", "class-descriptions-boxable.csv"])
def test_openimages_as_fiftyone_lays_it_is_one_dataset(lay, place):
    files = {f"{split}/{place}": "/m/1,Apple\n/m/2,Pear\n" for split in ("train", "validation")}
    files |= {"info.json": "{}", "train/labels/detections.csv": ROWS.format("a")}
    files |= {"validation/labels/detections.csv": ROWS.format("b")}
    root = lay(files, "train/data/a.jpg", "validation/data/b.jpg")

    table = read_dataset(root)

    assert table.format == "openimages"
    assert list(table.files) == ["train/data/a.jpg", "validation/data/b.jpg"]
    assert table.classes == ("Apple",)
    assert {name: split.tolist() for name, split in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }
    assert read_dataset(root / "train").classes == ("Apple",)


def test_automl_splits_corners_and_addresses(lay):
    table = read_dataset(lay({"train_export.csv": AUTOML}, *(f"set/{n}.jpg" for n in "abc")))

    assert table.format == "automl"
    assert list(table.files) == ["set/a.jpg", "set/b.jpg", "set/c.jpg"]
    assert table.offsets.tolist() == [0, 2, 2, 2]
    assert table.boxes.tolist() == [[4, 6, 20, 18], [0, 0, 40, 30]]
    assert table.classes == ("cat", "hot dog")
    assert {name: rows.tolist() for name, rows in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }
    assert "1 class of a whole image: left out" in table.notes


def test_automl_of_whole_images_alone_has_no_boxes(lay):
    rows = "TRAIN,a.jpg,cat,,,,,,,,\nTRAIN,b.jpg,dog,,,,,,,,\n"

    with pytest.raises(DataError, match="holds no box, but 2 classes of a whole image"):
        read_dataset(lay({"a.csv": rows}, "a.jpg", "b.jpg"))


def test_automl_without_a_column_of_splits(lay):
    rows = "a.jpg,cat,0.1,0.2,,,0.5,0.6,,\n"

    table = read_dataset(lay({"a.csv": rows}, "a.jpg"))

    assert (table.format, table.boxes.tolist()) == ("automl", [[4, 6, 20, 18]])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            "TRAIN,a.jpg,cat,0.1,0.2,,,0.5,0.6,",
            "expected 11 columns, found 10",
        ),
        ("TRAIN,a.jpg,cat,0.1,x,,,0.5,0.6,,", "`x`"),
        ("TRAIN,a.jpg,,0.1,0.2,,,0.5,0.6,,", "is not a class name"),
    ],
)
def test_automl_rows_that_cannot_be_read_are_named(lay, unreadable, row, said):
    text = f"TEST,a.jpg,cat,0.1,0.2,,,0.5,0.6,,\n{row}\n"

    table = read_dataset(lay({"a.csv": text}, "a.jpg"))

    (remark,) = unreadable(table)
    assert remark.startswith("a.csv:2: cannot be used: ")
    assert said in remark
    assert len(table.boxes) == 1


def test_automl_says_which_splits_it_has_no_word_for(lay, tmp_path):
    rows = "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,3,4\n"
    table = read_dataset(lay({"minival.csv": rows}, "a.jpg"))

    said = write_dataset(table, tmp_path / "out", "automl")

    assert "split `minival` of 1 image: written as UNASSIGNED" in said
    assert (
        (tmp_path / "out/automl.csv").read_text().startswith("UNASSIGNED,images/a.jpg,cat,0.025,")
    )


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg"])
def test_names_stay_within_the_dataset(lay, name):
    text = f"filename,class,xmin,ymin,xmax,ymax\n{name},cat,1,2,3,4\na.jpg,cat,1,2,3,4\n"

    table = read_dataset(lay({"in/boxes.csv": text, "secret.jpg": "x"}, "in/a.jpg") / "in")

    assert list(table.files) == ["secret.jpg", "a.jpg"]
    assert not table.path(0).exists()

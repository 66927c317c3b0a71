"""KITTI: rows, lists, and what a row keeps."""

import re

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.formats.kitti import kitti_lines
from dhcli.data.table import ANY_CLASS, Flag, make_table

CAR = "Car 0.25 2 -1.57 10.50 4.00 39.00 29.00 1.50 1.60 3.70 2.00 1.50 9.00 -1.40"
CARE = "DontCare -1 -1 -10 1.00 2.00 3.00 4.00 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def folder(tmp_path, draw):
    """A function from the rows of images 0, 1 … to KITTI's folder."""

    def make(*images, suffix=".png"):
        for number, rows in enumerate(images):
            draw(tmp_path / f"training/image_2/{number:06}{suffix}")
            label = tmp_path / f"training/label_2/{number:06}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(f"{row}\n" for row in rows))
        return tmp_path

    return make


@pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG"])
def test_a_row_is_a_box_and_dont_care_a_region(folder, suffix):
    table = read_dataset(folder([CAR, "", CARE], suffix=suffix))

    assert table.boxes.tolist() == [[10.5, 4, 39, 29], [1, 2, 3, 4]]
    assert table.labels.tolist() == [0, ANY_CLASS]
    assert table.flags.tolist() == [Flag.TRUNCATED | Flag.OCCLUDED, Flag.IGNORE]
    assert table.extras["line"].tolist() == [1, 3]
    assert table.extras["truncation"].tolist() == [0.25, -1]
    assert table.extras["occlusion"].tolist() == [2, -1]
    assert table.extras["dimensions"].tolist() == [[1.5, 1.6, 3.7], [-1, -1, -1]]
    assert table.extras["location"].tolist()[0] == [2, 1.5, 9]
    assert table.extras["rotation"].ravel().tolist() == [-1.4, -10]
    assert table.sizes.tolist() == [[40, 30]]
    assert list(table.files) == [f"training/image_2/000000{suffix}"]


def test_decimal_commas(folder):
    table = read_dataset(folder([CAR.replace(".", ",")]))

    assert table.boxes.tolist() == [[10.5, 4, 39, 29]]


def test_rows_are_written_as_they_were_read(folder, tmp_path):
    scored = [f"{CAR} 0.125", f"{CARE} 0.5"]
    write_dataset(read_dataset(folder([CAR, CARE])), tmp_path / "plain", "kitti")
    write_dataset(read_dataset(folder(scored), predictions=True), tmp_path / "scored", "kitti")

    care = CARE.replace("-1 -1 -1 -1000 -1000 -1000 -10", "-1.00 " * 3 + "-1000.00 " * 3 + "-10.00")
    care = care.replace("-1 -1 -10 ", "-1.00 -1 -10.00 ")
    for name, tails in (("plain", ("", "")), ("scored", (" 0.125", " 0.5"))):
        text = (tmp_path / name / "training/label_2/000000.txt").read_text()
        assert text == f"{CAR}{tails[0]}\n{care}{tails[1]}\n"


def test_marks_without_degrees_and_long_decimals(tmp_path):
    flags = np.array([Flag.TRUNCATED | Flag.OCCLUDED, 0], np.uint8)
    boxes = [[1 / 3, 0, 2, 3], [0, 0, 1, 1]]
    table = make_table(tmp_path, ["a.png"], [[4, 4]], [2], boxes, [0, 0], ("a b",), flags=flags)

    unknown = "-1.00 -1.00 -1.00 -1000.00 -1000.00 -1000.00 -10.00"
    assert kitti_lines(table, 0) == [
        f"a_b 0.30 1 -10.00 0.3333333333333333 0.00 2.00 3.00 {unknown}",
        f"a_b 0.00 0 -10.00 0.00 0.00 1.00 1.00 {unknown}",
    ]


def test_lists_called_otherwise_are_the_usual_splits(folder):
    root = folder([CAR], [], [CARE])
    (root / "Training.txt").write_text("000002\n")
    (root / "train.txt").write_text("000000\n000002\n")
    (root / "VALID.txt").write_text("000001\n")

    table = read_dataset(root)

    assert {k: v.tolist() for k, v in table.splits.items()} == {"train": [2, 0], "val": [1]}


@pytest.mark.parametrize("place", [".", "training", "ImageSets", "training/ImageSets"])
@pytest.mark.parametrize("given", [".", "training"])
def test_lists_beside_above_or_in_image_sets(folder, place, given):
    root = folder([CAR], [], [CARE])
    (root / place).mkdir(exist_ok=True)
    (root / place / "train.txt").write_text("000002\n000000\n")
    (root / place / "val.txt").write_text("000001\n000009\n")

    table = read_dataset(root / given)

    assert {k: v.tolist() for k, v in table.splits.items()} == {"train": [2, 0], "val": [1]}
    assert table.notes == ("1 name unknown in the lists of splits: left out: 000009",)
    assert table.path(0).is_file()


def test_classes_that_kitti_judges_come_first_then_its_others(folder):
    names = ("Zebra", "Misc", "Cyclist", "Van", "Ant", "Car")

    table = read_dataset(folder([CAR.replace("Car", name) for name in names]))

    assert table.classes == ("Car", "Cyclist", "Van", "Misc", "Ant", "Zebra")
    assert [table.classes[k] for k in table.labels] == list(names)


def test_one_label_file_alone_is_a_dataset(folder):
    root = folder([CAR], [CAR, CAR])

    table = read_dataset(root / "training/label_2/000001.txt")

    assert list(table.files) == ["image_2/000001.png"]
    assert (len(table.boxes), table.path(0).is_file()) == (2, True)


@pytest.mark.parametrize(
    ("labels", "images"),
    [
        ("data_object_label_2/training/label_2", "data_object_image_2/training/image_2"),
        ("Labels", "Images"),
    ],
)
def test_folders_called_otherwise(lay, labels, images):
    root = lay({f"{labels}/000000.txt": CAR}, f"{images}/000000.PNG")

    table = read_dataset(root)

    assert (table.format, list(table.files)) == ("kitti", [f"{images}/000000.PNG"])
    assert len(read_dataset(root / f"{labels}/000000.txt").boxes) == 1


def test_images_without_label_file_are_counted(folder, draw, tmp_path):
    root = folder([CAR])
    draw(tmp_path / "training/image_2/000009.png")

    assert read_dataset(root).notes == (
        "1 image without label file: left out: training/image_2/000009.png",
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (CAR.rpartition(" ")[0], r"000000\.txt:2: expected 15 columns .*, found 14"),
        (CAR.replace("10.50", "x"), r"000000\.txt:2: has a column that is not a number"),
    ],
)
def test_bad_rows_are_left_out_and_named_to_the_line(folder, unreadable, row, said):
    table = read_dataset(folder([CAR, row]))

    (remark,) = unreadable(table)
    assert re.match(f"training/label_2/{said}", remark)
    assert len(table.boxes) == len(table.extras["truncation"]) == 1

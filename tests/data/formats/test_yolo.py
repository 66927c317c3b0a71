"""YOLO: layouts, class names, lines of every length."""

import re
import shutil

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.formats.yolo import label_files
from dhcli.data.table import ANY_CLASS, make_table
from dhcli.errors import DataError

LINE = "1 0.5 0.5 0.25 0.5\n"  # of 40 × 30 pixels: [15, 7.5, 25, 22.5]
BOX = [15, 7.5, 25, 22.5]


@pytest.fixture
def put(tmp_path, draw):
    """A function that lays down images (.jpg) and texts by their path."""

    def lay(**files):
        for name, text in files.items():
            path = tmp_path / name
            if path.suffix == ".jpg":
                draw(path)
            if text is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
        return tmp_path

    return lay


LAYOUTS = {
    "images beside labels": ["images/a.jpg", "labels/a.txt", {}],
    "all in one folder": ["a.jpg", "a.txt", {}],
    "VOC's folder of images": ["JPEGImages/a.jpg", "labels/a.txt", {}],
    "splits below images": ["images/val/a.jpg", "labels/val/a.txt", {"val": [0]}],
    "splits above images": ["valid/images/a.jpg", "valid/labels/a.txt", {"val": [0]}],
    "splits alone": ["train/a.jpg", "train/a.txt", {"train": [0]}],
    "folders in capitals": ["Images/Train/a.jpg", "Labels/Train/A.TXT", {"train": [0]}],
    "labels of all splits in one folder": ["images/val/a.jpg", "labels/a.txt", {"val": [0]}],
    "splits of labels only": ["train/a.jpg", "labels/train/a.txt", {"train": [0]}],
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_without_data_yaml(put, name):
    image, label, splits = LAYOUTS[name]

    table = read_dataset(put(**{image: None, label: LINE, "classes.txt": "cat\ndog\n"}))

    assert table.format == "yolo"
    assert list(table.files) == [image]
    assert table.boxes.tolist() == [BOX]
    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [1]
    assert {k: v.tolist() for k, v in table.splits.items()} == splits


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ("names: [cat, dog]", ("cat", "dog")),
        ("names: {0: cat, 1: dog}", ("cat", "dog")),
        ("names:\n  1: dog\n  0: cat\n", ("cat", "dog")),
        ("names: {3: dog, 0: cat}", ("cat", "dog")),
        ("names: [cat, '', dog]", ("cat", "dog")),
        ("names: [no, 1e-3, on]", ("no", "1e-3", "on")),
        ("names: list.names", ("köter", "dog")),
        ("names: !!python/object/apply:os.abort [cat, dog]", ("cat", "dog")),
    ],
)
def test_names_in_data_yaml(put, names, classes):
    settings = f"train: images\n{names}\n"
    files = {"images/a.jpg": None, "data.yaml": settings, "list.names": "köter\ndog\n"}

    table = read_dataset(put(**files))

    assert table.classes == classes
    assert table.splits["train"].tolist() == [0]


@pytest.mark.parametrize(
    "place",
    [
        "train/images",
        "../train/images",
        "./train/images/",
        "/content/data/train/images",
        r"train\images",
        "[train/images]",
        "list.txt",
    ],
)
def test_places_in_data_yaml_stay_within_the_dataset(put, place):
    files = {
        "train/images/a.jpg": None,
        "train/labels/a.txt": LINE,
        "list.txt": "./train/images/a.jpg\n",
    }

    table = read_dataset(put(**files, **{"data.yaml": f"train: {place}\nnames: [cat, dog]\n"}))

    assert list(table.files) == ["train/images/a.jpg"]
    assert table.boxes.tolist() == [BOX]
    assert table.splits["train"].tolist() == [0]


@pytest.mark.parametrize("name", ["data.yaml", "birds.yaml", "obj.data"])
def test_keys_in_any_case_are_the_usual_splits(put, name):
    told = {"Train": "train.txt", "training": "more.txt", "Valid": "val.txt", "names": "a.names"}
    sign = " = " if name.endswith(".data") else ": "
    files = {
        **{f"images/{each}.jpg": None for each in "abc"},
        **{f"labels/{each}.txt": LINE for each in "abc"},
        **{"train.txt": "images/a.jpg\n", "more.txt": "images/a.jpg\nimages/b.jpg\n"},
        **{"val.txt": "images/c.jpg\n", "a.names": "cat\ndog\n"},
    }

    table = read_dataset(
        put(**files, **{name: "".join(f"{k}{sign}{v}\n" for k, v in told.items())})
    )

    assert {k: v.tolist() for k, v in table.splits.items()} == {"train": [0, 1], "val": [2]}


OUTSIDE = {
    "../d": ("; `path: ../d` leads out of it", "move birds.yaml into `../d`, without `path`"),
    "/d": ("; `path: /d` leads out of it", "move birds.yaml into `/d`, without `path`"),
    "gone": ("; `path: gone` is not there", "put it beside the folders and lists that it names"),
    ".": ("", "put it beside the folders and lists that it names"),
}


@pytest.mark.parametrize("path", OUTSIDE)
def test_settings_that_name_no_images_within_their_folder_say_so(put, draw, tmp_path, path):
    what, hint = OUTSIDE[path]
    draw(tmp_path / "d/images/train/a.jpg")
    text = f"path: {path}\ntrain: images/train\nnames: [cat]\n"
    root = put(**{"cfg/birds.yaml": text})

    with pytest.raises(DataError) as error:
        read_dataset(root / "cfg/birds.yaml")

    assert error.value.what == f"names no images within its folder{what}"
    assert error.value.hint.startswith(hint)


def test_a_place_outside_is_not_read(put, draw, tmp_path):
    draw(tmp_path.parent / "outside/a.jpg")
    files = {"images/a.jpg": None, "data.yaml": "train: ../outside\nval: images\nnames: [cat]\n"}

    table = read_dataset(put(**files))

    assert list(table.splits) == ["val"]
    assert table.notes == ("`train: ../outside` is not within the dataset: left out",)


def test_a_list_that_leads_outside_is_an_error(put):
    files = {"images/a.jpg": None, "l.txt": "images/a.jpg\n../../a.jpg\n"}

    with pytest.raises(DataError, match=r"l\.txt:2: `../../a.jpg` is not within"):
        read_dataset(put(**files, **{"data.yaml": "train: l.txt\nnames: [cat]\n"}))


def test_lines_of_five_six_and_many_columns(put):
    polygon = "0 0.1 0.2 0.5 0.2 0.5 0.8\n"
    files = {"images/a.jpg": None, "labels/a.txt": f"{LINE}\n{LINE[:-1]} 0.75\r\n{polygon}"}

    table = read_dataset(put(**files))

    np.testing.assert_allclose(table.boxes, [BOX, BOX, [4, 6, 20, 24]])
    assert table.extras["line"].tolist() == [1, 3, 4]
    assert table.scores is None  # not every box has one


POSE = "1 0.5 0.5 0.25 0.5"


@pytest.mark.parametrize("shape", [(7, 2), (2, 3), (17, 3), (1, 2)])
@pytest.mark.parametrize("score", ["", " 0.75"])
def test_keypoints_behind_the_box_are_left_out(put, shape, score):
    columns = " 0.9 0.1 2"[: 4 * shape[1]] * shape[0]
    settings = f"train: images\nkpt_shape: [{shape[0]}, {shape[1]}]\nnames: [cat, dog]\n"
    files = {"images/a.jpg": None, "labels/a.txt": f"{POSE}{columns}{score}\n{POSE}{score}\n"}

    table = read_dataset(put(**files, **{"data.yaml": settings}))

    assert table.boxes.tolist() == [BOX, BOX]
    assert table.notes[0] == "1 box with keypoints, which are left out"


@pytest.mark.parametrize(
    ("settings", "columns", "said", "hint"),
    [
        ("kpt_shape: [2, 3]", " 0.1" * 9, "5 columns, or 11 with the keypoints", None),
        ("kpt_shape: [2, 4]", " 0.1" * 8, "`kpt_shape` cannot be used", "D is 2 or 3"),
        ("kpt_shape: 6", " 0.1" * 6, "`kpt_shape` cannot be used", "D is 2 or 3"),
        ("nc: 2", " 0.1 0.1 0.1" * 17, "polygon; found 56", "kpt_shape: [17, 3]"),
        (
            "nc: 2",
            " 0.1 0.1 2" * 2,
            "is not a polygon: one of 11 columns is 2",
            "kpt_shape: [2, 3]",
        ),
        ("nc: 2", " 0.75 7", "is not a polygon: one of 7 columns is 7", "kpt_shape: [K, D]"),
    ],
)
def test_columns_that_are_no_box_and_no_polygon(put, settings, columns, said, hint):
    files = {"images/a.jpg": None, "labels/a.txt": f"{POSE}{columns}\n"}

    with pytest.raises(DataError) as caught:
        read_dataset(put(**files, **{"data.yaml": f"{settings}\nnames: [cat, dog]\n"}))

    assert said in caught.value.what
    assert caught.value.hint is None if hint is None else hint in caught.value.hint


def test_a_sixth_column_in_every_line_is_the_score(put):
    root = put(**{"images/a.jpg": None, "labels/a.txt": f"{LINE[:-1]} 0.75\n"})

    table = read_dataset(root, predictions=True)

    assert table.scores.tolist() == [0.75]


def test_missing_and_empty_label_files_are_images_without_objects(put):
    files = {f"images/{name}.jpg": None for name in "abc"}

    table = read_dataset(put(**files, **{"labels/a.txt": LINE, "labels/b.txt": " \n"}))

    assert np.diff(table.offsets).tolist() == [1, 0, 0]


def test_decimal_commas(put):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": LINE.replace(".", ",")}))

    assert table.boxes.tolist() == [BOX]


def test_label_files_of_no_image_are_counted(put):
    table = read_dataset(
        put(
            **{"images/a.jpg": None, "labels/a.txt": LINE, "labels/b.txt": LINE},
            **{"labels/notes.txt": "see below", "labels/classes.txt": "cat\ndog"},
        )
    )

    assert table.notes == ("1 file of labels without image: left out: labels/b.txt",)


def test_classes_without_names_are_called_by_their_numbers(put):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": LINE}))

    assert table.classes == ("1",)
    assert table.labels.tolist() == [0]
    assert table.notes == ("no file names the classes: their numbers are used",)


def test_a_number_beyond_the_names_is_an_unknown_class(put):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "classes.txt": "cat\n"}

    table = read_dataset(put(**files))

    assert (table.labels.tolist(), table.flags.tolist()) == ([ANY_CLASS], [0])
    assert table.notes == ("1 box of a class number beyond the 1 name",)


def test_numbers_that_nobody_names_are_no_classes(put):
    lines = "".join(f"{number} 0.5 0.5 0.25 0.5\n" for number in (3, 1, 0, 4))
    files = {"images/a.jpg": None, "labels/a.txt": lines}

    table = read_dataset(put(**files, **{"classes.txt": "cat\n\n\ndog\n\n"}))

    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [1, ANY_CLASS, 0, ANY_CLASS]
    assert table.notes == (
        "1 box of a class number beyond the 2 names",
        "1 box of a class number that has no name",
    )


NOTES = '{"categories": [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}], "info": {"year": 1}}'
NAMES = {
    "classes.txt": "cat\ndog\n",
    "Classes.txt": "cat\ndog\n",
    "images/classes.txt": "cat\r\ndog\r\n",
    "labels/classes.txt": "cat\ndog\n",
    "images/train/classes.txt": "cat\ndog\n",
    "labels/train/classes.txt": "cat\ndog\n",
    "labels/train/_darknet.labels": "cat\ndog\n",
    "labels.txt": "cat\ndog\n",
    "obj.names": "cat\ndog\n",
    "data/obj.names": "cat\ndog\n",
    "pets.names": "cat\ndog\n",
    "notes.json": NOTES,
}


@pytest.mark.parametrize("file", NAMES)
def test_places_of_class_names(put, file):
    files = {"images/train/a.jpg": None, "labels/train/a.txt": LINE, file: NAMES[file]}

    table = read_dataset(put(**files))

    assert table.classes == ("cat", "dog")
    assert table.labels.tolist() == [1]
    assert table.notes == ()


def test_files_that_hold_no_names_are_passed_over(put):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "classes.txt": "cat\ndog\n"}
    others = {"labels.txt": "labels/a.txt\n", "notes.json": "[1", "names.txt": "images/a.jpg\n"}

    assert read_dataset(put(**files, **others)).classes == ("cat", "dog")


@pytest.mark.parametrize("file", [name for name in NAMES if name != "pets.names"])
@pytest.mark.parametrize(
    ("names", "number", "says"),
    [("[dog, cat]", 0, "`dog`"), ("[cat, dog, hen]", 2, "`hen`"), ("{1: dog}", 0, "no class")],
)
def test_files_that_do_not_agree_on_the_classes_are_an_error(put, file, names, number, says):
    files = {"images/train/a.jpg": None, "labels/train/a.txt": LINE, file: NAMES[file]}

    with pytest.raises(DataError) as caught:
        read_dataset(put(**files, **{"data.yaml": f"train: images/train\nnames: {names}\n"}))

    known = {0: "`cat`", 1: "`dog`"}.get(number, "no class")
    assert f"number {number} is {says} in data.yaml and {known} in {file}" in caught.value.what


def test_lists_of_two_splits_that_do_not_agree_are_an_error(put):
    files = {
        f"{split}/a.{kind}": text
        for split in ("train", "valid")
        for kind, text in (("jpg", None), ("txt", LINE))
    }
    files |= {"train/classes.txt": "cat\ndog\n", "valid/classes.txt": "dog\ncat\n"}

    with pytest.raises(DataError, match=r"`cat` in train/classes.txt and `dog` in valid/classes"):
        read_dataset(put(**files))


@pytest.mark.parametrize("count", ["nc: 3", "nc: 1"])
def test_a_count_that_does_not_agree_with_the_names_is_an_error(put, count):
    files = {"images/a.jpg": None, "data.yaml": f"train: images\n{count}\nnames: [cat, dog]\n"}

    with pytest.raises(DataError, match=r"data.yaml: tells of \d class(es)? \(`nc`\), and names 2"):
        read_dataset(put(**files))


@pytest.mark.parametrize(
    ("lines", "classes"),
    [
        ("0: cat\n1: hot dog\n", ("cat", "hot dog")),
        ("0 cat\n1 2 dogs\n", ("cat", "2 dogs")),
        ("0,cat\n1,dog\n", ("cat", "dog")),
        ("1 cat\n2 dog\n", ("1 cat", "2 dog")),
        ("0 cat\ndog\n", ("0 cat", "dog")),
        ("0\n1\n", ("0", "1")),
        ("0 cat\n", ("0 cat",)),
    ],
)
def test_numbers_before_names_are_no_part_of_them_where_they_are_those_of_the_lines(
    put, lines, classes
):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "classes.txt": lines}

    assert read_dataset(put(**files)).classes == classes


@pytest.mark.parametrize("told", ["cat, dog", "gone.names"])
def test_names_that_are_neither_a_list_nor_a_file_are_an_error(put, told):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "data.yaml": f"names: {told}\nval: images"}

    with pytest.raises(DataError, match=rf"data\.yaml: `names: {told}` is no list of names, and"):
        read_dataset(put(**files))

    root = put(**files, **{"classes.txt": "cat\ndog\n"})
    assert read_dataset(root).classes == ("cat", "dog")


def test_darknets_count_is_compared_with_the_file_of_names(put):
    settings = "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\n"
    files = {"images/a.jpg": None, "train.txt": "images/a.jpg\n", "obj.names": "cat\ndog\n"}

    with pytest.raises(DataError, match=r"obj.data: tells of 3 classes \(`nc`\), and names 2"):
        read_dataset(put(**files, **{"obj.data": settings}))


def test_other_settings_beside_those_that_count_are_named(put):
    text = "train: images\nnames: [cat, dog]\n"
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "b.yaml": text, "a.yaml": text}

    table = read_dataset(put(**files, **{"hyp.yaml": "lr0: 0.01\n", "data.yaml": text}))

    assert table.notes == ("2 files of settings beside that read: left out: a.yaml, b.yaml",)


def test_one_label_file_alone_is_a_dataset(put):
    root = put(**{"images/a.jpg": None, "images/b.jpg": None, "labels/b.txt": LINE})

    table = read_dataset(root / "labels/b.txt")

    assert list(table.files) == ["images/b.jpg"]
    assert table.boxes.tolist() == [BOX]


def test_data_yaml_alone_is_a_dataset(put):
    root = put(
        **{"images/a.jpg": None, "labels/a.txt": LINE, "my.yaml": "val: images\nnames: [c, d]\n"}
    )

    assert read_dataset(root / "my.yaml").classes == ("c", "d")


def test_an_unreadable_image_does_not_stop_reading(put, tmp_path):
    root = put(**{f"{folder}": None for folder in ("images/a.jpg", "images/b.jpg")})
    put(**{"labels/a.txt": LINE, "labels/b.txt": LINE})
    (tmp_path / "images/a.jpg").write_bytes(b"")

    table = read_dataset(root)

    assert table.sizes.tolist() == [[0, 0], [40, 30]]
    assert "1 image that cannot be read: boxes without size" in table.notes


def test_boxes_of_images_that_cannot_be_read_are_an_error(put, tmp_path):
    root = put(**{"images/a.jpg": None, "images/b.jpg": None, "labels/a.txt": LINE})
    (tmp_path / "images/a.jpg").write_bytes(b"")

    with pytest.raises(DataError, match="none of its images can be read"):
        read_dataset(root)


@pytest.mark.parametrize("line", ["0 20 15 10 15", "0 10 5 30 5 30 25", "0 50 50 25 50"])
def test_pixels_are_said_to_be_no_fractions(put, line):
    files = {"images/a.jpg": None, "labels/a.txt": f"{LINE}{line}\n{line}\n"}

    with pytest.raises(DataError, match=r"a\.txt:2: is in pixels, not fractions: centre"):
        read_dataset(put(**files))


LISTS = {
    "as they lie": ("images/{}.jpg", "labels/{}.txt", "./images/{}.jpg"),
    "from elsewhere": ("images/{}.jpg", "labels/{}.txt", "/content/data/images/{}.jpg"),
    "of a system with backslashes": ("images/{}.jpg", "labels/{}.txt", r"C:\data\images\{}.jpg"),
    "one folder too many": ("images/{}.jpg", "labels/{}.txt", "data/obj/images/{}.jpg"),
    "another folder": ("images/{}.jpg", "labels/{}.txt", "data/obj/{}.jpg"),
    "another suffix": ("images/{}.jpg", "labels/{}.txt", "images/{}.png"),
    "stems alone": ("images/{}.jpg", "labels/{}.txt", "{}"),
    "encoded": ("images/{} (1).jpg", "labels/{} (1).txt", "images/{}%20(1).jpg"),
    "labels where the images are not": ("images/{}.jpg", "obj_a/{}.txt", "data/obj_a/{}.jpg"),
    "labels by where images should be": (
        *("pictures/{}.jpg", "labels/x/{}.txt", "data/images/x/{}.jpg"),
    ),
}


@pytest.mark.parametrize("place", ["{}.txt", "ImageSets/Main/{}.txt", "2007_{}.txt", "{}2017.txt"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists_without_data_yaml_are_splits(put, kind, place):
    image, label, line = LISTS[kind]
    files = {image.format(name): None for name in "abc"}
    files |= {label.format(name): LINE for name in "abc"}
    files |= {place.format("train"): f"{line.format('a')}\n{line.format('b')}\n"}

    table = read_dataset(put(**files, **{place.format("val"): line.format("c")}), format="yolo")

    assert sorted(table.files) == sorted(image.format(name) for name in "abc")
    assert {name: len(split) for name, split in table.splits.items()} == {"train": 2, "val": 1}
    assert table.boxes.tolist() == [BOX] * 3


def test_images_in_no_list_are_named(put):
    files = {f"images/{name}.jpg": None for name in "abc"}
    files |= {f"labels/{name}.txt": LINE for name in "abcd"}
    files |= {"train.txt": "images/a.jpg\n", "test.txt": "images/x.jpg\nimages/y.jpg\n"}

    table = read_dataset(put(**files))

    assert list(table.files) == ["images/a.jpg"]
    assert [note for note in table.notes if "no file names" not in note] == [
        "1 list of images that are not there: left out: test.txt",
        "2 images that no split names: left out: images/b.jpg, images/c.jpg",
        "1 file of labels without image: left out: labels/d.txt",
    ]


def test_folders_beside_those_read_are_named(put):
    files = {f"{folder}/a.jpg": None for folder in ("train", "val", "extra", "test/raw")}
    files |= {f"{folder}/a.txt": LINE for folder in ("train", "val", "extra")}

    table = read_dataset(put(**files))

    assert "2 folders of images beside those read: left out: extra, test/raw" in table.notes


def test_folders_of_labels_beside_those_read_are_named(put):
    files = {"images/train/a.jpg": None, "images/train/b.jpg": None, "labels/train/a.txt": LINE}

    table = read_dataset(put(**files, **{"labels/b.txt": LINE, "labels/train/day/b.txt": LINE}))

    said = "2 folders with files of YOLO beside those read: left out: labels, labels/train/day"
    assert said in table.notes
    assert list(table.image_extras["annotation"]) == ["labels/train/a.txt", ""]


def test_folders_within_images_are_read_where_they_have_labels(put):
    files = {f"images/{name}.jpg": None for name in ("a", "cats/b", "views/c")}
    files |= {f"labels/{name}.txt": LINE for name in ("a", "cats/b")}

    table = read_dataset(put(**files))

    assert list(table.files) == ["images/a.jpg", "images/cats/b.jpg"]
    assert "1 folder of images beside those read: left out: images/views" in table.notes


def test_frames_of_one_name_are_not_taken_for_each_other(put):
    files = {"images/1.jpg": None, "labels/1.txt": LINE, "train.txt": "x/1.jpg\ny/1.jpg\n"}

    table = read_dataset(put(**files))

    assert list(table.files) == ["images/1.jpg", "y/1.jpg"]


@pytest.mark.parametrize("image", ["images/a.jpg", "a.jpg"])
def test_a_folder_of_labels_may_have_another_name(put, image):
    files = {image: None, "annotations/a.txt": LINE, "annotations/classes.txt": "cat\ndog\n"}

    table = read_dataset(put(**files))

    assert (table.boxes.tolist(), table.classes) == ([BOX], ("cat", "dog"))
    assert table.notes == ("1 folder of another name taken for that of labels: annotations",)


def test_labels_beside_images_are_read_where_labels_has_none(put):
    files = {f"{image}.jpg": None for image in ("images/a", "images/b", "more/c")}
    files |= {f"{label}.txt": LINE for label in ("labels/a", "images/a", "images/b", "more/c")}
    settings = "train:\n  - images\n  - more\nnames: [cat, dog]\n"

    table = read_dataset(put(**files, **{"data.yaml": settings, "more/notes.txt": "of a day"}))

    assert list(table.image_extras["annotation"]) == ["labels/a.txt", "images/b.txt", "more/c.txt"]
    assert table.notes == ("1 file of labels without image: left out: images/a.txt",)


def test_labels_of_images_are_not_those_of_a_folder_beside(put):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "more/a.jpg": None, "more/a.txt": LINE * 2}
    settings = "train: images\nval: more\nnames: [cat, dog]\n"

    table = read_dataset(put(**files, **{"data.yaml": settings}))

    assert list(table.image_extras["annotation"]) == ["labels/a.txt", "more/a.txt"]
    assert table.notes == ()


@pytest.mark.parametrize("place", ["images", "annotations"])
def test_a_stray_text_in_labels_does_not_make_it_their_folder(put, place):
    files = {"images/a.jpg": None, f"{place}/a.txt": LINE, "labels/info.txt": "hello\n"}

    table = read_dataset(put(**files, **{"classes.txt": "cat\ndog\n"}))

    assert (list(table.files), table.classes) == (["images/a.jpg"], ("cat", "dog"))
    assert table.boxes.tolist() == [BOX]


def test_labels_of_another_folder_of_images_are_not_taken(put):
    files = {"train/a.jpg": None, "train/a.txt": LINE, "test/a.jpg": None}

    table = read_dataset(put(**files))

    assert np.diff(table.offsets).tolist() == [0, 1]


def test_labels_of_images_in_a_folder_beside_are_not_taken(put):
    files = {"images/a.jpg": None, "other/a.jpg": None, "other/a.txt": LINE}

    with pytest.raises(DataError, match="goes with 1 image; there are some in `other`"):
        read_dataset(put(**files), format="yolo")


def test_a_label_file_may_have_the_whole_name_of_its_image(put):
    root = put(**{"images/a.jpg": None, "labels/a.jpg.txt": LINE, "labels/a.png.txt": LINE * 2})
    shutil.copy(root / "images/a.jpg", root / "images/a.png")

    assert np.diff(read_dataset(root).offsets).tolist() == [1, 2]


def test_labels_that_lie_where_no_image_does_are_an_error(put):
    files = {"images/a.jpg": None, "labels/day/1.txt": LINE}

    with pytest.raises(DataError, match=r"goes with 1 image; there are some in `labels/day`"):
        read_dataset(put(**files), format="yolo")


def test_images_beside_folders_of_splits_are_named(put):
    table = read_dataset(
        put(**{"a.jpg": None, "a.txt": LINE, "train/b.jpg": None, "train/b.txt": LINE})
    )

    assert "1 image that no split names: left out: a.jpg" in table.notes


def test_a_label_file_may_begin_with_a_bad_line(put):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": f"# cat, dog\n{LINE}"}))

    assert (len(table.boxes), len(table.remarks)) == (1, 1)


@pytest.mark.parametrize("place", ["splits", "data", "images"])
def test_lists_may_lie_in_a_folder(put, place):
    files = {f"images/{name}.jpg": None for name in "ab"} | {"labels/a.txt": LINE}

    table = read_dataset(
        put(**files, **{f"{place}/train.txt": "a.jpg\n", f"{place}/val.txt": "b\n"})
    )

    assert {name: split.tolist() for name, split in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }


def test_a_number_above_1_behind_a_box_is_no_score(put):
    root = put(**{"images/a.jpg": None, "labels/a.txt": f"{LINE[:-1]} 7\n{LINE[:-1]} 1\n"})

    table = read_dataset(root, predictions=True)

    assert table.scores is None
    assert "1 box followed by a number that is not a score: left out" in table.notes


def test_numbers_from_1_and_corners_are_noticed(put):
    lines = "1 0.1 0.1 0.9 0.9\n2 0.2 0.1 0.8 0.9\n"
    files = {"images/a.jpg": None, "labels/a.txt": lines, "classes.txt": "cat\ndog\n"}

    notes = read_dataset(put(**files)).notes

    assert "no box has the class number 0: if they count from 1, they are wrong" in notes
    assert "boxes extend beyond the image, and would not if they were corners" in notes


def test_labels_that_go_with_no_image_are_an_error(put):
    files = {"images/a.jpg": None, "labels/1.txt": LINE, "labels/2.txt": LINE}

    with pytest.raises(DataError, match=r"no label file goes with 1 image; .* labels/1\.txt"):
        read_dataset(put(**files))


def test_a_file_of_labels_for_two_images_is_named(put):
    root = put(**{"a.jpg": None, "a.txt": LINE})
    shutil.copy(root / "a.jpg", root / "a.jpeg")

    table = read_dataset(root)

    assert "1 file of labels that goes with several images: read for each: a.txt" in table.notes


@pytest.mark.parametrize("empty", ["", " \n"])
def test_backgrounds_may_come_first(put, empty):
    files = {f"images/{number:02}.jpg": None for number in range(30)}
    files |= {f"labels/{number:02}.txt": empty for number in range(29)}

    table = read_dataset(put(**files, **{"labels/29.txt": LINE}))

    assert (table.format, len(table), len(table.boxes)) == ("yolo", 30, 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.1 0.2\n", r"a\.txt:2: expected 5 columns"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n", r"a\.txt:2: expected 5 columns"),
        ("Car 0.1 0.2 0.3 0.4\n", r"a\.txt:2: expected a class number first, found `Car`"),
        ("0 0.1 Car 0.3 0.4\n", r"a\.txt:2: has a column that is not a number"),
        ("1.5 0.1 0.2 0.3 0.4\n", r"a\.txt:2: expected a class number first, found `1.5`"),
        ("-1 0.1 0.2 0.3 0.4\n", r"a\.txt:2: expected a class number first"),
        ("nan 0.1 0.2 0.3 0.4\n", r"a\.txt:2: expected a class number first"),
    ],
)
def test_bad_lines_are_left_out_and_named(put, unreadable, line, said):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": LINE + line}))

    (remark,) = unreadable(table)
    assert re.match(f"labels/{said}", remark)
    assert table.boxes.tolist() == [BOX]


def test_nothing_but_bad_lines_is_an_error(put):
    files = {"images/a.jpg": None, "labels/a.txt": "0 1 2\n0 3\n", "classes.txt": "cat\n"}

    with pytest.raises(DataError, match=r"labels/a\.txt:1: expected 5 columns"):
        read_dataset(put(**files), format="yolo")


def test_an_image_of_bad_lines_alone_is_not_background(put):
    files = {"images/a.jpg": None, "images/b.jpg": None, "images/c.jpg": None}
    labels = {"labels/a.txt": "0 1 2\n", "labels/b.txt": LINE, "labels/c.txt": ""}

    table = read_dataset(put(**files, **labels))

    assert list(table.files) == ["images/b.jpg", "images/c.jpg"]
    assert "1 image of which no row can be read, left out: images/a.jpg" in table.notes


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("0 0.5 0.5 0.25 0.5\r\n1 0.5 0.5 0.25 0.5", 2),
        ("0\t0.5\t0.5 0.25 5e-1\n", 1),
        ("0 .5 +0.5  0.25 0.50 \n\n1.0 0.5 0.5 0.25 0.5\n", 2),
        ("0 0.5 0.5 0.25 0.5\r1 0.5 0.5 0.25 0.5\r", 2),
        ("\ufeff0 0.5 0.5 0.25 0.5\n", 1),
    ],
)
def test_lines_that_are_not_as_usual_say_the_same(put, text, boxes):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": text}))

    assert table.boxes.tolist() == [BOX] * boxes
    assert table.labels.tolist() == [0, 1][:boxes]


@pytest.mark.parametrize(
    "text",
    [
        "0,0.5,0.5,0.25,0.5",
        "0 0.5 0.5 0.25 0.5],[0 0.5 0.5 0.25 0.5",
        "0 0.5\r 0.5 0.25 0.5",
        "1000000 0.5 0.5 0.25 0.5",
    ],
)
def test_lines_that_json_alone_could_read_are_refused(put, unreadable, text):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": f"{LINE}{text}\n"}))

    assert all(remark.startswith("labels/a.txt:") for remark in unreadable(table))
    assert unreadable(table)[0].startswith("labels/a.txt:2: ")
    assert len(table.boxes) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("names: [a, b\n", "is not YAML"),
        ("names: [a, a]\n", "two classes are called `a`"),
        ("a: &a [x, x]\nnames: [*a]\n", "is not YAML: line 2: aliases"),
        ("a: &a [x, x]\npath: [*a]\nnames: [x]\n", "is not YAML: line 2: aliases"),
        ("names: [[x, x]]\n", r"data\.yaml: class 0 is not text"),
        ("names: {3: [x]}\n", r"data\.yaml: class 3 is not text"),
        ("names: {x: a}\n", "maps something that is not a number"),
        ("names: {9999999999: a}\n", "out of range"),
    ],
)
def test_bad_data_yaml(put, settings, said):
    files = {"images/a.jpg": None, "labels/a.txt": "0 .5 .5 .1 .1\n", "data.yaml": settings}

    with pytest.raises(DataError, match=said):
        read_dataset(put(**files), format="yolo")


def test_written_lines_bring_back_whole_pixels(tmp_path, draw):
    size = (353, 499)
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 353, (200, 2, 2))
    boxes = np.hstack([corners.min(axis=1), corners.max(axis=1)])
    draw(tmp_path / "in/a.jpg", size)
    table = make_table(tmp_path / "in", ["a.jpg"], [size], [200], boxes, [0] * 200, ("no",))

    write_dataset(table, tmp_path / "out", "yolo")

    again = read_dataset(tmp_path / "out")
    np.testing.assert_array_equal(again.boxes, boxes)
    assert again.classes == ("no",)
    assert next(label_files(table)).split()[0] == b"0"


@pytest.mark.parametrize(
    ("text", "said"),
    [("names: " + "[" * 5000, "nested too deep"), ("# " + "x" * 2_000_000, "is too long")],
)
def test_settings_that_would_take_for_ever_are_refused(tmp_path, text, said):
    path = tmp_path / "data.yaml"
    path.write_text(text)

    with pytest.raises(DataError, match=said):
        read_dataset(path)


MARKED = "0 0.25 0.3125 0.5 0.375"


def points(count, marks=""):
    """Keypoints outside the box of MARKED, as the joints of a hand may be."""
    return "".join(f" {0.6 + k / 100:g} {0.7 + k / 200:g}{marks}" for k in range(count))


def test_boxes_with_a_score_and_a_track_are_no_triangles(put):
    files = {"images/a.jpg": None, "labels/a.txt": "1 0.5 0.5 0.25 0.5 0.9 1\n" * 2}

    with pytest.raises(DataError, match="boxes followed by a score and a track") as caught:
        read_dataset(put(**files))

    assert "`kpt_shape: [1, 2]` in data.yaml" in caught.value.hint
    told = {"data.yaml": "train: images\nnames: [cat, dog]\nkpt_shape: [1, 2]\n"}
    assert read_dataset(put(**told)).boxes[0].tolist() == [15, 7.5, 25, 22.5]


def test_triangles_are_polygons(put):
    files = {"images/a.jpg": None, "labels/a.txt": "1 0.5 0.5 0.25 0.5 0.75 1\n1 0 0 1 0 1 0.5\n"}

    assert read_dataset(put(**files)).boxes[0].tolist() == [10, 15, 30, 30]


FILLED = "0 0.5 0.5 0.4 0.4 0.35 0.35 0.65 0.65 0.4 0.6\n"


@pytest.mark.parametrize(
    "line", [FILLED, f"{MARKED}{points(2, ' 1')}\n", f"{MARKED}{points(4, ' 0')}\n"]
)
def test_polygons_that_may_be_keypoints_ask_which(put, line):
    files = {"images/a.jpg": None, "labels/a.txt": line * 2, "classes.txt": "hand\n"}

    with pytest.raises(DataError, match="may be polygons, or boxes followed by") as caught:
        read_dataset(put(**files))

    assert "kpt_shape" in caught.value.hint
    told = {"data.yaml": "train: images\nnames: [hand]\nkpt_shape: [0, 2]\n"}
    assert len(read_dataset(put(**told)).boxes) == 2


@pytest.mark.parametrize(
    "lines",
    [
        FILLED + "0 0.1 0.2 0.5 0.2 0.5 0.8\n",
        FILLED + "0 0.1 0.1 0.5 0.2 0.5 0.8 0.3 0.9 0.2 0.7\n",
        "0 0.4 0.4 0.5 0.4 0.5 0.5 0.4 0.5\n",
        "0 0.5 0.1 0.6 0.2 0.5 0.3 0.4 0.2 0.45 0.15\n",
    ],
)
def test_polygons_stay_polygons(put, lines):
    table = read_dataset(put(**{"images/a.jpg": None, "labels/a.txt": lines}))

    assert len(table.boxes) == lines.count("\n")
    xs = [float(number) * 40 for number in lines.splitlines()[-1].split()[1::2]]
    np.testing.assert_allclose(table.boxes[-1, ::2], [min(xs), max(xs)])


@pytest.mark.parametrize("name", ["Car", "traffic light", "Автомобиль"])
def test_names_for_numbers_are_yolo_all_the_same(put, name):
    dataset = put(**{"images/a.jpg": None, "labels/a.txt": f"{name} 0.5 0.5 0.2 0.1\n"})

    with pytest.raises(DataError, match=r"a\.txt:1: expected a class number first") as caught:
        read_dataset(dataset)

    assert "names stand in data.yaml" in caught.value.hint

"""YOLO: layouts, class names, lines of every length."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

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
        ("names: {3: dog, 0: cat}", ("cat", "1", "2", "dog")),
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

    assert table.classes == ("0", "1")
    assert table.notes == ("no file names the classes: they are called by their numbers",)


def test_a_number_beyond_the_names_is_an_unknown_class(put):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "classes.txt": "cat\n"}

    table = read_dataset(put(**files))

    assert (table.labels.tolist(), table.flags.tolist()) == ([ANY_CLASS], [0])
    assert table.notes == ("1 box of a class number beyond the 1 name",)


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
    root = put(**{"images/a.jpg": None, "labels/a.txt": LINE})
    (tmp_path / "images/a.jpg").write_bytes(b"")

    assert read_dataset(root).sizes.tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.1 0.2\n", r"a\.txt:2: expected 5 columns"),
        ("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7\n", r"a\.txt:2: expected 5 columns"),
        ("Car 0.1 0.2 0.3 0.4\n", r"a\.txt:2: has a column that is no number"),
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
        ("names: {x: a}\n", "maps something that is no number"),
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


POSE = "0 0.25 0.3125 0.5 0.375"  # of 40 × 30 pixels: [0, 3.75, 20, 15]
POSE_BOX = [0, 3.75, 20, 15]


def points(count, marks=""):
    """Keypoints outside the box of POSE, as the joints of a hand may be."""
    return "".join(f" {0.6 + k / 100:g} {0.7 + k / 200:g}{marks}" for k in range(count))


@pytest.mark.parametrize("shape", [(7, 2), (2, 3), (17, 3), (1, 2), (17, 2)])
@pytest.mark.parametrize("score", ["", " 0.5"])
def test_keypoints_behind_the_box_are_left_out(put, shape, score):
    count, numbers = shape
    line = f"{POSE}{points(count, ' 2' if numbers == 3 else '')}{score}\n{POSE}{score}\n"
    settings = f"train: images\nnames: [hand]\nkpt_shape: [{count}, {numbers}]\n"

    table = read_dataset(
        put(**{"images/a.jpg": None, "labels/a.txt": line, "data.yaml": settings}), predictions=True
    )

    np.testing.assert_allclose(table.boxes, [POSE_BOX] * 2)
    assert (table.scores is not None) == bool(score)


def test_lines_that_kpt_shape_does_not_tell_of_are_left_out(put, unreadable):
    settings = "train: images\nnames: [hand]\nkpt_shape: [2, 3]\n"
    files = {"images/a.jpg": None, "labels/a.txt": f"{POSE}\n{POSE}{points(2)}\n"}

    table = read_dataset(put(**files, **{"data.yaml": settings}))

    (remark,) = unreadable(table)
    assert remark == ("labels/a.txt:2: expected 5 columns and 6 of keypoints (kpt_shape), found 9")


@pytest.mark.parametrize("shape", ["[17]", "[17, 4]", "17", "[a, 2]", "{a: b}", "[99999, 2]"])
def test_a_kpt_shape_that_is_none(put, shape):
    files = {"images/a.jpg": None, "data.yaml": f"names: [hand]\nkpt_shape: {shape}\n"}

    with pytest.raises(DataError, match=r"data.yaml: `kpt_shape` is not a number of keypoints"):
        read_dataset(put(**files))


FILLED = "0 0.5 0.5 0.4 0.4 0.35 0.35 0.65 0.65 0.4 0.6\n"


@pytest.mark.parametrize(
    "line", [FILLED, f"{POSE}{points(2, ' 2')}\n", f"{POSE}{points(4, ' 0')}\n"]
)
def test_polygons_that_may_be_keypoints_ask_which(put, line):
    files = {"images/a.jpg": None, "labels/a.txt": line * 2, "classes.txt": "hand\n"}

    with pytest.raises(DataError, match="may be polygons, or boxes with keypoints") as caught:
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


def test_an_odd_count_of_columns_names_kpt_shape(put):
    files = {"images/a.jpg": None, "labels/a.txt": f"{POSE}{points(17, ' 2')}\n"}

    with pytest.raises(DataError, match=r"found 56 .*kpt_shape"):
        read_dataset(put(**files))


def test_lists_beside_images_and_labels_are_splits(put):
    files = {f"images/{name}.jpg": None for name in "abcd"}
    labels = {f"labels/{name}.txt": LINE for name in "abcd"}
    lists = {"train.txt": "./images/a.jpg\nb.jpg\n", "valid.txt": "/data/me/images/c.jpg\n"}

    table = read_dataset(put(**files, **labels, **lists))

    names = {split: [table.files[i] for i in rows] for split, rows in table.splits.items()}
    assert names == {"train": ["images/a.jpg", "images/b.jpg"], "val": ["images/c.jpg"]}
    assert sorted(table.files) == [f"images/{name}.jpg" for name in "abcd"]


def test_images_and_folders_beside_the_chosen_ones_are_named(put):
    files = {f"images/{name}.jpg": None for name in ("train/a", "val/b", "more/c")}

    table = read_dataset(put(**files, **{"labels/train/a.txt": LINE, "labels/val/b.txt": LINE}))

    assert "1 folder of images in no split, left out: images/more" in table.notes
    assert len(table) == 2


def test_what_data_yaml_does_not_name_is_named(put):
    files = {f"{name}/images/a.jpg": None for name in ("train", "valid", "test")}
    files |= {"train/images/b.jpg": None, "train/labels/a.txt": LINE}
    settings = "train: list.txt\nval: valid/images\nnames: [cat, dog]\n"
    told = {"data.yaml": settings, "list.txt": "train/images/a.jpg\n"}

    notes = read_dataset(put(**files, **told)).notes

    assert "1 folder of images that data.yaml does not name, left out: test/images" in notes
    assert "1 image in no list, left out: train/images/b.jpg" in notes


def test_backgrounds_first_are_still_yolo(put, draw):
    files = {f"images/a{number:02}.jpg": None for number in range(30)}
    labels = {f"labels/a{number:02}.txt": "" for number in range(29)}

    table = read_dataset(put(**files, **labels, **{"labels/a29.txt": LINE}))

    assert (table.format, len(table), len(table.boxes)) == ("yolo", 30, 1)


NAMES_AT = [
    *(
        "classes.txt",
        "obj.names",
        "_darknet.labels",
        "names.txt",
        "labels.txt",
        "names",
        "my.names",
    ),
    *("images/classes.txt", "images/train/classes.txt", "labels/classes.txt"),
    *("labels/train/classes.txt", "labels/train/_darknet.labels", "images/obj.names"),
]


@pytest.mark.parametrize("place", NAMES_AT)
def test_where_class_names_lie(put, place):
    files = {"images/train/a.jpg": None, "labels/train/a.txt": LINE, place: "cat\ndog\n"}

    assert read_dataset(put(**files)).classes == ("cat", "dog")


def test_class_names_in_notes_of_label_studio(put):
    notes = '{"categories": [{"id": 1, "name": "dog"}, {"id": 0, "name": "cat"}], "info": {}}'
    files = {"images/a.jpg": None, "labels/a.txt": LINE}

    assert read_dataset(put(**files, **{"notes.json": notes})).classes == ("cat", "dog")
    assert read_dataset(put(**{"notes.json": '{"text": [1]}'})).classes == ("0", "1")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("data.yaml", "train: images\nnames: [cat, dog]\n"), ("classes.txt", "dog\ncat\n")),
        (("classes.txt", "cat\ndog\n"), ("obj.names", "cat\nbird\n")),
        (("labels/_darknet.labels", "cat\ndog\n"), ("images/classes.txt", "dog\n")),
        (("classes.txt", "cat\ndog\n"), ("notes.json", '{"categories": [{"id": 0, "name": "x"}]}')),
    ],
)
def test_class_names_that_disagree_are_an_error(put, first, second):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, first[0]: first[1], second[0]: second[1]}

    with pytest.raises(DataError, match="two files name the classes otherwise") as caught:
        read_dataset(put(**files))

    assert f"in {first[0]}" in caught.value.what
    assert f"in {second[0]}" in caught.value.what


def test_a_list_of_classes_may_begin_as_another(put):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "classes.txt": "cat\n"}

    table = read_dataset(put(**files, **{"data.yaml": "train: images\nnames: [cat, dog]\n"}))

    assert table.classes == ("cat", "dog")


DARKNET = {
    "obj.data": "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n",
    "obj.names": "cat\ndog\n",
    "train.txt": "data/obj_train_data/a.jpg\n",
    "obj_train_data/a.txt": LINE,
}


def test_darknet_images_apart_go_with_their_labels(put):
    table = read_dataset(put(**DARKNET, **{"images/a.jpg": None}))

    assert list(table.files) == ["images/a.jpg"]
    assert table.boxes.tolist() == [BOX]
    assert {split: rows.tolist() for split, rows in table.splits.items()} == {"train": [0]}


def test_boxes_of_images_that_are_not_there_are_an_error(put):
    with pytest.raises(DataError, match=r"none of its images is there, such as .*obj_train_data/a"):
        read_dataset(put(**DARKNET))


def test_labels_that_all_go_without_an_image_are_an_error(put):
    files = {"images/a.jpg": None, "texts/x.txt": LINE, "texts/y.txt": LINE}

    with pytest.raises(DataError, match=r"2 files of labels, such as texts/x.txt, and none"):
        read_dataset(put(**files, **{"data.yaml": "train: images\nnames: [cat, dog]\n"}))


def test_an_end_that_two_lines_of_a_list_have_is_of_neither(put):
    files = {
        "images/a.jpg": None,
        "labels/a.txt": LINE,
        "l.txt": "x/a.jpg\ny/a.jpg\nimages/a.jpg\n",
    }

    table = read_dataset(put(**files, **{"data.yaml": "train: l.txt\nnames: [cat, dog]\n"}))

    assert list(table.files) == ["x/a.jpg", "y/a.jpg", "images/a.jpg"]


def test_boxes_in_pixels_are_an_error(put):
    files = {"images/a.jpg": None, "labels/a.txt": "0 30 25 40 30\n0 1 3 1.5 2\n0 0.5 6 8 12\n"}

    with pytest.raises(DataError, match=r"a.txt:1: `30 25 40 30` is in pixels, not fractions"):
        read_dataset(put(**files))
    assert len(read_dataset(put(**{"labels/a.txt": f"0 30 25 40 30\n{LINE}"})).boxes) == 2


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b]\n",
            r"data.yaml: .*line 3: aliases .* not read",
        ),
        ("names: [[a, b]]\n", "data.yaml: class 0 is not text"),
        ("names: {0: cat, 1: {a: b}}\n", "data.yaml: class 1 is not text"),
    ],
)
def test_names_that_are_no_text(put, names, said):
    files = {"images/a.jpg": None, "labels/a.txt": LINE, "data.yaml": f"train: images\n{names}"}

    with pytest.raises(DataError, match=said):
        read_dataset(put(**files))


def place_as_ultralytics(yaml_file, cwd):
    """Split → images and their label files, by Ultralytics' rules.

    `path` is the folder of the YAML unless it is given, and then taken from the working directory;
    a line of a list that begins with `./` from the folder of the list; labels are where the last
    `/images/` is `/labels/`.
    """
    told = yaml.safe_load(yaml_file.read_text("utf-8"))
    base = cwd / told["path"] if told.get("path") else yaml_file.parent
    found = {}
    for split in ("train", "val", "test"):
        if split not in told:
            continue
        place = base / told[split]
        if place.is_dir():
            images = sorted(place.rglob("*.*"))
        else:
            lines = place.read_text("utf-8").split()
            images = [
                place.parent / line if line.startswith("./") else cwd / line for line in lines
            ]
        labels = ["/labels/".join(str(i.with_suffix(".txt")).rsplit("/images/", 1)) for i in images]
        found[split] = (images, [Path(label) for label in labels])
    return found, told["names"]


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_written_is_found_by_ultralytics_rules(sample, tmp_path, shared):
    splits = {"train": np.array([0, 1]), "val": np.array([1, 2] if shared else [2])}
    write_dataset(replace(sample, splits=splits), tmp_path / "out", "yolo")

    found, names = place_as_ultralytics(tmp_path / "out/data.yaml", tmp_path / "elsewhere")

    assert {split: len(images) for split, (images, _) in found.items()} == {
        split: len(rows) for split, rows in splits.items()
    }
    assert all(path.is_file() for both in found.values() for paths in both for path in paths)
    assert names == {0: "cat", 1: "hot dog"}
    again = read_dataset(tmp_path / "out")
    assert {split: len(rows) for split, rows in again.splits.items()} == {
        split: len(rows) for split, rows in splits.items()
    }

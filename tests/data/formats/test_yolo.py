"""YOLO: layouts, class names, lines of every length."""

import re

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

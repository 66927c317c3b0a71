"""Label files of YOLO and KITTI as detections, on images that lie elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, read_detections, write_dataset
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError
from dhcli.inference.writers import FORMATS, Place, Prediction, find_twins

BOX = [15, 7.5, 25, 22.5]


@pytest.fixture
def truth(lay: Callable[..., Path]) -> DetectionTable:
    """Four images of a YOLO dataset in two splits, two of them twins; two classes."""
    names = ("train/a", "train/b", "val/a", "val/c")
    labels = {f"images/{name}.txt": "0 0.5 0.5 0.25 0.5\n" for name in names}
    files = {file.replace("images/", "labels/"): text for file, text in labels.items()}
    images = [f"images/{name}.jpg" for name in names] + ["images/val/c.png"]
    return read_dataset(lay(files | {"classes.txt": "cat\ndog\n"}, *images))


def predict(folder: Path, kind: str, *names: str) -> Path:
    place = Place(folder, ("cat", "dog"), (1, 2), find_twins(names))
    with FORMATS[kind](place) as write:
        for number, name in enumerate(names):
            columns = np.array([BOX]), np.array([0.5 + number / 10])
            write(Prediction(name, (40, 30), *columns, np.array([1]), np.zeros((30, 40, 3), "u1")))
    return folder / kind


@pytest.mark.parametrize("kind", ["yolo", "kitti", "voc"])
@pytest.mark.parametrize("above", ["", "images/", "data/images/"])
def test_predictions_in_folders_are_read_back(tmp_path, truth, kind, above):
    names = ("train/a.jpg", "val/a.jpg", "val/c.jpg", "val/c.png")
    labels = predict(tmp_path / "out", kind, *(f"{above}{name}" for name in names))

    found = read_detections(labels, truth)

    images = [truth.files[image] for image in found.image_of_box.tolist()]
    assert images == [f"images/{name}" for name in names]
    np.testing.assert_allclose(found.boxes, [BOX] * 4, atol=0.01)
    assert found.scores.tolist() == [0.5, 0.6, 0.7, 0.8]
    assert [found.classes[label] for label in found.labels] == ["dog"] * 4


@pytest.mark.parametrize("names", [("train/a.jpg",), ("train/a.jpg", "val/a.jpg")])
def test_lists_beside_files_of_voc_are_no_labels(tmp_path, truth, names):
    found = predict(tmp_path / "out", "voc", *(f"Annotations/{name}" for name in names))
    (found / "ImageSets/Main").mkdir(parents=True)
    (found / "ImageSets/Main/val.txt").write_text("a\n")

    assert len(read_detections(found, truth).boxes) == len(names)


def test_numbers_without_names_are_those_of_the_dataset(tmp_path, truth):
    labels = predict(tmp_path / "out", "yolo", "train/b.jpg")
    (labels / "classes.txt").unlink()

    assert read_detections(labels, truth).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "a.txt",
            "1 .5 .5 .1 .1 .9\n",
            r"a\.txt: could be of images/train/a.jpg or of",
        ),
        (
            "z.txt",
            "1 .5 .5 .1 .1 .9\n",
            r"holds no label file of an image .* but z.txt",
        ),
        ("train/b.txt", "1 .5 .5\n", r"out/train/b\.txt:1: expected 5 columns"),
    ],
)
def test_label_files_that_cannot_be_used(tmp_path, truth, file, text, said):
    path = tmp_path / "out" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)

    with pytest.raises(DataError, match=said):
        read_detections(tmp_path / "out", truth)


def test_a_written_dataset_is_read_back_with_its_scores(tmp_path, truth):
    found = read_detections(predict(tmp_path / "out", "yolo", "train/b.jpg"), truth)
    write_dataset(found, tmp_path / "written", "yolo")

    again = read_dataset(tmp_path / "written", predictions=True)

    assert again.scores.tolist() == [0.5]
    np.testing.assert_allclose(again.boxes, [BOX], atol=1e-4)


def test_predictions_without_scores_are_said_to_be_ground_truth(lay):
    rows = "0 .5 .5 .1 .1 .9\n0 .5 .5 .2 .2\n"
    folder = lay({"labels/a.txt": rows, "classes.txt": "cat\n"}, "images/a.jpg")

    table = read_dataset(folder, predictions=True)

    assert table.scores is None
    assert "boxes without scores, or with some only: read as ground truth" in table.notes


@pytest.mark.parametrize("format", ["kitti", "voc", "csv", "coco", "yolo"])
def test_every_format_is_under_the_names_of_the_dataset_and_leaves_out_no_class(
    tmp_path, truth, format
):
    truth = replace(truth.take_images(np.array([1, 3])), classes=("traffic light", "dog"))
    first = np.flatnonzero(truth.labels == 0)[:1]
    found = truth.keep_boxes(np.isin(np.arange(len(truth.boxes)), first))
    write_dataset(replace(found, scores=np.array([0.5])), tmp_path / "found", format, images="none")

    again = read_detections(tmp_path / "found", truth)

    assert set(again.classes) == {"traffic light", "dog"}
    assert [again.classes[label] for label in again.labels] == ["traffic light"]


def test_rows_that_cannot_be_read_are_named_where_they_lie(tmp_path, truth, unreadable):
    labels = predict(tmp_path / "out", "yolo", "train/b.jpg", "val/a.jpg")
    with (labels / "val/a.txt").open("a") as file:
        file.write("1 .5 .5\n")

    found = read_detections(labels, truth)

    assert unreadable(found) == [
        "val/a.txt:2: expected 5 columns, 6 with a score, or a polygon; found 3"
    ]
    assert len(found.boxes) == 2


RESERVED = ("classes.jpg", "Labels.jpg", "d/names.png", "readme.jpg", "a.jpg")


@pytest.fixture
def reserved(lay):
    """A YOLO dataset of images that are called as files of names are."""
    labels = {f"labels/{name[:-4]}.txt": "1 0.5 0.5 0.25 0.5\n" for name in RESERVED}
    settings = "names: [cat, dog]\nval: images\n"
    images = (f"images/{name}" for name in RESERVED)
    return read_dataset(lay({**labels, "data.yaml": settings}, *images))


@pytest.mark.parametrize("kind", ["yolo", "kitti"])
def test_images_called_as_files_of_names_are_read_back(tmp_path, reserved, kind):
    found = read_detections(predict(tmp_path / "out", kind, *RESERVED), reserved)

    images = [reserved.files[image] for image in found.image_of_box.tolist()]
    scores = dict(zip(images, found.scores.tolist(), strict=True))
    expected = {f"images/{name}": 0.5 + n / 10 for n, name in enumerate(RESERVED)}
    assert scores == pytest.approx(expected)
    assert {found.classes[label] for label in found.labels} == {"dog"}


@pytest.mark.parametrize("kind", ["yolo", "kitti"])
def test_other_tools_call_label_files_as_files_of_names(tmp_path, reserved, kind):
    labels = predict(tmp_path / "out", kind, *RESERVED)
    (labels / "classes.txt").unlink(missing_ok=True)
    for name in RESERVED[:-1]:
        (labels / f"{name}.txt").rename((labels / name).with_suffix(".txt"))

    found = read_detections(labels, reserved)

    assert len(found.boxes) == len(RESERVED)
    assert {found.classes[label] for label in found.labels} == {"dog"}


@pytest.mark.parametrize("kind", ["yolo", "kitti"])
def test_the_file_of_an_image_is_not_that_of_another_called_like_the_file(tmp_path, lay, kind):
    names = ("a.jpg", "a.png", "a.jpg.png", "classes.jpg", "classes.jpg.png")
    labels = {f"labels/{name}.txt": "1 0.5 0.5 0.25 0.5\n" for name in names}
    settings = {"data.yaml": "names: [cat, dog]\nval: images\n"}
    truth = read_dataset(lay(labels | settings, *(f"images/{name}" for name in names)))

    found = read_detections(predict(tmp_path / "out", kind, *names), truth)

    images = [truth.files[image].removeprefix("images/") for image in found.image_of_box.tolist()]
    scores = dict(zip(images, found.scores.tolist(), strict=True))
    assert scores == pytest.approx({name: 0.5 + n / 10 for n, name in enumerate(names)})


def test_two_label_files_of_one_image_are_an_error(tmp_path, truth):
    labels = predict(tmp_path / "out", "yolo", "train/b.jpg")
    (labels / "train/b.jpg.txt").write_text("1 .5 .5 .1 .1 .9\n")

    with pytest.raises(DataError, match=r"b\.txt: is of images/train/b.jpg, as train/b.jpg.txt is"):
        read_detections(labels, truth)


def test_an_empty_label_file_names_no_classes(tmp_path, reserved):
    labels = predict(tmp_path / "out", "yolo", "a.jpg")
    (labels / "classes.txt").write_text("")

    assert read_detections(labels, reserved).classes == ("cat", "dog")


def test_a_file_of_names_is_no_label_file_of_an_image(lay, unreadable):
    files = {"labels/classes.txt": "cat\ndog\n", "labels/a.txt": "1 0.5 0.5 0.25 0.5\n"}

    table = read_dataset(lay(files, "images/a.jpg", "images/classes.jpg"))

    assert unreadable(table) == []
    assert (table.classes, len(table), len(table.boxes)) == (("cat", "dog"), 2, 1)

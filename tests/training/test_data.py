from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dhcli.config.schema import Data
from dhcli.data.table import ANY_CLASS, FIRST_PIXEL, DetectionTable, Flag, make_table
from dhcli.errors import ConfigError, DataError
from dhcli.training.data import TrainingData, load_data
from dhcli.training.journal import Journal

Load = Callable[..., TrainingData]


@pytest.fixture
def make_dots(tmp_path: Path) -> Callable[..., DetectionTable]:
    """`count` images with a `cat` box and a `dog` box each."""

    def make(
        count: int = 10, classes: tuple[str, ...] = ("cat", "dog"), **columns: Any
    ) -> DetectionTable:
        files = [f"{number}.png" for number in range(count)]
        for file in files:
            Image.new("RGB", (32, 24)).save(tmp_path / file)
        boxes = [[2, 2, 12, 12], [10, 10, 30, 20]] * count
        sizes, labels = [[32, 24]] * count, [0, 1] * count
        return make_table(tmp_path, files, sizes, [2] * count, boxes, labels, classes, **columns)

    return make


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, recorder: Any) -> Load:
    """`load_data` where the datasets `train` and `val` are these tables."""

    def call(train: DetectionTable, val: DetectionTable | None = None, **settings: Any) -> Any:
        tables = {"train": train, "val": val}
        monkeypatch.setattr("dhcli.training.data.read_dataset", lambda path: tables[str(path)])
        names = {"train": "train"} | ({"val": "val"} if val else {})
        return load_data(Data(**names, **settings), 0, Journal(recorder))

    return call


def _splits(**splits: list[int]) -> dict[str, Any]:
    return {name: np.array(images, np.int64) for name, images in splits.items()}


def test_no_dataset_is_said_with_the_way_out(recorder: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_data(Data(), 0, Journal(recorder))

    assert "--data" in str(caught.value.hint)


def test_named_splits_are_used(load: Load, make_dots: Any, recorder: Any) -> None:
    table = replace(make_dots(), splits=_splits(train=[0, 1, 5], val=[2, 3], test=[4]))

    data = load(table)

    assert list(data.train.files) == ["0.png", "1.png", "5.png"]
    assert list(data.val.files) == ["2.png", "3.png"]
    assert "10 images" in recorder.lines[0]
    assert list(load(table, val_split="test").val.files) == ["4.png"]


def test_dataset_without_splits_is_divided_the_same_way_every_time(
    load: Load, make_dots: Any, recorder: Any
) -> None:
    first, again = load(make_dots(), val_fraction=0.3), load(make_dots(), val_fraction=0.3)

    assert (len(first.train), len(first.val)) == (7, 3)
    assert list(first.val.files) == list(again.val.files)
    assert not set(first.train.files) & set(first.val.files)
    assert any("3 of 10 images set aside" in line for line in recorder.lines)


def test_one_image_cannot_be_divided_and_the_way_out_works(load: Load, make_dots: Any) -> None:
    with pytest.raises(DataError, match="1 image cannot be divided") as caught:
        load(make_dots(1))

    assert "`--set data.val_fraction=0`" in str(caught.value.hint)
    data = load(make_dots(1), val_fraction=0)
    assert (len(data.train), data.val) == (1, None)


def test_an_empty_val_split_is_as_none(load: Load, make_dots: Any, recorder: Any) -> None:
    table = replace(make_dots(), splits=_splits(train=range(8), val=range(0)))

    data = load(table, val_fraction=0.25)

    assert (len(data.train), len(data.val)) == (6, 2)
    assert any("nothing is in its split `val`: 2 of 8" in line for line in recorder.lines)


def test_only_the_train_split_is_divided_where_there_is_no_val(load: Load, make_dots: Any) -> None:
    table = replace(make_dots(), splits=_splits(train=[0, 1, 2, 3, 4], test=[5, 6, 7, 8, 9]))

    data = load(table)

    assert {*data.train.files, *data.val.files} == {f"{number}.png" for number in range(5)}


def test_unknown_train_split_names_what_there_is(load: Load, make_dots: Any) -> None:
    table = replace(make_dots(), splits=_splits(trainval=[0], test=[1]))

    with pytest.raises(DataError, match="no split `train`; the dataset has: trainval, test"):
        load(table)


def test_a_split_of_another_name_is_learned_from_and_divided(load: Load, make_dots: Any) -> None:
    table = replace(make_dots(), splits=_splits(val=range(10)))

    with pytest.raises(DataError, match="no split `train`; the dataset has: val") as caught:
        load(table)
    data = load(table, train_split="val")

    assert "`--set data.train_split=val`" in str(caught.value.hint)
    assert (len(data.train), len(data.val)) == (8, 2)


def test_a_second_dataset_of_other_splits_says_how_to_validate_on_one(
    load: Load, make_dots: Any
) -> None:
    """It told to change the split that is trained on."""
    table = replace(make_dots(), splits=_splits(train=range(8)))
    other = replace(make_dots(), splits=_splits(test=[8, 9]))

    with pytest.raises(DataError, match="no split `val`; the dataset has: test") as of_val:
        load(table, other)
    with pytest.raises(DataError, match="no split `train`; the dataset has: test") as of_train:
        load(other, table)

    assert of_val.value.hint == "validate on another: `--set data.val_split=test`"
    assert of_train.value.hint == "train on another: `--set data.train_split=test`"
    assert list(load(table, other, val_split="test").val.files) == ["8.png", "9.png"]


def test_splits_that_share_images_are_refused(load: Load, make_dots: Any) -> None:
    table = replace(make_dots(), splits=_splits(trainval=[0, 1, 2], val=[2, 3]))

    with pytest.raises(DataError, match=r"share 1 image, such as 2\.png"):
        load(table, train_split="trainval")


def test_nothing_set_aside_is_a_warning(load: Load, make_dots: Any, recorder: Any) -> None:
    data = load(make_dots(), val_fraction=0)

    assert data.val is None
    assert "no validation" in recorder.warnings[0]


def test_validation_classes_match_by_name(load: Load, make_dots: Any) -> None:
    val = make_dots(4, ("dog", "cat"))

    data = load(make_dots(), val)

    assert data.val.classes == data.train.classes == ("cat", "dog")
    assert data.val.labels.tolist() == [1, 0] * 4


def test_datasets_whose_first_pixels_differ_are_warned_of(
    load: Load, make_dots: Any, recorder: Any
) -> None:
    load(make_dots(about={FIRST_PIXEL: "0"}), make_dots(4, about={FIRST_PIXEL: "1"}))

    assert any("the first pixel is 0 in" in line for line in recorder.warnings)


def test_validation_class_that_was_not_learned_is_named(load: Load, make_dots: Any) -> None:
    with pytest.raises(DataError, match="`bird`"):
        load(make_dots(), make_dots(4, ("cat", "bird")))


def test_misspelt_class_is_refused_with_the_nearest(load: Load, make_dots: Any) -> None:
    with pytest.raises(DataError) as caught:
        load(make_dots(), classes=("cat", "dogg"))

    assert "`dogg`" in caught.value.what
    assert "did you mean `dog`" in str(caught.value.hint)


def test_a_dataset_that_names_a_class_twice_is_refused(load: Load, make_dots: Any) -> None:
    with pytest.raises(DataError, match="two classes are named `dog`"):
        load(make_dots(classes=("cat", "dog", "dog")))


@pytest.mark.parametrize(("others", "labels"), [("ignore", [0, ANY_CLASS]), ("drop", [0])])
def test_other_classes(others: str, labels: list[int], load: Load, make_dots: Any) -> None:
    data = load(make_dots(), classes=("cat",), others=others)

    assert data.train.classes == ("cat",)
    assert data.train.labels.tolist() == labels * len(data.train)


def test_images_without_objects_stay_or_go(load: Load, make_dots: Any) -> None:
    flags = np.zeros(20, np.uint8)
    flags[:8] = Flag.CROWD  # images 0 … 3 hold regions to ignore only
    table = replace(make_dots(flags=flags), splits=_splits(train=range(8), val=[8, 9]))

    assert len(load(table).train) == 8
    assert list(load(table, empty="drop").train.files) == [f"{n}.png" for n in (4, 5, 6, 7)]


def test_no_object_at_all_is_an_error(load: Load, make_dots: Any) -> None:
    flags = np.full(20, Flag.DIFFICULT, np.uint8)
    table = replace(make_dots(flags=flags), splits=_splits(train=range(8), val=[8, 9]))

    with pytest.raises(DataError, match="no training image, of 8, holds an object"):
        load(table)
    assert len(load(table, difficult="keep").train) == 8


def test_broken_boxes_are_counted_and_the_first_named(
    load: Load, make_dots: Any, recorder: Any, tmp_path: Path
) -> None:
    table = make_dots()
    boxes = table.boxes.copy()
    boxes[:14:2, 2] = boxes[:14:2, 0]  # seven boxes without area

    data = load(replace(table, boxes=boxes, splits=_splits(train=range(8), val=[8, 9])))

    assert len(data.train.boxes) == 9
    assert "findings in the training data (train.log has all):" in recorder.warnings[0]
    named = [line for line in recorder.lines if line.startswith("  ") and "box-empty" in line]
    assert len(named) == 4
    assert named[0].startswith("  box-empty: 0.png")
    assert named[3] == "  … and 4 more box-empty"


def test_class_without_a_training_box_is_a_warning(
    load: Load, make_dots: Any, recorder: Any
) -> None:
    load(make_dots(classes=("cat", "dog", "bird")))

    assert any("class-unused: class bird" in line for line in recorder.lines)


def test_an_image_that_is_learned_from_and_validated_on_is_said(
    load: Load, make_dots: Any, recorder: Any
) -> None:
    table = make_dots()
    copy = table.path(9).read_bytes()
    for image in range(len(table)):
        table.path(image).write_bytes(table.path(0).read_bytes() + bytes([image]))
    table.path(0).write_bytes(copy)
    table.path(9).write_bytes(copy)

    load(replace(table, splits=_splits(train=range(8), val=[8, 9])))

    said = [line for line in recorder.lines if "split-leak" in line]
    assert said == [
        "  split-leak: 9.png: is the same image as 0.png, which is used for training "
        "(kept; the run stops if both splits list it)"
    ]

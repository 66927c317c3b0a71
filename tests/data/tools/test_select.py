"""Choosing classes, boxes and images."""

import numpy as np
import pytest

from dhcli.data.table import ANY_CLASS, make_table
from dhcli.data.tools.select import (
    drop_classes,
    drop_small,
    keep_classes,
    limit_images,
    rename_classes,
)
from dhcli.errors import DataError


@pytest.fixture
def table():
    return make_table(
        "root",
        ["a.jpg", "b.jpg", "c.jpg"],
        [[9, 9]] * 3,
        [2, 2, 0],
        [[0, 0, 2, 2], [0, 0, 3, 3], [0, 0, 1, 1], [0, 0, 4, 4]],
        [0, 1, 2, ANY_CLASS],
        ("cat", "dog", "Cat"),
        category_ids=np.array([5, 7, 9]),
        splits={"train": np.array([2, 0]), "val": np.array([1])},
    )


def test_classes_that_get_one_name_become_one(table):
    renamed = rename_classes(table, {"Cat": "cat", "dog": "hound"})

    assert renamed.classes == ("cat", "hound")
    assert renamed.category_ids.tolist() == [5, 7]
    assert renamed.labels.tolist() == [0, 1, 0, ANY_CLASS]
    assert table.labels.tolist() == [0, 1, 2, ANY_CLASS]


def test_names_can_change_places(table):
    renamed = rename_classes(table, {"cat": "dog", "dog": "cat"})

    assert (renamed.classes, renamed.labels.tolist()) == (
        ("dog", "cat", "Cat"),
        [0, 1, 2, ANY_CLASS],
    )


def test_kept_classes_take_the_order_asked_for_and_regions_stay(table):
    kept = keep_classes(table, ["Cat", "cat"])

    assert (kept.classes, kept.category_ids.tolist()) == (("Cat", "cat"), [9, 5])
    assert kept.labels.tolist() == [1, 0, ANY_CLASS]
    assert len(kept) == 3


def test_dropped_classes_go_with_their_boxes(table):
    left = drop_classes(table, ["dog"])

    assert (left.classes, left.labels.tolist()) == (("cat", "Cat"), [0, 1, ANY_CLASS])


@pytest.mark.parametrize("choose", [keep_classes, drop_classes])
def test_a_class_that_is_not_there_is_named(table, choose):
    with pytest.raises(DataError, match="there is no class `dgo`") as caught:
        choose(table, ["dgo"])

    assert caught.value.hint == "did you mean `dog`?"


def test_small_boxes_go_and_their_images_stay(table):
    assert drop_small(table, 4).boxes[:, 2].tolist() == [2, 3, 4]
    assert len(drop_small(table, 100)) == 3


def test_the_first_images_keep_their_splits(table):
    first = limit_images(table, 2)

    assert list(first.files) == ["a.jpg", "b.jpg"]
    assert {k: v.tolist() for k, v in first.splits.items()} == {"train": [0], "val": [1]}
    assert len(limit_images(table, 9)) == 3
    assert list(limit_images(table, 1).splits) == ["train"]

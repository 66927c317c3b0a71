"""Several tables as one."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dhcli.data.merge import merge_datasets, merge_tables
from dhcli.data.strings import Strings
from dhcli.data.table import make_table


def table_of(files, classes, *, ids, first=1, **columns):
    """One box of each class in each image."""
    count = len(classes)
    return make_table(
        "root",
        files,
        [[9, 9]] * len(files),
        [count] * len(files),
        [[k, 0, k + 1, 1] for _ in files for k in range(count)],
        list(range(count)) * len(files),
        classes,
        category_ids=np.array(ids),
        image_ids=np.arange(first, first + len(files)),
        box_ids=np.arange(first * 10, first * 10 + count * len(files)),
        **columns,
    )


def test_classes_go_by_name_in_the_order_of_their_ids():
    one = table_of(["a.jpg"], ("dog", "cat"), ids=[5, 9])
    two = table_of(["b.jpg"], ("ant", "dog"), ids=[2, 5], first=2)

    merged = merge_tables([one, two])

    assert (merged.classes, merged.category_ids.tolist()) == (("ant", "dog", "cat"), [2, 5, 9])
    assert merged.labels.tolist() == [1, 2, 0, 1]
    assert merged.image_ids.tolist() == [1, 2]
    assert merged.box_ids.tolist() == [10, 11, 20, 21]
    assert merged.notes == ()


def test_ids_that_clash_are_given_anew_and_said():
    one = table_of(["a.jpg"], ("dog",), ids=[1])
    two = table_of(["b.jpg"], ("cat", "dog"), ids=[1, 2])

    merged = merge_tables([one, two])

    assert (merged.classes, merged.category_ids.tolist()) == (("dog", "cat"), [1, 2])
    assert merged.labels.tolist() == [0, 1, 0]
    assert merged.image_ids.tolist() == [1, 2]
    assert merged.box_ids.tolist() == [10, 10, 11]
    assert len(merged.notes) == 2


def test_an_image_that_both_list_keeps_the_boxes_of_the_first():
    splits = {"train": np.array([0, 1])}
    one = replace(table_of(["a.jpg", "b.jpg"], ("dog",), ids=[1]), splits=splits)
    two = replace(
        table_of(["c.jpg", "b.jpg"], ("dog",), ids=[1], first=5),
        splits={"val": np.array([1]), "train": np.array([0])},
    )

    merged = merge_tables([one, two])

    assert list(merged.files) == ["a.jpg", "b.jpg", "c.jpg"]
    assert merged.box_ids.tolist() == [10, 11, 50]
    assert {k: v.tolist() for k, v in merged.splits.items()} == {"train": [0, 1, 2], "val": [1]}


def test_columns_that_one_lacks_are_blank_there():
    extras = {"text": Strings.pack(["x"]), "number": np.array([3.0])}
    one = table_of(["a.jpg"], ("dog",), ids=[1])
    two = table_of(["b.jpg"], ("dog",), ids=[1], first=2, extras=extras)

    merged = merge_tables([one, two])

    assert list(merged.extras["text"]) == ["", "x"]
    np.testing.assert_array_equal(merged.extras["number"], [np.nan, 3])


def test_datasets_of_different_folders_keep_their_images_apart():
    one = replace(table_of(["a.jpg"], ("dog",), ids=[1]), root=Path("/data/day"))
    two = replace(table_of(["x/a.jpg"], ("dog",), ids=[1]), root=Path("/data/more/night"))

    merged = merge_datasets([one, two])

    assert merged.root == Path("/data")
    assert list(merged.files) == ["day/a.jpg", "more/night/x/a.jpg"]
    assert merged.image_ids.tolist() == [1, 2]
    assert len(merged.boxes) == 2


def test_an_image_that_two_datasets_list_is_said():
    table = replace(table_of(["a.jpg"], ("dog",), ids=[1]), root=Path("/data/day"))

    merged = merge_datasets([table, table])

    assert (len(merged), len(merged.boxes)) == (1, 1)
    assert merged.notes == ("1 image listed twice: the first boxes are used",)

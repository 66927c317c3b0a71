"""Dividing a dataset so that every class is in both parts."""

from dataclasses import replace

import numpy as np
import pytest

from dhcli.data.strings import Strings
from dhcli.data.table import OWN_COLUMN, SOURCE, make_table
from dhcli.data.tools.split import divide, divide_shares, group_images
from dhcli.errors import DataError


def table_of(*shown, classes="abc"):
    """An image for each of `shown`, a text of the classes in it."""
    labels = [classes.index(name) for names in shown for name in names]
    counts = [len(names) for names in shown]
    boxes = [[0, 0, 1, 1]] * len(labels)
    files = [f"{number}.jpg" for number in range(len(shown))]
    return make_table("root", files, [[9, 9]] * len(shown), counts, boxes, labels, classes)


def test_every_class_is_divided_in_proportion():
    table = divide(table_of(*["a"] * 100, *["b"] * 20, *["c"] * 10, *[""] * 50), 0.2, seed=3)

    val = table.split("val")
    assert np.bincount(val.labels).tolist() == [20, 4, 2]
    assert len(val) == 36
    assert not set(table.splits["train"]) & set(table.splits["val"])
    assert len(table.splits["train"]) + len(table.splits["val"]) == 180


def test_rounding_does_not_add_up():
    names = "abcdefghij"
    table = divide(table_of(*names, *names, classes=names), 0.2, seed=0)

    assert len(table.splits["val"]) == 4
    assert set(table.split("train").labels.tolist()) == set(range(10))


def test_the_only_image_of_a_class_is_learned_from():
    for seed in range(20):
        table = divide(table_of("a", "b", "ab", "c"), 0.5, seed)
        assert 3 in table.splits["train"]
        assert set(table.split("train").labels.tolist()) == {0, 1, 2}


def test_the_same_seed_gives_the_same_split_and_another_another():
    source = table_of(*["a", "b", "ab", ""] * 20)

    parts = [divide(source, 0.25, seed).splits["val"].tolist() for seed in (1, 1, 2)]

    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize(
    ("fraction", "sizes"), [(0, (3, 0)), (1, (0, 3)), (0.01, (2, 1)), (0.99, (1, 2))]
)
def test_extremes(fraction, sizes):
    table = divide(table_of("a", "a", ""), fraction, 0, names=("learn", "look"))

    assert (len(table.splits["learn"]), len(table.splits["look"])) == sizes


def test_other_splits_stay_and_the_source_is_not_changed():
    source = divide(table_of("a", "b"), 0.5, 0, names=("one", "two"))

    assert list(divide(source, 0.5, 0).splits) == ["one", "two", "train", "val"]
    assert list(source.splits) == ["one", "two"]


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_is_a_fraction(fraction):
    with pytest.raises(ValueError, match=r"fraction must lie in \[0, 1\]"):
        divide(table_of("a"), fraction, 0)


def test_three_shares_are_met_by_every_class():
    table = table_of(*["a"] * 100, *["b"] * 20, *["c"] * 10)

    parts = divide_shares(table, {"train": 0.7, "val": 0.2, "test": 0.1}, seed=0)

    counted = {name: np.bincount(parts.split(name).labels).tolist() for name in parts.splits}
    assert counted == {"train": [70, 14, 7], "val": [20, 4, 2], "test": [10, 2, 1]}
    assert sum(map(len, parts.splits.values())) == 130


def test_groups_stay_together_and_shares_are_near(rng):
    groups = np.sort(rng.integers(0, 40, 400))
    table = table_of(*rng.choice(list("abc"), 400).tolist())

    parts = divide_shares(table, {"train": 0.8, "val": 0.2}, seed=1, groups=groups).splits

    assert not set(groups[parts["train"]]) & set(groups[parts["val"]])
    assert 60 <= len(parts["val"]) <= 100
    assert len(parts["train"]) + len(parts["val"]) == 400


def test_fewer_groups_than_splits_are_an_error():
    table = table_of(*["a"] * 6)

    with pytest.raises(DataError, match="make 2 groups, too few for 3 splits"):
        divide_shares(table, {"a": 0.5, "b": 0.3, "c": 0.2}, 0, np.array([0, 0, 0, 7, 7, 7]))


def test_groups_go_by_a_column_of_the_images():
    column = Strings.pack(["p1", "p2", "p1", "", ""])
    table = replace(table_of(*["a"] * 5), image_extras={f"{OWN_COLUMN}patient": column})

    assert group_images(table, "patient").tolist() == [0, 1, 0, 8, 9]
    with pytest.raises(DataError, match="`video` is not a column") as caught:
        group_images(table, "video")
    assert caught.value.hint == "the columns are patient"


def test_groups_go_by_a_field_of_cocos_images():
    texts = [f'{{"id": 1, "file_name": "a", "video_id": {video}}}' for video in (7, 8, 7)]
    table = replace(table_of(*["a"] * 3), image_extras={SOURCE: Strings.pack(texts)})

    assert group_images(table, "video_id").tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="`patient` is not a column") as caught:
        group_images(table, "patient")
    assert caught.value.hint == "the columns are video_id"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(.+)_[0-9]+", [0, 0, 1, "alone"]),
        ("^[a-z]+", [0, 0, 1, 2]),
        ("(x)|[0-9]+", [0, 1, 0, "alone"]),
    ],
)
def test_groups_go_by_what_the_pattern_finds(pattern, expected):
    files = ["cam_1.jpg", "cam_2.jpg", "van_1.jpg", "odd.jpg"]
    table = make_table("root", files, [[9, 9]] * 4, [0] * 4, [], [], ())

    found = group_images(table, pattern).tolist()

    assert [number if number < 4 else "alone" for number in found] == expected
    assert len({number for number in found if number >= 4}) == expected.count("alone")

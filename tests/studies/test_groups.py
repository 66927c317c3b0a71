"""Groups of objects: sizes, and thirds of the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dhcli.data.table import make_table
from dhcli.errors import ConfigError
from dhcli.studies.groups import group_objects, rank_classes
from dhcli.studies.objects import Objects


def objects_of(labels: list[int], sizes: list[int]) -> Objects:
    table = make_table(Path(), [], [], [], [], [], ())
    zeros = np.zeros(len(labels), np.int64)
    boxes = np.zeros((len(labels), 4))
    return Objects(table, "all", ("a", "b", "c"), zeros, boxes, np.array(labels), np.array(sizes))


def test_classes_are_ranked_in_thirds_by_ap() -> None:
    ap = np.array([0.1, 0.9, np.nan, 0.5, 0.3, 0.7, 0.2, 0.6])

    assert rank_classes(ap).tolist() == [2, 0, -1, 1, 1, 0, 2, 0]


def test_two_classes_have_no_thirds() -> None:
    with pytest.raises(ConfigError, match="at least 3 classes with objects, got 2"):
        rank_classes(np.array([0.5, np.nan, 0.1]))


def test_groups_are_sizes_and_difficulties_that_hold_an_object() -> None:
    objects = objects_of([0, 1, 1, 2], [0, 0, 2, 2])

    groups = group_objects(objects, np.array([2, 0, -1]))

    found = {group.title: np.flatnonzero(group.members).tolist() for group in groups}
    assert found == {
        "all objects": [0, 1, 2, 3],
        "small": [0, 1],
        "large": [2, 3],
        "easy classes": [1, 2],
        "hard classes": [0],
    }

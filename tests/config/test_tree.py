from __future__ import annotations

from copy import deepcopy

import pytest

from dhcli.config.merge import merge
from dhcli.config.tree import Node, Written, as_plain, as_tree, item_name, leaves
from dhcli.errors import ConfigError

BELOW = {"a": {"x": 1, "y": 2}, "steps": [8, 11], "branches": [{"name": "fc"}, {"name": "conv"}]}


def merged(above: object) -> Node:
    return merge(as_tree(BELOW, "default"), as_tree(above, "--set"))


def test_mappings_merge_and_lists_replace() -> None:
    plain = as_plain(merged({"a": {"y": 3}, "steps": [1], "branches": [{"kind": "fc"}]}))

    assert plain == {"a": {"x": 1, "y": 3}, "steps": (1,), "branches": ({"kind": "fc"},)}


@pytest.mark.parametrize("address", ["conv", "1"])
def test_a_mapping_over_a_list_changes_one_item(address: str) -> None:
    plain = as_plain(merged({"branches": {address: {"omega": 2}}}))

    assert plain["branches"] == ({"name": "fc"}, {"name": "conv", "omega": 2})


def test_a_mapping_over_a_list_of_values_changes_one_value() -> None:
    tree = merged({"steps": {"1": 10}})

    assert as_plain(tree)["steps"] == (8, 10)
    assert dict(leaves(tree))["steps"].origin == "--set"


@pytest.mark.parametrize(
    ("above", "what", "hint"),
    [
        ({"branches": {"box": {}}}, "`branches` has no item `box`", "it has `fc`, `conv`"),
        ({"branches": {"2": {"x": 1}}}, "no item `2` in --set", "it has `fc`, `conv`"),
        ({"steps": {"-1": 1}}, "`steps` has no item `-1` in --set", "it has `0`, `1`"),
    ],
)
def test_an_item_that_is_not_there(above: object, what: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        merged(above)

    assert caught.value.hint == hint


def test_merging_changes_neither_side() -> None:
    below, above = as_tree(BELOW, "default"), as_tree({"a": {"x": 5}, "steps": {"0": 1}}, "--set")
    before = deepcopy((below, above))

    merge(below, above)

    assert (below, above) == before


def test_leaves_go_by_names_and_remember_their_origin() -> None:
    tree = merged({"branches": {"conv": {"omega": 2}}})

    origins = {key: leaf.origin for key, leaf in leaves(tree)}

    assert origins == {
        "a.x": "default",
        "a.y": "default",
        "steps": "default",
        "branches.fc.name": "default",
        "branches.conv.name": "default",
        "branches.conv.omega": "--set",
    }


@pytest.mark.parametrize(
    ("item", "name"),
    [({"name": "box", "kind": "fc"}, "box"), ({"kind": "fc"}, "fc"), ({"name": 3}, "7"), ({}, "7")],
)
def test_an_item_goes_by_its_name_its_kind_or_its_index(item: dict[str, object], name: str) -> None:
    assert item_name(as_tree(item, "default"), 7) == name


def test_an_empty_list_is_a_value() -> None:
    assert as_tree({"x": ()}, "default") == {"x": Written([], "default")}

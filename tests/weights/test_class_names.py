"""Names of classes, as people give them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dhcli.errors import ConfigError
from dhcli.weights.class_names import parse_class_names


def test_a_json_list_is_names_in_order(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text('["dog", "cat"]')

    assert parse_class_names(str(path)) == (("dog", "cat"), (1, 2))


@pytest.mark.parametrize("content", ["[", "3", "{}", {"categories": [{"id": "x", "name": "a"}]}])
def test_json_without_names_is_an_error(content: object, tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))

    with pytest.raises(ConfigError, match=r"names\.json: holds no class names"):
        parse_class_names(str(path))


@pytest.mark.parametrize("text", ["cat,dog,cat", " , "])
def test_names_are_different_and_at_least_one(text: str) -> None:
    with pytest.raises(ConfigError, match="must be different, and at least one"):
        parse_class_names(text)

"""Settings as written, before they are checked: a tree whose leaves remember where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Written:
    """A value (scalar, or list that holds no mappings) and the place it was written in."""

    value: Any
    origin: str


Node: TypeAlias = "dict[str, Node] | list[Node] | Written"
"""A mapping, a list of mappings, or a value."""


def as_tree(value: Any, origin: str) -> Node:
    """The plain `value` as a tree, every leaf written at `origin`."""
    if isinstance(value, dict):
        return {str(key): as_tree(child, origin) for key, child in value.items()}
    if isinstance(value, list | tuple) and value and all(isinstance(i, dict) for i in value):
        return [as_tree(item, origin) for item in value]
    return Written(list(value) if isinstance(value, tuple) else value, origin)


def as_plain(node: Node) -> Any:
    """The values of a tree alone; lists become tuples, which is what the schema holds."""
    if isinstance(node, dict):
        return {key: as_plain(child) for key, child in node.items()}
    if isinstance(node, list):
        return tuple(as_plain(item) for item in node)
    return _frozen(node.value)


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Written]]:
    """Every leaf with its dotted key; an item of a list goes by its name, or its index."""
    if isinstance(node, Written):
        yield path, node
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, join(path, key))
    else:
        for index, item in enumerate(node):
            yield from leaves(item, join(path, item_name(item, index)))


def item_name(item: Node, index: int) -> str:
    """How an item of a list is addressed: by its `name`, else its `kind`, else its index."""
    for key in ("name", "kind"):
        named = item.get(key) if isinstance(item, dict) else None
        if isinstance(named, Written) and isinstance(named.value, str):
            return named.value
    return str(index)


def join(path: str, key: str) -> str:
    """The dotted key of `key` below `path`."""
    return f"{path}.{key}" if path else key


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value

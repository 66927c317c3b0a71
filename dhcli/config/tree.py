"""Settings as written, before they are checked: a tree whose leaves remember where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from dhcli.errors import ConfigError


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


def merge(below: Node | None, above: Node, path: str = "") -> Node:
    """`above` laid over `below`: mappings merge, all else replaces.

    A mapping over a list changes single items, found by their `name` or index. Neither input is
    changed. Raises ConfigError where a list has no such item.
    """
    if not isinstance(above, dict):
        return above
    if isinstance(below, dict):
        merged = dict(below)
        for key, node in above.items():
            merged[key] = merge(below.get(key), node, _join(path, key))
        return merged
    if isinstance(below, list):
        return _merge_items(below, above, path)
    if isinstance(below, Written) and isinstance(below.value, list) and above:
        items: list[Node] = [Written(item, below.origin) for item in below.value]
        changed = _merge_items(items, above, path)
        if all(isinstance(item, Written) for item in changed):
            values = [item.value for item in changed if isinstance(item, Written)]
            return Written(values, next(leaf.origin for _, leaf in leaves(above)))
    return above


def leaves(node: Node, path: str = "") -> Iterator[tuple[str, Written]]:
    """Every leaf with its dotted key; an item of a list goes by its name, or its index."""
    if isinstance(node, Written):
        yield path, node
    elif isinstance(node, dict):
        for key, child in node.items():
            yield from leaves(child, _join(path, key))
    else:
        for index, item in enumerate(node):
            yield from leaves(item, _join(path, item_name(item, index)))


def item_name(item: Node, index: int) -> str:
    """How an item of a list is addressed: by its `name`, else its `kind`, else its index."""
    for key in ("name", "kind"):
        named = item.get(key) if isinstance(item, dict) else None
        if isinstance(named, Written) and isinstance(named.value, str):
            return named.value
    return str(index)


def _merge_items(below: list[Node], above: dict[str, Node], path: str) -> list[Node]:
    merged = list(below)
    for key, node in above.items():
        index = _find_item(merged, key, path, node)
        merged[index] = merge(merged[index], node, _join(path, key))
    return merged


def _find_item(items: list[Node], key: str, path: str, node: Node) -> int:
    names = [item_name(item, index) for index, item in enumerate(items)]
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    origin = next((leaf.origin for _, leaf in leaves(node)), None)
    raise ConfigError(
        f"`{path}` has no item `{key}`" + (f" in {origin}" if origin else ""),
        hint=f"it has {', '.join(f'`{name}`' for name in names)}" if names else "it is empty",
    )


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value

"""One layer of settings over another: mappings merge, all else replaces."""

from __future__ import annotations

from typing import Any

from dhcli.config.keys import VALUE, Place, place_below, stated_kind
from dhcli.config.schema.base import Section
from dhcli.config.tree import Node, Written, as_tree, item_name, join, leaves
from dhcli.errors import ConfigError


def merge(
    below: Node | None, above: Node, place: Place = VALUE, path: str = "", *, whole: bool = True
) -> Node:
    """`above` laid over `below`, which stand at `place` of the schema and under the key `path`.

    A mapping over a list changes single items, found by their `name` or index. A mapping that
    states another `kind` than the one below drops what stands there; the defaults of the new kind
    take its place. With `whole` False, `below` is a part of a layer: what states no kind in it may
    be of any, and there are no defaults. Neither input is changed.
    Raises ConfigError where a list has no such item.
    """
    if not isinstance(above, dict):
        return above
    if isinstance(below, dict):
        merged = _of_same_kind(below, above, place, whole)
        section = place.section(above if "kind" in above else merged)
        for key, node in above.items():
            at = place_below(section, key)
            merged[key] = merge(merged.get(key), node, at, join(path, key), whole=whole)
        return merged
    if isinstance(below, list):
        return _merge_items(below, above, place, path, whole)
    if isinstance(below, Written) and isinstance(below.value, list) and above:
        items: list[Node] = [Written(item, below.origin) for item in below.value]
        changed = _merge_items(items, above, VALUE, path, whole)
        if all(isinstance(item, Written) for item in changed):
            values = [item.value for item in changed if isinstance(item, Written)]
            return Written(values, next(leaf.origin for _, leaf in leaves(above)))
    return above


def defaults_of(section: type[Section], kind: str | None = None) -> dict[str, Node]:
    """The defaults of a section as a tree; of a key that must be given, nothing."""
    stated: dict[str, Any] = {} if kind is None else {"kind": kind}
    plain = section.model_construct(**stated).model_dump(by_alias=True, warnings=False)
    tree = as_tree(plain, "default")
    return tree if isinstance(tree, dict) else {}


def _of_same_kind(
    below: dict[str, Node], above: dict[str, Node], place: Place, whole: bool
) -> dict[str, Node]:
    """A copy of `below`, or what stands in its place where `above` changes its kind."""
    if place.choice is None or "kind" not in above:
        return dict(below)
    unsaid = "kind" not in below and (not whole or place.choice.default is None)
    section = place.section(above)
    if unsaid or section is place.section(below):
        return dict(below)
    return defaults_of(section, stated_kind(above)) if section and whole else {}


def _merge_items(
    below: list[Node], above: dict[str, Node], place: Place, path: str, whole: bool
) -> list[Node]:
    merged = list(below)
    for key, node in above.items():
        index = _find_item(merged, key, path, node)
        merged[index] = merge(merged[index], node, place.item(), join(path, key), whole=whole)
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

"""Errors of the configuration in plain words: the key, what it may hold, where it was written."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dhcli.config.keys import (
    Place,
    allowed_range,
    known_keys,
    nearest,
    place_below,
    unknown_keys,
)
from dhcli.config.schema.base import Section
from dhcli.config.text import looks_like_number, write_scalar
from dhcli.config.tree import Node, item_name, join, leaves
from dhcli.errors import ConfigError

_TYPES = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must hold `key: value` lines",
    "model_attributes_type": "must hold `key: value` lines",
}
_RULES: dict[str, Callable[[dict[str, Any]], str]] = {
    "greater_than": lambda ctx: f"must lie above {ctx['gt']:g}",
    "greater_than_equal": lambda ctx: f"must be at least {ctx['ge']:g}",
    "less_than": lambda ctx: f"must lie below {ctx['lt']:g}",
    "less_than_equal": lambda ctx: f"must be at most {ctx['le']:g}",
    "multiple_of": lambda ctx: f"must be a multiple of {ctx['multiple_of']:g}",
    "literal_error": lambda ctx: f"must be {ctx['expected'].replace(chr(39), '`')}",
    "union_tag_invalid": lambda ctx: (
        f"must have as `kind` one of {ctx['expected_tags'].replace(chr(39), '`')}"
    ),
    "union_tag_not_found": lambda ctx: "must say its `kind`",
    "too_short": lambda ctx: f"is too short: at least {ctx['min_length']} needed",
    "too_long": lambda ctx: f"is too long: at most {ctx['max_length']} allowed",
    "missing": lambda ctx: "is missing",
    "extra_forbidden": lambda ctx: "is not a known key",
}
_BOUNDS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_WITHOUT_VALUE = ("missing", "extra_forbidden", "too_short", "too_long", "union_tag_not_found")
_RANGES = (*_BOUNDS, "multiple_of", "finite_number", "value_error")


def check_names(tree: dict[str, Node], root: type[Section]) -> None:
    """Raise ConfigError for the first key that the schema does not have, with the nearest ones."""
    for dotted, written, elsewhere in unknown_keys(tree, root):
        near = nearest(dotted, [key for key, _ in known_keys(tree, root)])
        suggestion = f"did you mean {_either(near)}?" if near else ""
        raise ConfigError(
            f"unknown key `{dotted}` in {written.origin.removeprefix('file ')}",
            hint=elsewhere or suggestion or "`dh presets show custom` prints every key",
        )


def explain(error: ValidationError, tree: dict[str, Node], root: type[Section]) -> ConfigError:
    """Pydantic's findings about `tree` as one ConfigError: types before ranges, a line each."""
    found = error.errors(include_url=False)
    deepest = [one for one in found if not any(_is_above(one, other) for other in found)]
    deepest.sort(key=lambda one: one["type"] in _RANGES)
    hints = [hint for one in deepest if (hint := _hint(one))]
    ranges = {key: allowed_range(field) for key, field in known_keys(tree, root)}
    return ConfigError(
        "\n       ".join(_line(one, tree, root, ranges) for one in deepest),  # below `error: `
        hint=hints[0] if hints else None,
    )


def _line(
    one: ErrorDetails,
    tree: dict[str, Node],
    root: type[Section],
    ranges: dict[str, str | None],
) -> str:
    dotted, node = _locate(one["loc"], tree, Place((root,)))
    value = one["input"]
    if _is_of_field(one) and isinstance(node, dict):
        dotted, node, value = join(dotted, "kind"), node["kind"], value["kind"]
    origins = sorted({leaf.origin for _, leaf in leaves(node)} - {"default"}) if node else []
    place = f" ({', '.join(origins)})" if origins else ""
    if one["type"] == "value_error":
        key = f"`{dotted}`: " if dotted else ""
        return f"{key}{one['ctx']['error']}{place}"
    got = "" if one["type"] in _WITHOUT_VALUE else f", got {_shown(value)}"
    return f"`{dotted}` {_rule(one, ranges.get(dotted))}{got}{place}"


def _is_of_field(one: ErrorDetails) -> bool:
    """Whether a mapping that is no item of a list states a `kind` that there is not."""
    return one["type"] == "union_tag_invalid" and not isinstance(one["loc"][-1], int)


def _rule(one: ErrorDetails, allowed: str | None) -> str:
    kind = one["type"]
    if kind in _BOUNDS and allowed and allowed.startswith("in "):
        return f"must lie {allowed}"
    if kind in _TYPES:
        return _TYPES[kind]
    if _is_of_field(one):
        *most, last = (f"`{choice}`" for choice in _choices(one))
        return f"must be {', '.join(most)} or {last}" if most else f"must be {last}"
    if kind in _RULES:
        return _RULES[kind](one.get("ctx", {}))
    return f"cannot be used: {one['msg'][:1].lower()}{one['msg'][1:]}"


def _choices(one: ErrorDetails) -> list[str]:
    """The words that pydantic lists as those that could be written."""
    listed: str = one["ctx"]["expected_tags" if "expected_tags" in one["ctx"] else "expected"]
    return listed.replace(" or ", ", ").replace("'", "").split(", ")


def _hint(one: ErrorDetails) -> str | None:
    value = one["input"]
    if one["type"] == "string_type" and isinstance(value, bool | int | float):
        return "text that looks like a number, true or false needs quotes, also in --set"
    if one["type"] in ("int_type", "float_type", "bool_type") and looks_like_number(value):
        return "write numbers, true and false without quotes"
    if one["type"] == "union_tag_invalid":
        value = value.get("kind") if isinstance(value, dict) else None
    if one["type"] in ("literal_error", "union_tag_invalid") and isinstance(value, str):
        near = get_close_matches(value.lower(), _choices(one), n=1)
        return f"did you mean {_either(near)}?" if near else None
    return None


def _locate(
    loc: tuple[int | str, ...], tree: dict[str, Node], place: Place
) -> tuple[str, Node | None]:
    """The dotted key of what pydantic names, which stands at `place`, and what was written there.

    pydantic names an item of a list by its index, and then the kind of what has kinds; the key
    has the item's name, and no kind.
    """
    path, node = "", cast("Node | None", tree)
    parts = iter(loc)
    for part in parts:
        if isinstance(part, int):
            items = node if isinstance(node, list) else []
            is_there = part < len(items)  # pydantic also names items that are missing
            name = item_name(items[part], part) if is_there else str(part)
            if isinstance(node, list):
                node = items[part] if is_there else None
            place = place.item()
        else:
            name, place = part, place_below(place.section(node), part)
            node = node.get(part) if isinstance(node, dict) else node
        path = join(path, name)
        if place.choice and not place.listed:
            next(parts, None)
    return path, node


def _is_above(one: ErrorDetails, other: ErrorDetails) -> bool:
    """Whether `one` only says that something within it is wrong, which `other` says better."""
    depth = len(one["loc"])
    return len(other["loc"]) > depth and other["loc"][:depth] == one["loc"]


def _shown(value: Any) -> str:
    text = write_scalar(_listed(value))
    return text if len(text) <= 60 else f"{text[:57]}…"


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(child) for key, child in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _either(names: list[str]) -> str:
    return " or ".join(f"`{name}`" for name in names)

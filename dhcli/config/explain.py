"""Errors of the configuration in plain words: the key, what it may hold, where it was written."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from dhcli.config.keys import allowed_range, known_keys, nearest, unknown_keys
from dhcli.config.schema import Config
from dhcli.config.text import looks_like_number, write_scalar
from dhcli.config.tree import Node, item_name, leaves
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


def check_names(tree: dict[str, Node]) -> None:
    """Raise ConfigError for the first key that the schema does not have, with the nearest ones."""
    for dotted, written in unknown_keys(tree, Config):
        near = nearest(dotted, [key for key, _ in known_keys(tree, Config)])
        raise ConfigError(
            f"unknown key `{dotted}` in {written.origin.removeprefix('file ')}",
            hint=f"did you mean {_either(near)}?"
            if near
            else "`dh presets show custom` prints every key",
        )


def explain(error: ValidationError, tree: dict[str, Node]) -> ConfigError:
    """Pydantic's findings about `tree` as one ConfigError: types before ranges, a line each."""
    found = error.errors(include_url=False)
    deepest = [one for one in found if not any(_is_above(one, other) for other in found)]
    deepest.sort(key=lambda one: one["type"] in _RANGES)
    hints = [hint for one in deepest if (hint := _hint(one))]
    return ConfigError(
        "\n       ".join(_line(one, tree) for one in deepest),  # stands below `error: `
        hint=hints[0] if hints else None,
    )


def _line(one: ErrorDetails, tree: dict[str, Node]) -> str:
    dotted, node = _locate(one["loc"], tree)
    origins = sorted({leaf.origin for _, leaf in leaves(node)} - {"default"}) if node else []
    place = f" ({', '.join(origins)})" if origins else ""
    if one["type"] == "value_error":
        return f"`{dotted}`: {one['ctx']['error']}{place}"
    got = "" if one["type"] in _WITHOUT_VALUE else f", got {_shown(one['input'])}"
    return f"`{dotted}` {_rule(one, dotted, tree)}{got}{place}"


def _rule(one: ErrorDetails, dotted: str, tree: dict[str, Node]) -> str:
    kind = one["type"]
    if kind in _BOUNDS:
        field = dict(known_keys(tree, Config)).get(dotted)
        range_ = allowed_range(field) if field else None
        if range_ and range_.startswith("in "):
            return f"must lie {range_}"
    if kind in _TYPES:
        return _TYPES[kind]
    if kind in _RULES:
        return _RULES[kind](one.get("ctx", {}))
    return f"cannot be used: {one['msg'][:1].lower()}{one['msg'][1:]}"


def _hint(one: ErrorDetails) -> str | None:
    value = one["input"]
    if one["type"] == "string_type" and isinstance(value, bool | int | float):
        return "text that looks like a number or a truth value needs quotes, also within --set"
    if one["type"] in ("int_type", "float_type", "bool_type") and looks_like_number(value):
        return "numbers, true and false are written without quotes"
    if one["type"] == "literal_error" and isinstance(value, str):
        choices = one["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        near = get_close_matches(value.lower(), choices, n=1)
        return f"did you mean {_either(near)}?" if near else None
    return None


def _locate(loc: tuple[int | str, ...], tree: dict[str, Node]) -> tuple[str, Node | None]:
    """The dotted key of a place that pydantic names, and what was written there.

    pydantic names an item of a list by its index and then its kind; the key has its name.
    """
    path: list[str] = []
    node: Node | None = tree
    below_item = False
    for part in loc:
        if isinstance(node, list) and isinstance(part, int):
            node, below_item = node[part], True
            path.append(item_name(node, part))
            continue
        if isinstance(node, dict) and below_item and part not in node:
            below_item = False
            continue
        if isinstance(node, dict):
            node = node.get(str(part))
        path.append(str(part))
    return ".".join(path), node


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

"""YAML without its traps, read with line numbers and written so that it reads back the same.

Only `true` and `false` are booleans (`no` and `on` are words), `1e-4` is a number, `010` is ten,
`12:30` and `2024-01-31` are words; a key written twice, an alias or a foreign tag is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from dhcli.config.tree import Node, Written, as_plain
from dhcli.errors import ConfigError

_TAG = "tag:yaml.org,2002:"
_BRACKETS = re.compile(r"[\[\]{}]")
_LONGEST, _DEEPEST = 1 << 20, 100
"""Characters, and brackets within brackets, of YAML of others."""
_DIGITS = [*"-+0123456789"]
_PLAIN: tuple[tuple[str, str, list[str]], ...] = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", _DIGITS),
    ("float", r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", [*_DIGITS, "."]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
)
"""What a scalar without quotes means: tag, pattern, first characters. Anything else is text."""

_CONVERT: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
    "str": str,
}


class _NoAliases(yaml.BaseLoader):
    """Reads scalars as text, and no aliases: a small file could unfold without end by them."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse an alias."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (`*name`) are not read", mark)
        return super().compose_node(parent, index)


class _Loader(_NoAliases, yaml.SafeLoader):
    """Composes nodes only; what a plain scalar means is decided by `_PLAIN`."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML's own way of giving resolvers


class _Dumper(yaml.SafeDumper):
    """Quotes what this module or a YAML 1.1 reader would take for something else than text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # a copy, so that PyYAML's own stays as it is
        first: list(pairs) for first, pairs in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """Text with line breaks on one line, the breaks escaped."""
    broken = any(character in text for character in "\n\x85\u2028\u2029")
    return dumper.represent_scalar(_TAG + "str", text, style='"' if broken else None)


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in _PLAIN:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def read_yaml(path: Path, origin: str | None = None) -> dict[str, Node]:
    """The mapping in the file at `path`. Leaves are written at `origin`, or at "file path:line".

    Raises ConfigError with the line where it is not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=path) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=path) from error
    tree = _Reader(origin or f"file {path}", numbered=origin is None).read(text)
    if isinstance(tree, Written) and tree.value is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("must hold lines of the form `key: value`", where=path)
    return tree


def read_as_written(text: str) -> Any:
    """What YAML of others says, every scalar as the text it is. Raises ValueError with the line."""
    if len(text) > _LONGEST:
        raise ValueError("is too long for a list of classes and splits")
    # PyYAML takes time in the square of the depth, and its C loader all of the stack.
    depths = accumulate(1 if letter in "[{" else -1 for letter in _BRACKETS.findall(text))
    if max(depths, default=0) > _DEEPEST:
        raise ValueError("is not YAML: nested too deep")
    try:
        return yaml.load(text, Loader=_NoAliases)  # makes text, lists and dicts alone
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        problem = getattr(error, "problem", None) or "cannot be read"
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"is not YAML: {line}{problem}") from None


def parse_value(text: str, place: str) -> Node:
    """The value in `--set key=text`, written at "--set". Errors name the more exact `place`."""
    try:
        return _Reader("--set", numbered=False).read(text)
    except ConfigError as error:
        raise ConfigError(error.what, where=place) from error


def looks_like_number(value: object) -> bool:
    """Whether `value` is text that would be a number or a truth value without its quotes."""
    patterns = [pattern for name, pattern, _ in _PLAIN if name != "null"]
    return isinstance(value, str) and any(re.fullmatch(one, value) for one in patterns)


def write_scalar(value: Any) -> str:
    """`value` (scalar, list or mapping) as YAML on one line."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=True,
        width=float("inf"),
        allow_unicode=True,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")


@dataclass(frozen=True)
class _Reader:
    """Turns text into a tree; a leaf's place is `origin`, with the line where `numbered`."""

    origin: str
    numbered: bool

    def read(self, text: str) -> Node:
        try:
            node = yaml.compose(text, Loader=_Loader)
            return Written(None, self._place(1)) if node is None else self._tree(node)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise self._error(f"is not YAML: {error.problem}", line) from error
        except yaml.YAMLError as error:
            raise self._error("is not YAML: it contains characters that are not text", 1) from error
        except RecursionError as error:
            raise self._error("is nested too deeply", 1) from error

    def _tree(self, node: yaml.Node) -> Node:
        self._refuse_foreign_tag(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode):
            items = node.value
            if items and all(isinstance(item, yaml.MappingNode) for item in items):
                return [self._tree(item) for item in items]
        return Written(self._value(node), self._place(_line(node)))

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        tree: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = self._value(key_node)
            if not isinstance(key, str):
                raise self._error(f"the key `{key}` must be text: quote it", _line(key_node))
            if key in tree:
                raise self._error(f"the key `{key}` is written twice", _line(key_node))
            tree[key] = self._tree(value_node)
        return tree

    def _value(self, node: yaml.Node) -> Any:
        self._refuse_foreign_tag(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            return as_plain(self._mapping(node))
        try:
            return _CONVERT[node.tag.removeprefix(_TAG)](node.value)
        except ValueError as error:  # a tag that does not fit, or an integer without end
            raise self._error(f"`{node.value[:40]}` cannot be read", _line(node)) from error

    def _refuse_foreign_tag(self, node: yaml.Node) -> None:
        known = _CONVERT if isinstance(node, yaml.ScalarNode) else ("map", "seq")
        if node.tag.removeprefix(_TAG) not in known:
            raise self._error(f"the tag `{node.tag.replace(_TAG, '!!')}` is not read", _line(node))

    def _place(self, line: int) -> str:
        return f"{self.origin}:{line}" if self.numbered else self.origin

    def _error(self, what: str, line: int) -> ConfigError:
        return ConfigError(what, where=self._place(line).removeprefix("file "))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1

"""From presets, files and `--set` to one checked configuration that knows where it comes from.

defaults < parents of the preset < preset < weights < file < `--set`. Mappings merge, lists
replace; a mapping over a list changes single items of it. A layer that changes the `kind` of a
mapping starts it anew, from the defaults of that kind; all `--set` together are one layer, and so
are the options that are short for one (`--epochs`, see `short`). Below a layer that names a
detector of torchvision's stands what torchvision says of that one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dhcli.config.explain import check_names, explain
from dhcli.config.keys import VALUE, Place, place_below, stated_kind
from dhcli.config.merge import defaults_of, merge
from dhcli.config.presets import DEFAULT_PRESET, find_preset, presets_folder
from dhcli.config.retired import without_retired
from dhcli.config.schema.base import Section, kinds_of
from dhcli.config.schema.config import Config
from dhcli.config.short import SHORT, clash, settings_of
from dhcli.config.text import parse_value, read_yaml, write_scalar
from dhcli.config.tree import Node, Written, as_plain, as_tree, item_name, leaves
from dhcli.errors import ConfigError

_OWN = ("name", "about", "paper_tables", "paper")
"""Keys that describe one preset and are not handed down."""


S = TypeVar("S", bound=Section)


@dataclass(frozen=True)
class Resolved:
    """A checked configuration.

    `origins` maps every dotted key to "default", "preset NAME", "the weights", "file PATH:LINE" or
    "--set", or the option that is short for it: "--epochs".
    """

    config: Config
    origins: dict[str, str]


def load_config(
    preset: str | None = None,
    *,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    weights: Mapping[str, Any] | None = None,
) -> Resolved:
    """The configuration of a preset (name or path), a YAML file on top of it, and `--set a.b=c`.

    `options` maps an option that is short for settings, such as "--epochs", to its value. `weights`
    is what they were trained with and keep: above the presets, below the user's file. With neither
    preset nor file: the preset `custom`. A file alone stands on its own `extends`, or on the
    defaults. Raises ConfigError for anything unknown, of the wrong type or out of range.
    """
    if preset is None and file is None:
        preset = DEFAULT_PRESET
    layers = _preset_layers(find_preset(preset)) if preset else []
    own: list[dict[str, Node]] = []
    if file is not None:
        above = _preset_layers(file)
        if preset and len(above) > 1:
            raise ConfigError(
                f"the file has `extends`, and the preset `{preset}` is given as well",
                where=file,
                hint="leave one of the two out",
            )
        layers, own = [*layers, *above[:-1]], above[-1:]
    kept = {name: as_tree(value, "the weights") for name, value in (weights or {}).items()}
    return _with_options([*layers, kept, *own], overrides, options or {})


def _with_options(
    layers: Sequence[Node], overrides: Sequence[str], options: Mapping[str, Any]
) -> Resolved:
    """`layers` under one more, of `--set` and of the options, which must not clash."""
    place = Place((Config,))
    last = _override_layer(overrides, place)
    written = [key for key, _ in leaves(last)]
    for option in (one for one in SHORT if one in options):
        if both := clash(option, written):
            what = f"{option} and `--set {both}` change the same setting"
            raise ConfigError(what, hint="leave one of the two out")
        others = partial(resolve, Config, [*layers, last])
        for key, value in settings_of(option, options[option], others).items():
            last = merge(last, _at(key.split("."), as_tree(value, option)), place, whole=False)
    return Resolved(*resolve(Config, [*layers, last]))


def config_from_dict(
    values: Mapping[str, Any], origin: str = "configuration", overrides: Sequence[str] = ()
) -> Config:
    """A configuration from plain values, checked as files are, under `--set a.b=c`.

    Errors say that the values stood in `origin`.
    """
    tree = as_tree(dict(values), origin)
    layers = [without_retired(tree)] if isinstance(tree, dict) else []
    return resolve(Config, layers, overrides)[0]


def config_to_dict(config: Section) -> dict[str, Any]:
    """The configuration in plain values (JSON's), which `config_from_dict` reads back."""
    return config.model_dump(mode="json", by_alias=True)


def dump_config(config: Section, origins: Mapping[str, str] | None = None) -> str:
    """The configuration as YAML that reads back the same; with `origins`, a comment on each line.

    A key of the tree is a line; lists and mappings of plain values stand on one line.
    """
    lines = list(_yaml_lines(config))
    if origins is None:
        return "".join(f"{text}\n" for text, _ in lines)
    column = min(max(len(text) for text, key in lines if key), 60)
    return "".join(
        f"{text:<{column}}  # {_origin_of(key, origins)}\n" if key else f"{text}\n"
        for text, key in lines
    )


def _preset_layers(path: Path, below: tuple[Path, ...] = ()) -> list[dict[str, Node]]:
    """What `path` and its parents write, parents first."""
    if path.resolve() in below:
        circle = " → ".join(one.stem for one in (*below, path))
        raise ConfigError(f"`extends` goes in a circle: {circle}", where=path)
    shipped = path.parent == presets_folder()
    tree = without_retired(read_yaml(path, f"preset {path.stem}" if shipped else None))
    parent = tree.pop("extends", None)
    tree.setdefault(
        "name", Written(path.stem, f"preset {path.stem}" if shipped else f"file {path}")
    )
    if parent is None:
        return [tree]
    if not isinstance(parent, Written) or not isinstance(parent.value, str):
        raise ConfigError("`extends` must name one preset", where=path)
    try:
        layers = _preset_layers(find_preset(parent.value, path.parent), (*below, path.resolve()))
    except ConfigError as error:
        where = error.where or parent.origin.removeprefix("file ")
        raise ConfigError(error.what, where=where, hint=error.hint) from error
    inherited = [{k: node for k, node in layer.items() if k not in _OWN} for layer in layers]
    return [*inherited, tree]


def _parse_override(text: str) -> dict[str, Node]:
    """`a.b=c` as the tree {a: {b: c}}."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"`--set {text}` is not written as key=value", hint="for example --set train.lr=0.01"
        )
    return _at(parts, parse_value(value, f"--set {key}"))


def _at(parts: Sequence[str], node: Node) -> dict[str, Node]:
    """`node` under the key of these parts."""
    first, *rest = parts
    return {first: _at(rest, node) if rest else node}


def resolve(
    root: type[S], layers: Sequence[Node], overrides: Sequence[str] = ()
) -> tuple[S, dict[str, str]]:
    """The tree of `layers` and of `overrides` (`a.b=c`) over the defaults of `root`, checked.

    With it the origin of every dotted key. Raises ConfigError as `load_config` does.
    """
    tree: Node = defaults_of(root)
    place = Place((root,))
    for layer in (*layers, _override_layer(overrides, place)):
        tree = merge(tree, _implied_by(layer, tree, place), place)
        tree = merge(tree, layer, place)
    config = _check(tree if isinstance(tree, dict) else {}, root)
    whole = as_tree(config.model_dump(by_alias=True), "default")
    return config, {key: leaf.origin for key, leaf in leaves(_with_origins(whole, tree))}


def _override_layer(overrides: Sequence[str], place: Place) -> Node:
    """All `--set` as one layer."""
    last: Node = {}
    for override in overrides:
        last = merge(last, _parse_override(override), place, whole=False)
    return last


def _implied_by(layer: Node, tree: Node, place: Place) -> Node:
    """What the sections that `layer` writes over `tree` bring along, written by what they name."""
    found: Node = {}
    for key, node in layer.items() if isinstance(layer, dict) else ():
        below = tree.get(key) if isinstance(tree, dict) else None
        at = place_below(place.section(tree), key)
        section = at.section(node if stated_kind(node) else below)
        if isinstance(node, dict) and section is not None:
            plain = {name: one.value for name, one in node.items() if isinstance(one, Written)}
            origin = f"{' '.join(kinds_of(section))} {plain.get('name')}"
            found = merge(found, as_tree(section.implied(plain), origin), VALUE)
    return found


def _with_origins(whole: Node, written: Node | None) -> Node:
    """The tree `whole`, each leaf with the origin of the same one of `written`, if that has it."""
    if isinstance(whole, dict):
        below = written if isinstance(written, dict) else {}
        return {key: _with_origins(child, below.get(key)) for key, child in whole.items()}
    if isinstance(whole, list) and isinstance(written, list):
        return [_with_origins(*pair) for pair in zip(whole, written, strict=True)]
    if isinstance(whole, Written) and isinstance(written, Written):
        return Written(whole.value, written.origin)
    return whole


def _check(tree: dict[str, Node], root: type[S]) -> S:
    """Names first, then types and ranges."""
    check_names(tree, root)
    try:
        return root.model_validate(as_plain(tree), strict=True)
    except ValidationError as error:
        raise explain(error, tree, root) from error


def _yaml_lines(section: Section, path: str = "", pad: str = "") -> Iterator[tuple[str, str]]:
    """Lines of YAML, each with the dotted key of its value ("" where it only opens a section)."""
    for name, field in type(section).model_fields.items():
        key, value = field.alias or name, getattr(section, name)
        if isinstance(value, Section):
            yield f"{pad}{key}:", ""
            yield from _yaml_lines(value, f"{path}{key}.", pad + "  ")
        elif isinstance(value, tuple) and value and isinstance(value[0], Section):
            yield f"{pad}{key}:", ""
            for index, item in enumerate(value):
                name = item_name(as_tree(item.model_dump(), ""), index)
                lines = list(_yaml_lines(item, f"{path}{key}.{name}.", pad + "    "))
                first, dotted = lines[0]
                yield f"{pad}  - {first.lstrip()}", dotted
                yield from lines[1:]
        else:
            plain = list(value) if isinstance(value, tuple) else value
            yield f"{pad}{key}: {write_scalar(plain)}", f"{path}{key}"


def _origin_of(key: str, origins: Mapping[str, str]) -> str:
    """The origin of a value; of a mapping of plain values, those of its items."""
    if key in origins:
        return origins[key]
    below = [origin for other, origin in origins.items() if other.startswith(f"{key}.")]
    return ", ".join(dict.fromkeys(below)) or "default"

"""The reference page of all settings, and the JSON schema for editors: both made from the schema.

`python -m dhcli.config.reference > docs/configuration.md` writes the page anew.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from inspect import cleandoc
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dhcli.config.keys import Place, allowed_range, fields_of, place_of
from dhcli.config.schema.base import Section, kinds_of, sections_in
from dhcli.config.schema.config import Config
from dhcli.config.text import write_scalar

_INTRODUCTION = """\
# Configuration

<!-- Made by `python -m dhcli.config.reference` from `dhcli/config/schema`. -->

One tree of settings decides a run. Its values come from five places; a later one wins over an
earlier one:

1. the defaults below;
2. the parents of the preset (`extends: PARENT` in its file, at most one each);
3. the preset: `--preset NAME`, or the path of a YAML file (default: `custom`);
4. a file: `--config FILE`. If no preset is given, the file is applied to the defaults alone;
5. single settings: `--set KEY=VALUE`, as often as needed, where the last one wins, and short
   options such as `--epochs N` (see [every command](cli.md)).

Mappings merge, lists replace. A mapping in place of a list changes items of the list, by their
`name` or index. On the command line that is `--set model.head.branches.fc.omega=2`, in a file

```yaml
extends: coco-r50-ext
train: {lr: 0.005}
model: {head: {branches: {fc: {omega: 2}}}}
```

Some sections have several kinds (`model`, `model.backbone`, `model.neck`). The key `kind` says
which one is meant, and can be left out for the default kind. A file or `--set` that changes a
`kind` resets the section: values from earlier places are dropped, and the defaults of the new kind
apply. All `--set` together count as one place, in any order. The name of a torchvision detector
(`model.name`) also sets its input size, normalisation, thresholds and backbone. These win over
earlier places, and lose to what is written in the same place as the name.

`dh presets` lists the presets, and `dh presets show NAME --set …` prints the resolved tree with the
origin of every value. What it prints, and the `config.yaml` of a run, work as `--config`.
`dh presets schema > dh-schema.json` writes a JSON schema, with which an editor completes and checks
such files.

Values are YAML without its traps. Only `true` and `false` are truth values, so a class can be
called `no` or `on`. `1e-4` is a number, `010` is ten, and a key written twice is an error. Text
that looks like a number needs quotes: `--set data.train='"2007"'`. The error for an unknown key
names the nearest key.
"""


def json_schema(root: type[Section] = Config) -> dict[str, Any]:
    """The JSON schema of a preset's file: the tree's, `extends`, and items of lists by their names.

    A file holds differences, so that a mapping may leave out its `kind`.
    """
    schema = root.model_json_schema(by_alias=True)
    sections = [schema, *schema.get("$defs", {}).values()]
    for listed in (one for part in sections for one in part.get("properties", {}).values()):
        if "oneOf" in listed.get("items", {}) or "$ref" in listed.get("items", {}):
            by_name = {"type": "object", "additionalProperties": {"type": "object"}}
            names = ("type", "items", "minItems", "maxItems")
            whole = {key: listed.pop(key) for key in names if key in listed}
            listed["anyOf"] = [whole, by_name]
    extends = {"type": "string", "description": "Preset to start from, or the path of a YAML file."}
    schema["properties"] = {"extends": extends, **schema["properties"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def reference_page(root: type[Section] = Config) -> str:
    """`docs/configuration.md`: an introduction, then a table for each section of the tree."""
    return "\n".join([_INTRODUCTION, *_section_lines(root, "", "The preset itself")])


def _section_lines(section: type[Section], path: str, title: str) -> Iterator[str]:
    """The table of a section, then those below it. `path` is "", or ends in a dot."""
    fields = {f"{path}{key}": field for key, field in fields_of(section).items()}
    plain = [_row(key, one) for key, one in fields.items() if _stands_alone(place_of(one))]
    yield f"## {title}\n"
    yield f"{cleandoc(section.__doc__ or '')}\n"
    if plain:
        yield "| key | value | default | meaning |\n|---|---|---|---|"
        yield "\n".join(plain) + "\n"
    for key, field in fields.items():
        yield from _lines_below(key, place_of(field))


def _stands_alone(place: Place) -> bool:
    """Whether a key has a row, and not only a table for what is below it."""
    return place.listed or not place.sections


def _lines_below(key: str, place: Place) -> Iterator[str]:
    """The tables of the sections that may stand under `key`."""
    for section in place.sections:
        if place.listed:
            path = f"{key}.{_kind(section)}"
            yield from _section_lines(section, f"{path}.", f"`{path}`")
        elif len(place.sections) == 1:
            yield from _section_lines(section, f"{key}.", f"`{key}`")
        else:
            default = place.choice.default if place.choice else None
            of_kind = f"`{key}` of kind `{_kind(section)}`"
            title = f"{of_kind}, the default" if _kind(section) == default else of_kind
            yield from _section_lines(section, f"{key}.", title)


def _kind(section: type[Section]) -> str:
    """What a section states as its `kind`; an item of a list is called so unless it has a name."""
    return next(iter(kinds_of(section)), "0")


def _row(key: str, field: FieldInfo) -> str:
    meaning = " ".join((field.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {_value(field)} | {_default(field)} | {meaning} |"


def _value(field: FieldInfo) -> str:
    words = _type_in_words(field.annotation)
    range_ = allowed_range(field)
    return f"{words}, {range_}" if range_ else words


def _type_in_words(annotation: Any) -> str:
    names = {
        str: "text",
        int: "whole number",
        float: "number",
        bool: "true or false",
        type(None): "null",
    }
    if annotation in names:
        return names[annotation]
    kinds = sections_in(annotation)
    if kinds and not any(kinds_of(section) for section in kinds):
        return "list of sections"
    if kinds:
        return "list of sections of kind " + ", ".join(f"`{_kind(kind)}`" for kind in kinds)
    arguments = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Literal:
            return ", ".join(f"`{choice}`" for choice in arguments)
        case origin if origin is tuple:
            inner = _type_in_words(_bare(arguments[0]))
            return f"list of {inner}s" if arguments[-1] is ... else f"{len(arguments)} {inner}s"
        case origin if origin is dict:
            return f"{_type_in_words(arguments[0])} → {_type_in_words(_bare(arguments[1]))}"
    return " or ".join(_type_in_words(_bare(argument)) for argument in arguments)


def _bare(annotation: Any) -> Any:
    """`int` of `Annotated[int, …]`."""
    return get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "–"
    value = field.get_default(call_default_factory=True)
    if sections_in(field.annotation):
        return "see below"
    return f"`{write_scalar(list(value) if isinstance(value, tuple) else value)}`"


if __name__ == "__main__":
    sys.stdout.write(reference_page())

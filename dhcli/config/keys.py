"""The keys that the schema knows: which there are, what they may hold, and which is nearest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from dhcli.config.schema.base import ByKind, Section, kinds_of, sections_in
from dhcli.config.tree import Node, Written, item_name, join, leaves

SYNONYMS = {
    "amp": "train.precision",
    "base_lr": "train.lr",
    "batch": "train.batch_size",
    "class_names": "data.classes",
    "conf": "model.detect.score_threshold",
    "conf_thres": "model.detect.score_threshold",
    "img_size": "input.min_size",
    "imgsz": "input.min_size",
    "iterations": "train.schedule.length",
    "learning_rate": "train.lr",
    "max_epochs": "train.epochs",
    "max_iter": "train.schedule.length",
    "milestones": "train.schedule.steps",
    "names": "data.classes",
    "nc": "data.classes",
    "num_classes": "data.classes",
    "num_workers": "train.workers",
    "pretrained": "model.backbone.weights",
    "samples_per_gpu": "train.batch_size",
    "score_thr": "model.detect.score_threshold",
    "wd": "train.weight_decay",
}
"""What other programs call a setting; only used to suggest ours."""


class Unknown(NamedTuple):
    """A value under a key that the schema does not have there.

    elsewhere  why, where another kind has the key: "`neck.channels` is …"; else ""
    """

    key: str
    written: Written
    elsewhere: str


@dataclass(frozen=True)
class Place:
    """What may stand at a place of the tree.

    sections  a section, or the kinds of a choice; none where a plain value stands
    choice    says how the choice is made; None where there is none
    listed    a list of these
    """

    sections: tuple[type[Section], ...]
    choice: ByKind | None = None
    listed: bool = False

    def section(self, node: Node | None) -> type[Section] | None:
        """The class of the mapping `node`: the only one, or that of its `kind`; else None."""
        if self.choice is None:
            return self.sections[0] if self.sections else None
        kind = stated_kind(node) if _states_kind(node) else self.choice.default
        return next((one for one in self.sections if kind in kinds_of(one)), None)

    def item(self) -> Place:
        """The place of one item of the list."""
        return Place(self.sections, self.choice)


VALUE = Place(())
"""The place of a plain value, and of what the schema does not know."""


def place_of(field: FieldInfo) -> Place:
    """What may stand under a field."""
    found = list(_marks(field))
    listed = get_origin(field.annotation) is tuple
    return Place(tuple(sections_in(field.annotation)), found[0] if found else None, listed)


def place_below(section: type[Section] | None, key: str) -> Place:
    """What may stand under `key` of a mapping of this class."""
    field = fields_of(section).get(key) if section else None
    return place_of(field) if field else VALUE


def stated_kind(node: Node | None) -> str | None:
    """The `kind` that a mapping states, if it is text."""
    kind = node.get("kind") if isinstance(node, dict) else None
    return kind.value if isinstance(kind, Written) and isinstance(kind.value, str) else None


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields of a section by the key that is written in YAML."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def unknown_keys(
    node: dict[str, Node], place: Place | type[Section], path: str = ""
) -> Iterator[Unknown]:
    """Every value of the mapping `node` under a key that its section does not have."""
    place = _as_place(place)
    section = place.section(node)
    if section is None:  # its `kind` is wrong, which is another error
        return
    fields = fields_of(section)
    for key, child in node.items():
        dotted = join(path, key)
        if key not in fields:
            why = _elsewhere(key, node, place, path)
            yield from (Unknown(name, leaf, why) for name, leaf in leaves(child, dotted))
        else:
            yield from _unknown_below(child, fields[key], dotted)


def known_keys(
    node: dict[str, Node], place: Place | type[Section], path: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Every key that takes a value, dotted, with its field; kinds and lists as `node` has them."""
    section = _as_place(place).section(node)
    for key, field in fields_of(section).items() if section else ():
        below, child, dotted = place_of(field), node.get(key), join(path, key)
        if not below.sections:
            yield dotted, field
        elif below.listed:
            for index, item in enumerate(child if isinstance(child, list) else ()):
                if isinstance(item, dict):
                    yield from known_keys(item, below.item(), join(dotted, item_name(item, index)))
        else:
            yield from known_keys(child if isinstance(child, dict) else {}, below, dotted)


def every_key(place: Place | type[Section], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key that takes a value in sections of any kind; an item of a list goes by its kind.

    A key that several kinds have comes once for each.
    """
    for section in _as_place(place).sections:
        for key, field in fields_of(section).items():
            below, dotted = place_of(field), join(path, key)
            if not below.sections:
                yield dotted, field
            elif below.listed:
                for one in below.sections:
                    yield from every_key(one, join(dotted, next(iter(kinds_of(one)), "0")))
            else:
                yield from every_key(below, dotted)


def choices_of(field: FieldInfo) -> list[str]:
    """The words that a setting can be; none where it can be more than a few."""
    if field.annotation is bool:
        return ["true", "false"]
    return list(get_args(field.annotation)) if get_origin(field.annotation) is Literal else []


def nearest(key: str, known: list[str]) -> list[str]:
    """The one or two keys of `known` that `key` most likely means; none if nothing is like it.

    A key counts by its whole and by its last part, so that `optim.lrr` finds `train.lr`.
    """
    leaf = key.rpartition(".")[2].lower()
    if leaf in SYNONYMS:
        return [SYNONYMS[leaf]]
    scores = {candidate: _likeness(key, leaf, candidate) for candidate in known}
    best = sorted(known, key=lambda candidate: -scores[candidate])[:2]
    enough = max(scores[best[0]] - 0.05, 0) if best else 0
    return [candidate for candidate in best if scores[candidate] > enough]


def allowed_range(field: FieldInfo) -> str | None:
    """The range of a number in words: "in [0, 1]", "at least 1"; None if it has none."""
    bounds = {
        name: getattr(rule, name)
        for rule in (*field.metadata, *_rules_of_union(field.annotation))
        for name in ("ge", "gt", "le", "lt")
        if hasattr(rule, name)
    }
    low = next((name for name in ("ge", "gt") if name in bounds), None)
    high = next((name for name in ("le", "lt") if name in bounds), None)
    if low and high:
        left, right = "[" if low == "ge" else "(", "]" if high == "le" else ")"
        return f"in {left}{bounds[low]:g}, {bounds[high]:g}{right}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    only = low or high
    return f"{words[only]} {bounds[only]:g}" if only else None


def _rules_of_union(annotation: Any) -> list[Any]:
    """What is annotated to the members of a union."""
    if get_origin(annotation) not in (Union, UnionType):
        return []
    marks = [mark for one in get_args(annotation) for mark in getattr(one, "__metadata__", ())]
    return [rule for mark in marks for rule in getattr(mark, "metadata", ())]


def _unknown_below(child: Node, field: FieldInfo, dotted: str) -> Iterator[Unknown]:
    place = place_of(field)
    if isinstance(child, list):
        for index, item in enumerate(child):
            if isinstance(item, dict):
                name = join(dotted, item_name(item, index))
                yield from unknown_keys(item, place.item(), name)
    elif isinstance(child, dict) and get_origin(field.annotation) is not dict:
        if place.sections and not place.listed:
            yield from unknown_keys(child, place, dotted)
        else:
            yield from (Unknown(name, leaf, "") for name, leaf in leaves(child, dotted))


def _elsewhere(key: str, node: dict[str, Node], place: Place, path: str) -> str:
    """Which other kinds of the mapping at `path` have `key`, and which kind it is; "" if none."""
    kinds = [kind for one in place.sections if key in fields_of(one) for kind in kinds_of(one)]
    if place.choice is None or not kinds:
        return ""
    theirs = " or ".join(f"`{kind}`" for kind in kinds)
    own = node.get("kind")
    origin = f" ({own.origin})" if isinstance(own, Written) else ""
    kind = stated_kind(node) or place.choice.default
    return f"`{key}` belongs to `{join(path, 'kind')}` {theirs}, and the kind is `{kind}`{origin}"


def _marks(field: FieldInfo) -> Iterator[ByKind]:
    """How the sections under a field, or in its list, are chosen."""
    inner = get_args(field.annotation)[:1] if get_origin(field.annotation) is tuple else ()
    metadata = [*field.metadata, *(mark for one in inner for mark in _metadata(one))]
    return (mark for mark in metadata if isinstance(mark, ByKind))


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return getattr(annotation, "__metadata__", ())


def _states_kind(node: Node | None) -> bool:
    return isinstance(node, dict) and "kind" in node


def _as_place(place: Place | type[Section]) -> Place:
    return place if isinstance(place, Place) else Place((place,))


def _likeness(key: str, leaf: str, candidate: str) -> float:
    """Above 0 where the last parts or the whole keys are alike; larger is more alike."""
    of_leaf = SequenceMatcher(None, leaf, candidate.rpartition(".")[2]).ratio()
    of_whole = SequenceMatcher(None, key.lower(), candidate).ratio()
    return of_leaf + of_whole if of_leaf >= 0.65 or of_whole >= 0.8 else 0.0

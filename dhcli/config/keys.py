"""The keys that the schema knows: which there are, what they may hold, and which is nearest."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from dhcli.config.schema import Section
from dhcli.config.tree import Node, Written, item_name, leaves

SYNONYMS = {
    "amp": "train.precision",
    "base_lr": "train.lr",
    "batch": "train.batch_size",
    "epochs": "train.schedule.length",
    "img_size": "input.min_size",
    "imgsz": "input.min_size",
    "iterations": "train.schedule.length",
    "learning_rate": "train.lr",
    "max_epochs": "train.schedule.length",
    "max_iter": "train.schedule.length",
    "milestones": "train.schedule.steps",
    "num_workers": "train.workers",
    "pretrained": "model.backbone.weights",
    "wd": "train.weight_decay",
}
"""What other programs call a setting; only used to suggest ours."""


def fields_of(section: type[Section]) -> dict[str, FieldInfo]:
    """The fields of a section by the key that is written in YAML."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def sections_in(annotation: Any) -> list[type[Section]]:
    """The section classes that a field may hold: none, one, or the kinds of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) is Literal:
        return []
    return [found for part in get_args(annotation) for found in sections_in(part)]


def section_of_item(item: Node, kinds: list[type[Section]]) -> type[Section] | None:
    """The class of a list's item: the one whose `kind` it states."""
    kind = item.get("kind") if isinstance(item, dict) else None
    stated = kind.value if isinstance(kind, Written) else None
    for section in kinds:
        field = section.model_fields.get("kind")
        if field and stated in get_args(field.annotation):
            return section
    return None


def unknown_keys(
    node: dict[str, Node], section: type[Section], path: str = ""
) -> Iterator[tuple[str, Written]]:
    """Every value written under a key that `section` does not have, with its dotted key."""
    fields = fields_of(section)
    for key, child in node.items():
        dotted = f"{path}{key}"
        if key not in fields:
            yield from leaves(child, dotted)
        else:
            yield from _unknown_below(child, fields[key].annotation, dotted)


def known_keys(
    node: dict[str, Node], section: type[Section], path: str = ""
) -> Iterator[tuple[str, FieldInfo]]:
    """Every key that takes a value, dotted, with its field; items of a list as `node` has them."""
    for key, field in fields_of(section).items():
        kinds, child = sections_in(field.annotation), node.get(key)
        if not kinds:
            yield f"{path}{key}", field
        elif isinstance(child, list):
            for index, item in enumerate(child):
                kind = section_of_item(item, kinds)
                if kind and isinstance(item, dict):
                    yield from known_keys(item, kind, f"{path}{key}.{item_name(item, index)}.")
        elif len(kinds) == 1:
            below = child if isinstance(child, dict) else {}
            yield from known_keys(below, kinds[0], f"{path}{key}.")


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
    """The range of a number in words: "in [0, 1]", "at least 1"; None where it has none."""
    bounds = {
        name: getattr(rule, name)
        for rule in field.metadata
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


def _unknown_below(child: Node, annotation: Any, dotted: str) -> Iterator[tuple[str, Written]]:
    kinds = sections_in(annotation)
    if isinstance(child, list):
        for index, item in enumerate(child):
            kind = section_of_item(item, kinds)
            if kind and isinstance(item, dict):
                yield from unknown_keys(item, kind, f"{dotted}.{item_name(item, index)}.")
    elif isinstance(child, dict) and get_origin(annotation) is not dict:
        if len(kinds) == 1:
            yield from unknown_keys(child, kinds[0], f"{dotted}.")
        else:
            yield from leaves(child, dotted)


def _likeness(key: str, leaf: str, candidate: str) -> float:
    """Above 0 where the last parts or the whole keys are alike; larger is more alike."""
    of_leaf = SequenceMatcher(None, leaf, candidate.rpartition(".")[2]).ratio()
    of_whole = SequenceMatcher(None, key.lower(), candidate).ratio()
    return of_leaf + of_whole if of_leaf >= 0.65 or of_whole >= 0.8 else 0.0

"""What the shell offers when Tab is pressed: names and values, without torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING

from dhcli.config.presets import preset_names

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_BEFORE = "_DH_BEFORE"
"""Holds, in the process that completes, what stands before the word and stays as it is."""


def complete_preset(incomplete: str) -> list[str]:
    """Names of presets that begin with `incomplete`."""
    return _starting(incomplete, preset_names())


def complete_format(incomplete: str) -> list[str]:
    """Names of dataset formats that begin with `incomplete`."""
    from dhcli.data.formats import FORMATS

    return _starting(incomplete, FORMATS)


def complete_metrics(incomplete: str) -> list[str]:
    """Metrics, after those that are listed already with commas between."""
    from dhcli.metrics.names import METRICS

    return _listing(incomplete, METRICS)


def complete_files(incomplete: str) -> list[str]:
    """Kinds of files of predictions, after those that are listed already."""
    from dhcli.inference.writers import FORMATS

    return _listing(incomplete, (*FORMATS, "none"))


def complete_scores(incomplete: str) -> list[str]:
    """Branches and fusions that can score."""
    from dhcli.config.schema import FUSIONS

    return _starting(incomplete, ("fc", "conv", *FUSIONS))


def complete_boxes(incomplete: str) -> list[str]:
    """Branches that can place boxes."""
    return _starting(incomplete, ("fc", "conv"))


def complete_device(incomplete: str) -> list[str]:
    """Devices to compute on."""
    return _starting(incomplete, ("auto", "cpu", "cuda", "mps"))


def complete_setting(incomplete: str) -> list[tuple[str, str]]:
    """`key=` for every key that begins with `incomplete`; of the only one left, `key=value`.

    What can be anything completes to its default: it shows what is meant. Each comes with what the
    setting means.
    """
    from dhcli.config.keys import every_key
    from dhcli.config.schema import Config

    before = os.environ.get(_BEFORE, "")
    typed = before + incomplete
    key, equals, _ = typed.partition("=")
    fields = [
        (k, f) for k, f in every_key(Config) if k == key or (not equals and k.startswith(key))
    ]
    alone = len({k for k, _ in fields}) == 1
    words = {
        f"{k}={value}": _first_sentence(field.description or "")
        for k, field in fields
        for value in (_values(field) if alone else [""])
    }
    found = ((word, about) for word, about in words.items() if word.startswith(typed))
    return [(word.removeprefix(before), about) for word, about in found]


def join_words(environment: MutableMapping[str, str]) -> None:
    """Undo in `environment` that Bash takes `KEY=VALUE`, or `--option=VALUE`, for three words.

    Of the word at the cursor only the value is left, as Bash replaces no more than that.
    """
    words = environment["COMP_WORDS"].split("\n" if "\n" in environment["COMP_WORDS"] else " ")
    at = int(environment["COMP_CWORD"])
    if words[at : at + 1] == ["="]:  # nothing is written behind it yet
        words.insert(at := at + 1, "")
    done: list[str] = []
    for word in words[:at]:
        if done[-1:] == ["="] and len(done) > 1:
            done[-2:] = [f"{done[-2]}={word}"]
        else:
            done.append(word)
    if done[-1:] == ["="] and len(done) > 1:
        done.pop()
        if not done[-1].startswith("-"):
            environment[_BEFORE] = f"{done.pop()}="
    environment["COMP_WORDS"] = "\n".join([*done, *words[at:]])
    environment["COMP_CWORD"] = str(len(done))


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _listing(incomplete: str, names: Iterable[str]) -> list[str]:
    """`incomplete` is names with commas between: each of the others at its end."""
    before, comma, last = incomplete.rpartition(",")
    listed = before.split(",")
    return [before + comma + name for name in _starting(last, names) if name not in listed]


def _values(field: FieldInfo) -> list[str]:
    """What a setting can be: its choices, else nothing yet and its default."""
    from dhcli.config.keys import choices_of
    from dhcli.config.text import write_scalar

    if choices := choices_of(field):
        return choices
    value = field.get_default(call_default_factory=True)
    if field.is_required() or value is None:
        return [""]
    return ["", write_scalar(list(value) if isinstance(value, tuple) else value)]


def _first_sentence(text: str) -> str:
    return " ".join(text.split()).partition(". ")[0].removesuffix(".")

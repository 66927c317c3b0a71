"""Names of classes: for weights that come without, and which of two lists mean the same."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from dhcli.errors import ConfigError


class ClassNames(NamedTuple):
    """K different names and the category ids that results files show."""

    names: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """Which known class a name means, and how it was found.

    `how`: by an alias, the exact name, alike but for case, spaces, `-` and `_`; or it is new.
    """

    name: str
    source: str | None
    how: Literal["alias", "exact", "alike", "new"]


def parse_class_names(text: str) -> ClassNames:
    """Names with commas between them, or a file of them.

    A text file has a name a line; a JSON file is a list of names, or a COCO annotation file, whose
    categories, in the order of their ids, bring their ids. Raises ConfigError where they are none.
    """
    path = Path(text)
    if path.suffix.lower() == ".json":
        return _checked(*_read_json(path))
    is_file = path.suffix.lower() == ".txt"
    lines = _read(path).splitlines() if is_file else text.split(",")
    names = tuple(line.strip() for line in lines if line.strip())
    return _checked(names, tuple(range(1, len(names) + 1)))


def coco_names(slots: int) -> tuple[str, ...]:
    """COCO's 80 classes, or its 90 slots, where label k is id k + 1 and ten name nothing."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    named: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    if slots == len(named):
        return tuple(f"N/A {i}" if name == "N/A" else name for i, name in enumerate(named, 1))
    return tuple(name for name in named if name != "N/A")


def _read_json(path: Path) -> tuple[tuple[str, ...], tuple[int, ...]]:
    try:
        content = json.loads(_read(path))
        if isinstance(content, Mapping):
            pairs = sorted((int(one["id"]), str(one["name"])) for one in content["categories"])
            return tuple(name for _, name in pairs), tuple(number for number, _ in pairs)
        names = tuple(str(name) for name in content)
    except (ValueError, KeyError, TypeError) as error:
        hint = "a list of names, or a COCO annotation file"
        raise ConfigError("holds no class names", where=path, hint=hint) from error
    return names, tuple(range(1, len(names) + 1))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot be read: {reason}", where=path) from error


def _checked(names: tuple[str, ...], ids: tuple[int, ...]) -> ClassNames:
    if not names or len(set(names)) != len(names):
        raise ConfigError("class names must be different, and at least one", where="--classes")
    return ClassNames(names, ids)


def match_names(
    classes: Sequence[str], known: Sequence[str], aliases: Mapping[str, str]
) -> tuple[Match, ...]:
    """For each of `classes` the one of `known` it starts from: alias, else exact, else alike.

    Two known names that are alike to one another are matched exactly or not at all.
    """
    counts = Counter(map(_plain, known))
    alike = {_plain(name): name for name in known if counts[_plain(name)] == 1}
    return tuple(_match(name, known, alike, aliases) for name in classes)


def _match(
    name: str, known: Sequence[str], alike: Mapping[str, str], aliases: Mapping[str, str]
) -> Match:
    if name in aliases:
        return Match(name, aliases[name], "alias")
    if name in known:
        return Match(name, name, "exact")
    if _plain(name) in alike:
        return Match(name, alike[_plain(name)], "alike")
    return Match(name, None, "new")


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()

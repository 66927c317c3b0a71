"""Files that list the classes of a dataset: where several do, they must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dhcli.errors import DataError


class ClassList(NamedTuple):
    """What a file, named from the root, calls the classes: by number, or by a code."""

    file: str
    names: Mapping[Any, str]


def require_agreement(root: Path, lists: Sequence[ClassList], *, in_part: bool = False) -> None:
    """Raise DataError if two lists name a class differently, or only one of them names it.

    The latter may be where lists are `in_part`.
    """
    for other in lists[1:]:
        _compare(root, lists[0], other, in_part=in_part)


def _compare(root: Path, one: ClassList, other: ClassList, *, in_part: bool) -> None:
    keys = {*one.names} & {*other.names} if in_part else {*one.names, *other.names}
    for key in sorted(keys):
        named = [each.names.get(key, "").strip() for each in (one, other)]
        if named[0] != named[1]:
            says = [f"`{name}`" if name else "no class" for name in named]
            number = f"number {key}" if isinstance(key, int) else f"`{key}`"
            raise DataError(
                f"two files do not agree on the classes: {number} is {says[0]} in "
                f"{one.file} and {says[1]} in {other.file}",
                where=root,
                hint="correct or remove the wrong one",
            )

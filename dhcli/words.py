"""Words for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SHOWN = 3
_FIRST = re.compile(r"\w+")
_FORMULA = ("=", "+", "-", "@")
_SAFE = "'"


def counted(count: int, what: str) -> str:
    """`count` and what there are so many of; `what` begins with a noun in the singular.

    `1 image`, `2 boxes of no class`, `118,287 images: left out`.
    """
    return f"{count:,} {what if count == 1 else _FIRST.sub(_plural, what, count=1)}"


def named(names: Sequence[str], what: str) -> str:
    """How many `names` there are of `what`, and the first of them: `2 videos left out: a, b`."""
    shown, more = ", ".join(names[:_SHOWN]), len(names) - _SHOWN
    return f"{counted(len(names), what)}: {shown}" + (f" and {more:,} more" if more > 0 else "")


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that stands in `names` a second time; None if all differ."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def as_cell(text: str) -> str:
    """A name as a cell that no spreadsheet takes for a formula: after an apostrophe, as they do."""
    return f"{_SAFE}{text}" if text.lstrip(_SAFE).startswith(_FORMULA) else text


def of_cell(cell: str) -> str:
    """The name that `as_cell` made `cell` of."""
    is_safe = cell.startswith(_SAFE) and cell.lstrip(_SAFE).startswith(_FORMULA)
    return cell.removeprefix(_SAFE) if is_safe else cell


def _plural(noun: re.Match[str]) -> str:
    word = noun[0]
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x")) else f"{word}s"

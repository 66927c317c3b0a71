"""Words for people."""

from __future__ import annotations

import re

_FIRST = re.compile(r"\w+")


def counted(count: int, what: str) -> str:
    """`count` and what there are so many of; `what` begins with a noun in the singular.

    `1 image`, `2 boxes of no class`, `118,287 images: left out`.
    """
    return f"{count:,} {what if count == 1 else _FIRST.sub(_plural, what, count=1)}"


def _plural(noun: re.Match[str]) -> str:
    word = noun[0]
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x")) else f"{word}s"

"""Words for people."""

from __future__ import annotations

import re

_FIRST = re.compile(r"\w+")
_WITH_ES = ("s", "x", "ch")


def counted(count: int, what: str) -> str:
    """`count` and what there are so many of; `what` begins with a noun in the singular.

    `1 image`, `2 boxes of no class`, `118,287 images: left out`.
    """

    def plural(noun: re.Match[str]) -> str:
        return f"{noun[0]}{'es' if noun[0].endswith(_WITH_ES) else 's'}"

    return f"{count:,} {what if count == 1 else _FIRST.sub(plural, what, count=1)}"

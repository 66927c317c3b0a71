"""What the name of an image may mean: a path, an address, at times encoded."""

from __future__ import annotations

import re
from urllib.parse import unquote

_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://[^/]*/", re.IGNORECASE)
"""A scheme, and the host or the bucket behind it."""
_SERVED = "/local-files/?d="
"""How Label Studio names a file of its server's."""


def path_of(address: str) -> str:
    """The path that an address speaks of: without scheme, host or bucket, and query; decoded.

    `/data/local-files/?d=a/b%20c.jpg` speaks of `a/b c.jpg`, `s3://bucket/a/b.jpg` of `a/b.jpg`.
    """
    path = address
    if _SERVED in address:
        path = unquote(address.partition(_SERVED)[2])
    elif _SCHEME.match(address) or address.startswith("/"):
        path = unquote(address.partition("?")[0])
    return _SCHEME.sub("", path).replace("\\", "/").strip("/")


def spellings(name: str) -> list[str]:
    """What `name` may mean, best first: what is written, that decoded, and without its query.

    An address may have "+" for a space, or the path of the image as the last value of its query.
    """
    if not any(mark in name for mark in "%?+"):
        return [name]
    path, _, query = name.partition("?")
    value = query.rpartition("=")[2]
    decoded = unquote(path)
    told = (name, unquote(name), path, decoded, unquote(decoded), unquote(path.replace("+", " ")))
    return list(dict.fromkeys((*told, *([unquote(value)] if value else ()))))

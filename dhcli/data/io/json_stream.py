"""Long arrays of a JSON file, read in bounded memory: typed rows, and where their text lies.

What the objects of an array say is decoded by msgspec, millions of rows without a tree of objects;
where each lies is found by looking at its braces, a window of the file at a time. This takes only
what is sound, UTF-8 and as it is usually written; anything else is `NotPlain`, and the file is for
`JsonText`, which takes all there is to take and names the line of what is wrong.

Kept although msgspec can read a mapped file whole and give each object's text by its address, in 40
lines: that takes a fifth more time (0.28 s for 88,000 annotations with polygons, this 0.23) and the
file's own pages (42 MB there) beside the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.files import open_file
from dhcli.data.io.progress import FileProgress
from dhcli.ops.arrays import expand_ranges

_WINDOW = 1 << 22
_LARGEST = 1 << 24
"""Bytes of a window, and of the largest object."""
_VALUE = 1 << 16
"""Bytes looked at for a member that is no long array; more where that is not enough."""
_QUOTE, _OPEN, _CLOSE = b'"{}'
_SPACE = b" \t\r\n"
_BETWEEN = np.isin(np.arange(256), list(_SPACE + b","))
_DECODER = json.JSONDecoder()

T = TypeVar("T")


class NotPlain(Exception):
    """The file, or an entry in it, is not as the fast way takes it."""


@dataclass(frozen=True)
class Objects:
    """Some objects that follow each other in an array.

    text    their JSON, as an array
    starts  (n,) int64 bytes from the start of the file
    stops   (n,) int64
    """

    text: bytes
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]

    def typed(self, decoder: msgspec.json.Decoder[list[T]]) -> list[T] | None:
        """The objects as the `decoder`'s type; None where they are not all of that shape."""
        try:
            rows = decoder.decode(self.text)
        except (msgspec.DecodeError, RecursionError):
            return None
        return self._counted(rows)

    def plain(self) -> list[dict[str, Any]]:
        """The objects as they are."""
        try:
            rows: list[dict[str, Any]] = json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise NotPlain from error
        return self._counted(rows)

    def _counted(self, rows: list[T]) -> list[T]:
        if len(rows) != len(self.starts):
            raise NotPlain
        return rows


Take = Callable[[Objects], None]


class JsonStream:
    """The JSON file `path`, read once from its start to its end. Everything raises NotPlain."""

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        self._buffer = b""
        self._base = 0  # where the buffer begins in the file
        self._at = 0  # how far it is read
        self._ended = False
        self._progress = FileProgress(path, path.stat().st_size)
        self._fill(_VALUE)
        if self._buffer.startswith(b"\xef\xbb\xbf"):
            self._at = 3

    def read_object(self, arrays: Mapping[str, Take]) -> dict[str, Any]:
        """Hand over the objects of the members `arrays`; return the other members."""
        others: dict[str, Any] = {}
        with self._file:
            self._expect(b"{")
            while self._next() != b"}":
                key = self._value()
                self._expect(b":")
                if key in arrays and self._next() == b"[":
                    self._array(arrays[key])
                else:
                    others[str(key)] = self._value()
                self._separate(b"}")
            self._finish()
        return others

    def read_array(self, take: Take) -> None:
        """Hand over the objects of the document, an array."""
        with self._file:
            self._array(take)
            self._finish()

    def _array(self, take: Take) -> None:
        self._expect(b"[")
        while self._next() != b"]":
            objects, length = self._objects()
            take(objects)
            self._at += length
            self._progress.reached(self._base + self._at)
            self._separate(b"]")
        self._at += 1

    def _objects(self) -> tuple[Objects, int]:
        """The objects from here on that lie within a window, and how many bytes they take."""
        size = _WINDOW
        while True:
            self._fill(size)
            starts, stops = _spans(self._buffer[self._at : self._at + size])
            if len(starts):
                break
            if self._ended or size > _LARGEST:
                raise NotPlain
            size *= 4
        text = self._buffer[self._at : self._at + int(stops[-1])]
        if not _is_utf8(text):
            raise NotPlain
        here = self._base + self._at
        return Objects(b"[" + text + b"]", starts + here, stops + here), len(text)

    def _value(self) -> Any:
        """The value from here on."""
        size = _VALUE
        while True:
            self._fill(size)
            text = self._buffer[self._at : self._at + size].decode("utf-8", "replace")
            whole = self._ended and size >= len(self._buffer) - self._at
            try:
                value, end = _DECODER.raw_decode(text)
            except (ValueError, RecursionError) as error:
                if whole:
                    raise NotPlain from error
            else:
                # A number that ends with the window may go on behind it.
                if whole or end < len(text):
                    break
            size *= 8
        if "\ufffd" in text[:end]:  # not UTF-8, or looks like that
            raise NotPlain
        self._at += len(text[:end].encode())
        return value

    def _separate(self, close: bytes) -> None:
        """Past a comma, or at `close`."""
        if self._next() == close:
            return
        self._expect(b",")
        if self._next() == close:
            raise NotPlain

    def _expect(self, character: bytes) -> None:
        if self._next() != character:
            raise NotPlain
        self._at += 1
        self._next()

    def _next(self) -> bytes:
        """The next character that is no space; where it is, is here."""
        while True:
            while (found := self._buffer[self._at : self._at + 1]) and found in _SPACE:
                self._at += 1
            if found or self._ended:
                return found
            self._fill(_VALUE)

    def _finish(self) -> None:
        self._at += 1
        if self._next():
            raise NotPlain

    def _fill(self, size: int) -> None:
        """Have `size` bytes from here on, or all that are left."""
        missing = size - (len(self._buffer) - self._at)
        if missing > 0 and not self._ended:
            more = self._file.read(max(missing, _VALUE))
            self._ended = not more
            self._buffer = self._buffer[self._at :] + more
            self._base += self._at
            self._at = 0


def _spans(text: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the objects at the start of `text`, a part of an array, begin and end: (n,) each.

    Only whole ones, with nothing but commas and spaces between them. A brace or an escaped quote
    within a string would mislead this: NotPlain.
    """
    letters = np.frombuffer(text, np.uint8)
    braces = np.flatnonzero((letters == _OPEN) | (letters == _CLOSE))
    opens = letters[braces] == _OPEN
    depth = np.cumsum(np.where(opens, np.int8(1), np.int8(-1)), dtype=np.int32)
    stops = braces[(depth == 0) & ~opens] + 1
    starts = braces[(depth == 1) & opens][: len(stops)]
    if not text.startswith(b"{") or len(starts) < len(stops):
        raise NotPlain
    gaps = starts[1:] - stops[:-1]
    strange = np.flatnonzero(~_BETWEEN[letters[expand_ranges(stops[:-1], gaps)]])
    if len(strange):  # the end of the array
        count = int(np.searchsorted(np.cumsum(gaps), strange[0], "right")) + 1
        starts, stops = starts[:count], stops[:count]
    end = int(stops[-1]) if len(stops) else 0
    # An odd number of quotes before a brace: it stands in a string.
    quotes = np.flatnonzero(letters[:end] == _QUOTE)
    before = np.searchsorted(quotes, braces[: np.searchsorted(braces, end)])
    if (before & 1).any() or _has_escaped_quote(text, end):
        raise NotPlain
    return starts, stops


def _has_escaped_quote(text: bytes, end: int) -> bool:
    # To look for one character is a great deal faster than for two.
    return text.find(b"\\", 0, end) >= 0 and text.find(b'\\"', 0, end) >= 0


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True

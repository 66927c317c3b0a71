"""JSON read an element at a time: a long array costs its text, not a tree of objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dhcli.data.io.files import read_head, read_text
from dhcli.data.io.progress import FileProgress
from dhcli.errors import DataError

Take = Callable[[Any, int, int], None]
"""Takes an element of an array, and where its text begins and ends."""

ODD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What goes wrong where an element is not built as its format has it."""

_SPACE = re.compile(r"[ \t\n\r]*")
_COMMA = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def begins_as(path: Path, opening: str, *names: str) -> bool:
    """Whether `path` is a JSON file that opens with a bracket and soon speaks of all `names`."""
    if path.suffix.lower() != ".json":
        return False
    head = read_head(path, 1 << 20)
    return head.lstrip().startswith(opening) and all(f'"{name}"' in head for name in names)


def oddity(error: Exception) -> str:
    """What an error of the kinds `ODD` says of an element, to follow its name."""
    if isinstance(error, KeyError):
        return f"has no `{error.args[0]}`"
    return f"has a value that cannot be used: {str(error)[:80]}"


class JsonText:
    """The text of the JSON file at `path`. Every error is a DataError naming file and line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = read_text(path)
        self.start = self._skip(0)
        """Where the document begins."""
        self._counted = (1, 0)
        self._progress = FileProgress(path, len(self.text))

    def begins_with(self, character: str) -> bool:
        """Whether the document is an object ("{") or an array ("[")."""
        return self.text.startswith(character, self.start)

    def read_object(self, parts: Mapping[str, Take]) -> dict[str, Any]:
        """Hand over what the members `parts` of the document hold, one by one; return the others.

        That is, the elements of an array, or the values of an object.
        """
        others: dict[str, Any] = {}
        position = self._expect("{", self.start)
        while not self.text.startswith("}", position):
            key, end = self._value(position)
            position = self._expect(":", self._skip(end))
            if key in parts and self.text.startswith("[", position):
                end = self.read_array(parts[key], position)
            elif key in parts and self.text.startswith("{", position):
                end = self.read_values(parts[key], position)
            else:
                others[str(key)], end = self._value(position)
            position = self._next(end, "}")
        self._finish(position)
        return others

    def read_values(self, take: Take, start: int | None = None) -> int:
        """Hand over the values of the object at `start`, or the document; return where it ends."""
        position = self._expect("{", self.start if start is None else start)
        while not self.text.startswith("}", position):
            _, end = self._value(position)
            position = self._expect(":", self._skip(end))
            value, end = self._value(position)
            take(value, position, end)
            self._progress.reached(end)
            position = self._next(end, "}")
        if start is None:
            self._finish(position)
        return position + 1

    def read_array(self, take: Take, start: int | None = None) -> int:
        """Hand over the elements of the array at `start`, or the document; return where it ends."""
        position = self._expect("[", self.start if start is None else start)
        while not self.text.startswith("]", position):
            value, end = self._value(position)
            take(value, position, end)
            self._progress.reached(end)
            position = self._next(end, "]")
        if start is None:
            self._finish(position)
        return position + 1

    def taking(
        self, what: str, add: Callable[[Any, int], None], refuse: Callable[[DataError], None]
    ) -> Take:
        """What hands each element, a `what`, and its line to `add`, or the error to `refuse`."""

        def take(element: Any, start: int, _: int) -> None:
            try:
                add(element, self.line(start))
            except ODD as error:
                where = f"{self.path}:{self.line(start)}"
                refuse(DataError(f"{what} {oddity(error)}", where=where))

        return take

    def line(self, position: int) -> int:
        """The number of the line at `position`; to be asked for in the order of the text."""
        line, counted = self._counted
        line += self.text.count("\n", counted, position)
        self._counted = (line, max(counted, position))
        return line

    def fail(self, what: str, position: int, hint: str | None = None) -> DataError:
        """The error that says `what` is wrong at `position`."""
        line = self.text.count("\n", 0, position) + 1
        return DataError(what, where=f"{self.path}:{line}", hint=hint)

    def _value(self, position: int) -> tuple[Any, int]:
        try:
            return _DECODER.raw_decode(self.text, position)
        except json.JSONDecodeError as error:
            raise self.fail(f"is not JSON: {error.msg.lower()}", error.pos) from None
        except RecursionError:
            raise self.fail("is nested too deep", position) from None
        except ValueError:
            raise self.fail("has a number with too many digits", position) from None

    def _next(self, position: int, close: str) -> int:
        """Past a comma; or at `close`."""
        comma = _COMMA.match(self.text, position)
        if comma is None:
            position = self._skip(position)
            if not self.text.startswith(close, position):
                self._expect(",", position)  # which it is not
            return position
        if self.text.startswith(close, comma.end()):
            raise self.fail("is not JSON: a comma before the end", position)
        return comma.end()

    def _expect(self, character: str, position: int) -> int:
        if not self.text.startswith(character, position):
            found = self.text[position : position + 10] or "the end of the file"
            raise self.fail(f"is not JSON: expected `{character}`, found {found!r}", position)
        return self._skip(position + 1)

    def _skip(self, position: int) -> int:
        match = _SPACE.match(self.text, position)
        return match.end() if match else position

    def _finish(self, position: int) -> None:
        if self._skip(position + 1) != len(self.text):
            raise self.fail("is not JSON: there is more text after its end", position)

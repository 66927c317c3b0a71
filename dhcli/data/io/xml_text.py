"""XML read an element at a time: nothing is kept, nothing declared or fetched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from dhcli.data.io.files import decode, read_bytes
from dhcli.data.io.progress import LARGE, FileProgress
from dhcli.errors import DataError

_DECLARED = re.compile(
    rb"""\s*<\?xml[^>]*\sencoding\s*=\s*["']((?:gb|big5|euc|shift|iso|windows|cp|koi)[\w-]*)""",
    re.I,
)
"""The encodings that are not plain from a file's bytes. Others need no telling, or are none."""


def read_xml(path: Path) -> str:
    """The text of an XML file, in the encoding that it declares, else as any other text."""
    data = read_bytes(path)
    declared = _DECLARED.match(data)
    try:
        return data.decode(declared[1].decode("ascii")) if declared else decode(data)
    except (LookupError, ValueError):  # not what it says
        return decode(data)


class XmlReader:
    """Takes the elements of an XML file as they begin and end; for a format to fill in.

    path  the file
    said  pieces of text since `begin` or `end` cleared it
    line  where the tag stands
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._parser: Any = None

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """Take the beginning of an element."""
        raise NotImplementedError

    def end(self, tag: str) -> None:
        """Take the end of an element."""
        raise NotImplementedError

    @property
    def line(self) -> int:
        line: int = self._parser.CurrentLineNumber
        return line

    def fail(self, what: str) -> DataError:
        """The error that says `what` is wrong at the tag."""
        return DataError(what, where=f"{self.path}:{self.line}")

    def parse(self) -> None:
        """Hand over every element.

        Raises DataError, with the line, where the file is not well-formed or has a DOCTYPE: that is
        where entities would be declared.
        """
        text = read_xml(self.path)
        self._parser = parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._refuse
        parser.StartElementHandler = self.begin
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.said.append
        progress = FileProgress(self.path, len(text))
        try:
            for start in range(0, max(len(text), 1), LARGE):
                stop = start + LARGE
                parser.Parse(text[start:stop], stop >= len(text))
                progress.reached(min(stop, len(text)))
        except expat.ExpatError as error:
            what = f"is not well-formed XML: {expat.ErrorString(error.code)}"
            raise DataError(what, where=f"{self.path}:{error.lineno}") from None
        finally:
            self._parser = None  # its handlers and this object hold each other

    def _refuse(self, *_: Any) -> None:
        raise self.fail("declares a DOCTYPE; annotations need none")


def escape_xml(text: str) -> str:
    """Text for XML, without the control characters that it cannot hold."""
    return escape("".join(c for c in text if c >= " " or c in "\t\n"))

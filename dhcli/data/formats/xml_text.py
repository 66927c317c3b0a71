"""XML read an element at a time: nothing is kept, nothing declared or fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from dhcli.data.formats.files import read_bytes
from dhcli.errors import DataError

Begin = Callable[[str, dict[str, str], int], None]
"""Takes the tag of an element, its attributes and its line."""
End = Callable[[str, str, int], None]
"""Takes the tag of an element that ends, the text before that, and the line."""


def parse_xml(path: Path, begin: Begin, end: End) -> None:
    """Hand over the elements of an XML file as they begin and end.

    Raises DataError, with the line, where the file is not well-formed or has a DOCTYPE: that is
    where entities would be declared.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    said: list[str] = []

    def refuse(*_: Any) -> None:
        where = f"{path}:{parser.CurrentLineNumber}"
        raise DataError("declares a DOCTYPE; annotations need none", where=where)

    def start(tag: str, attributes: dict[str, str]) -> None:
        said.clear()
        begin(tag, attributes, parser.CurrentLineNumber)

    def stop(tag: str) -> None:
        text = "".join(said).strip()
        said.clear()
        end(tag, text, parser.CurrentLineNumber)

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = stop
    parser.CharacterDataHandler = said.append
    try:
        parser.Parse(read_bytes(path), True)
    except expat.ExpatError as error:
        what = f"is not well-formed XML: {expat.ErrorString(error.code)}"
        raise DataError(what, where=f"{path}:{error.lineno}") from None
    except (LookupError, ValueError) as error:  # an encoding that is none
        raise DataError(f"is not XML that can be read: {str(error)[:80]}", where=path) from None


def escape_xml(text: str) -> str:
    """Text for XML, without the control characters that it cannot hold."""
    return escape("".join(c for c in text if c >= " " or c in "\t\n"))

"""XML read an element at a time: nothing is kept, nothing declared or fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import escape

from dhcli.data.io.files import decode, read_bytes
from dhcli.data.io.progress import FileProgress
from dhcli.errors import DataError

Begin = Callable[[str, dict[str, str], int], None]
"""Takes the tag of an element, its attributes and its line."""
End = Callable[[str, str, int], None]
"""Takes the tag of an element that ends, the text before that, and the line."""


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


def parse_xml(path: Path, begin: Begin, end: End) -> None:
    """Hand over the elements of an XML file as they begin and end.

    Raises DataError, with the line, where the file is not well-formed or has a DOCTYPE: that is
    where entities would be declared.
    """
    text = read_xml(path)
    progress = FileProgress(path, len(text))
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
        content = "".join(said).strip()
        said.clear()
        end(tag, content, parser.CurrentLineNumber)
        progress.reached(min(parser.CurrentByteIndex, len(text)))

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = stop
    parser.CharacterDataHandler = said.append
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        what = f"is not well-formed XML: {expat.ErrorString(error.code)}"
        raise DataError(what, where=f"{path}:{error.lineno}") from None


def escape_xml(text: str) -> str:
    """Text for XML, without the control characters that it cannot hold."""
    return escape("".join(c for c in text if c >= " " or c in "\t\n"))

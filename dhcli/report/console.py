"""The two consoles: `out` for data, `err` for words and progress.

Neither reads markup in text: a path may hold `[brackets]`. Styled words are made of rich's `Text`.
Lines of text are not wrapped; tables have the terminal's width, or 120 columns where there is none.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

from rich.console import Console
from rich.segment import Segment

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal, or turns the direction of text; not tabs and line breaks."""


class _PlainText(Console):
    r"""A console that shows what a file says of itself, and never obeys it.

    Control characters in text appear as \x1b, what the stream cannot spell likewise. The styles
    and bars of rich are not text. Words that cannot be written, their terminal or reader having
    gone, end no work: nothing more is said.
    """

    def _write_buffer(self) -> None:
        try:
            super()._write_buffer()
        except OSError:
            if not self.stderr:
                raise
            self.quiet = True
            with suppress(OSError):  # what is left in the stream, at the end of Python
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=self._shown(segment.text))
            for segment in buffer
        )

    def _shown(self, text: str) -> str:
        return spelled(_CONTROLS.sub(_escape, text), self.encoding)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def spelled(text: str, encoding: str) -> str:
    r"""`text` with what `encoding` cannot spell as escapes, such as \u03c9 for ω."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _make_console(stream: TextIO, *, stderr: bool) -> _PlainText:
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return _PlainText(
        stderr=stderr,
        width=120 if piped else None,
        markup=False,
        highlight=False,
        emoji=False,
        soft_wrap=True,
    )


out = _make_console(sys.stdout, stderr=False)
err = _make_console(sys.stderr, stderr=True)


def is_live() -> bool:
    """Whether words go to a terminal that can be redrawn; else progress is plain, whole lines."""
    return sys.stderr.isatty() and not err.is_dumb_terminal


def print_json(document: object) -> None:
    """The one JSON document of a command's `--json`, on stdout."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(document, indent=2, ensure_ascii=not is_unicode, allow_nan=False)
    sys.stdout.write(f"{spelled(text, sys.stdout.encoding)}\n")

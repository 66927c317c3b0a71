"""The two consoles: `out` for data, `err` for words and progress.

Neither reads markup in text: a path may hold `[brackets]`. Styled words are made of rich's `Text`.
Lines of text are not wrapped; tables have the terminal's width, or 120 columns where there is none.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO

from rich.console import Console


def _make_console(stream: TextIO, *, stderr: bool) -> Console:
    piped = not stream.isatty() and "COLUMNS" not in os.environ
    return Console(
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
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

"""Errors for people: what is wrong, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

MOST_LISTED = 20


class DhError(Exception):
    """Anything the user can mend. Printed as `error: …` and `hint: …`, never as a traceback.

    `where` names the place (file:line, key, image) and stands before the message.
    The exit code of the command is the class's `exit_code`.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint
        super().__init__(f"{self.where}: {what}" if self.where else what)
        if hint:
            self.add_note(f"hint: {hint}")  # what a program that does not catch it prints


class ConfigError(DhError):
    """A setting, preset or command line that cannot be used."""

    exit_code = 2


class DataError(DhError):
    """A dataset, annotation or image that cannot be used."""

    exit_code = 3


class ModelError(DhError):
    """A model file or weights that cannot be used."""

    exit_code = 4


def suggest(name: str, known: Sequence[str], listed: str = "there are") -> str:
    """A hint for who wrote `name`: the nearest of `known`, else all of them after `listed`."""
    from difflib import get_close_matches  # only errors need it

    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean `{near[0]}`?"
    more = len(known) - MOST_LISTED
    shown = ", ".join(known[:MOST_LISTED]) or "none"
    return f"{listed}: {shown}" + (f" and {more} more" if more > 0 else "")

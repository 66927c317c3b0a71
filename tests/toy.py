"""Sections that no shipped schema has, and a way to put them into one for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Union

from dhcli.config.schema import Config
from dhcli.config.schema.base import Section, sections_in


@contextmanager
def widened(section: type[Section], name: str, *kinds: type[Section]) -> Iterator[None]:
    """While it lasts, the field `name` of `section`, a choice by kind, also takes `kinds`.

    `section` is `Config` or stands somewhere below it.
    """
    field = section.model_fields[name]
    before: Any = field.annotation
    field.annotation = Union[before, *kinds]  # type: ignore[assignment]
    try:
        _rebuild(Config)
        yield
    finally:
        field.annotation = before
        _rebuild(Config)


def _rebuild(section: type[Section]) -> None:
    """Build the validators anew, those of the parts first."""
    for field in section.model_fields.values():
        for part in sections_in(field.annotation):
            _rebuild(part)
    section.model_rebuild(force=True)

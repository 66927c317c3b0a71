"""STUB until study-a is merged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dhcli.report.sheet import Sheet


@dataclass(frozen=True)
class Study:
    name: str
    facts: dict[str, Any]
    numbers: Sheet
    sheets: tuple[Sheet, ...]
    figures: Mapping[str, Callable[[Path], None]]

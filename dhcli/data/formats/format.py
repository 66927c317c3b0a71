"""What makes a format: how it is called, recognised, read and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dhcli.data.formats.placing import Holds, Placing
from dhcli.data.table import DetectionTable


@dataclass(frozen=True)
class Format:
    """How a format is called, recognised, read and written.

    sniff  whether a file or folder is of it
    read   the table in a file or folder
    write  put a table into the folder of a Placing
    holds  what it can hold
    """

    title: str
    looks_for: str
    sniff: Callable[[Path], bool]
    read: Callable[[Path], DetectionTable]
    write: Callable[[DetectionTable, Placing], None]
    holds: Holds

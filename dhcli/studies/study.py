"""What every study of the paper gives: numbers, tables and figures; and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dhcli.atomic import atomic_folder, atomic_write
from dhcli.report.plain import csv_text, json_rows
from dhcli.report.sheet import Sheet


@dataclass(frozen=True)
class Study:
    """The outcome of a study.

    name     of its command, such as `windows`
    facts    what it was made from, in plain values: models, data, split, seed, settings, counts
    numbers  every number in the figures, a row each
    sheets   what the terminal shows
    figures  file name → draws that PNG at a path
    """

    name: str
    facts: dict[str, Any]
    numbers: Sheet
    sheets: tuple[Sheet, ...]
    figures: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: name, facts and numbers; null for what is undefined."""
        return {"study": self.name, "facts": self.facts, "numbers": json_rows(self.numbers)}


def write_study(study: Study, out: Path, *, overwrite: bool = False) -> list[Path]:
    """Write study.json, study.csv and the figures into the new folder `out`; the files.

    Raises DhError where it is there already, unless `overwrite`, or cannot be written.
    """
    with atomic_folder(out, overwrite=overwrite) as place:
        texts = {
            "study.json": f"{json.dumps(study.as_dict(), indent=2, ensure_ascii=False)}\n",
            "study.csv": csv_text(study.numbers),
        }
        for name, text in texts.items():
            with atomic_write(place / name) as file:
                file.write(text.encode("utf-8", "surrogateescape"))
        for name, draw in study.figures.items():
            draw(place / name)
    return [out / name for name in (*texts, *study.figures)]

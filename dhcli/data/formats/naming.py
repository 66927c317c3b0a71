"""Names of classes and splits that every format can spell; `flat_names` has those of images."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from dhcli.data.formats.columns import DONT_CARE
from dhcli.data.formats.placing import Holds
from dhcli.data.io.files import is_split_name
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError
from dhcli.words import named

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]+")
_PARTS = re.compile(r"[\s,]+")
_OTHERS = "`--to yolo`, voc, coco, cvat, datumaro and via keep it"


def spell_names(
    table: DetectionTable, holds: Holds, title: str
) -> tuple[DetectionTable, tuple[str, ...]]:
    """`table` with names that are read back as they are written, and lines on those that changed.

    Of a class's name control characters and line breaks become blanks, those at its ends go, and
    blanks become `holds.blank`. Raises DataError for a class without a name, two that would have
    the same one, and a split that the format cannot name.
    """
    classes = [spelled(name, holds.blank) for name in table.classes]
    _check_classes(table, dict(zip(table.classes, classes, strict=True)))
    for name in table.splits:
        _check_split(table, name, holds, title)
    pairs = zip(table.classes, classes, strict=True)
    changed = [f"`{old}` as `{new}`" for old, new in pairs if old != new]
    lines = [named(changed, "class written otherwise")] if changed else []
    if DONT_CARE in classes:
        lines.append(f"class `{DONT_CARE}`: its boxes will be read back as regions to ignore")
    return replace(table, classes=tuple(classes)), tuple(lines)


def spelled(name: str, blank: str = " ") -> str:
    """A class's name as a line of text holds it, with `blank` for blanks.

    Where that is another, commas part columns as blanks do.
    """
    plain = _CONTROLS.sub(" ", name).strip()
    return plain if blank == " " else blank.join(filter(None, _PARTS.split(plain)))


def _check_classes(table: DetectionTable, spelled: Mapping[str, str]) -> None:
    counts = Counter(spelled.values())
    for old, new in spelled.items():
        what = None
        if not new:
            what = "has no name that can be written"
        elif counts[new] > 1:
            what = f"would be written as `{new}`, as another class would"
        if what:
            otherwise = f"give it another name: `--map {shlex.quote(f'{old}=NEW')}`"
            hint = otherwise if old.strip() else "give it a name in the data"
            raise DataError(f"class `{old}` {what}", where=table.root, hint=hint)


def _check_split(table: DetectionTable, name: str, holds: Holds, title: str) -> None:
    """Raise DataError where the split `name` would not be read back."""
    wrong = bool(_CONTROLS.search(name)) or not name.strip()
    if holds.split_names == "file":
        wrong = wrong or "/" in name or name.startswith(".")
    elif holds.split_names == "usual":
        wrong = wrong or not is_split_name(name)
    if wrong:
        usual = holds.split_names == "usual"
        what = f"split `{name}` cannot be written as {title}"
        why = ", whose splits are train, val, test and the like" if usual else ""
        hint = _OTHERS if usual else "give it another name in the data"
        raise DataError(f"{what}{why}", where=table.root, hint=hint)

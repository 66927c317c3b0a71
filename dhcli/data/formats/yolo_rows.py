"""The lines of YOLO's label files: a class, and a box, a polygon, or a box with keypoints."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec

from dhcli.data.formats.columns import Columns
from dhcli.data.formats.yolo_names import MOST_CLASSES
from dhcli.data.io.files import decode, read_bytes
from dhcli.data.io.text_rows import numbers_of
from dhcli.errors import DataError

BEYOND = 2
"""A fraction of an image that no polygon around an object reaches: something else is meant."""

_POLYGON = "polygon: read as the box around it"

_Class = Annotated[int, msgspec.Meta(ge=0, lt=MOST_CLASSES)]
_PLAIN = msgspec.json.Decoder(list[tuple[_Class, float, float, float, float]])
_TO_JSON = bytes.maketrans(b" \t,[]\r", b",,xxxx")
"""Makes JSON of a plain label file, and no JSON of one that has commas or brackets itself."""


def read_labels(path: str, columns: Columns, keypoints: int) -> None:
    """Add the boxes of one label file: centre, width and height, in fractions.

    `keypoints` is how many numbers of a line are these.
    """
    data = read_bytes(path)
    rows = _plain_rows(data)
    if rows is None:
        return _read_carefully(data, Path(path), columns, keypoints)
    boxes = list(chain.from_iterable(rows))
    del boxes[::5]
    columns.add_boxes([row[0] for row in rows], boxes, range(1, len(rows) + 1))
    return None


def _plain_rows(data: bytes) -> list[tuple[int, float, float, float, float]] | None:
    """The lines of a label file that has five columns throughout; None for any other.

    Read as JSON, which takes a seventh of Python's time for numbers.
    """
    text = data.replace(b"\r\n", b"\n").rstrip()
    if not text:
        return []
    try:
        return _PLAIN.decode(b"[[%b]]" % text.translate(_TO_JSON).replace(b"\n", b"],["))
    except msgspec.DecodeError:
        return None


def _read_carefully(data: bytes, path: Path, columns: Columns, keypoints: int) -> None:
    """Add the boxes of one label file, line by line."""
    for line, row in enumerate(decode(data).splitlines(), 1):
        if not row.strip():
            continue
        where = f"{path}:{line}"
        try:
            label, values = _numbers(row, where)
            box, score = _box_of(values, keypoints, where)
        except DataError as error:
            columns.refuse(error, len(columns.files) - 1)
            continue
        columns.add_box(label, box, 0, line)
        if score is not None:
            columns.scores.append(score)
        if len(values) == 5 and score is None:
            columns.counts["box with a number behind it that is no score: left out"] += 1
        if len(values) > 5:
            what = "box with keypoints, which are left out" if keypoints else _POLYGON
            columns.counts[what] += 1


def _box_of(values: list[float], keypoints: int, where: str) -> tuple[list[float], float | None]:
    """The box of a line's numbers behind the class, and its score, None where it has none.

    The box is centre, width and height; behind it may be `keypoints` numbers; and, last, a score.
    Without keypoints an even count of 6 or more is a polygon. Raises DataError for other counts.
    """
    count = len(values)
    if count - keypoints in (4, 5) or count in (4, 5):
        scored = count in (5, 5 + keypoints) and not values[-1] > 1  # a track, perhaps
        return values[:4], values[-1] if scored else None
    if keypoints:
        what = f"expected 5 columns, or {5 + keypoints} with the keypoints that `kpt_shape` tells"
        raise DataError(f"{what}; found {count + 1}", where=where)
    if count < 6 or count % 2:
        what = f"expected 5 columns, 6 with a score, or a polygon; found {count + 1}"
        raise DataError(what, where=where, hint=_keypoints_hint(count) if count > 5 else None)
    if max(values) >= BEYOND > max(values[:4]):
        what = f"is no polygon: of {count + 1} columns one says {max(values):g}, beyond the image"
        raise DataError(what, where=where, hint=_keypoints_hint(count))
    return _hull(values[::2], values[1::2]), None


def _keypoints_hint(count: int) -> str:
    shape = f"[{(count - 4) // 3}, 3]" if (count - 4) % 3 == 0 else "[K, D]"
    return f"columns of keypoints behind the box are told by `kpt_shape: {shape}` in data.yaml"


def _hull(xs: list[float], ys: list[float]) -> list[float]:
    """Centre, width and height of the box around points."""
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return [x1 / 2 + x2 / 2, y1 / 2 + y2 / 2, x2 - x1, y2 - y1]


def _numbers(row: str, where: str) -> tuple[int, list[float]]:
    """Class and further numbers of a row. Raises DataError."""
    fields = row.split()
    try:
        label, *values = map(float, fields)
    except ValueError:
        label, *values = numbers_of(fields, where)  # with decimal commas, perhaps
    if not (label.is_integer() and 0 <= label < MOST_CLASSES):
        what = f"expected a class number first, found `{fields[0][:40]}`"
        raise DataError(what, where=where, hint="classes count from 0")
    return int(label), values

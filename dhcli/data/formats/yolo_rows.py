"""The lines of YOLO's label files: a class, and a box, a polygon, or a box with keypoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from math import nan
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

_CORNERS = 8
"""Numbers of an oriented box."""
_TRACKED = 6
"""Numbers of a box with a score and a track."""
_TRACK_HINT = "`kpt_shape: [1, 2]` in data.yaml leaves out what is behind the box"
_SLACK, _FILLED = 0.01, 0.3
"""What keypoints may lie outside their box by, and the share of its sides that they reach over."""
_NUMBERS = "classes count from 0; their names stand in data.yaml or classes.txt"
_POLYGON = "polygon: read as the box around it"

_Class = Annotated[int, msgspec.Meta(ge=0, lt=MOST_CLASSES)]
_PLAIN = msgspec.json.Decoder(list[tuple[_Class, float, float, float, float]])
_TO_JSON = bytes.maketrans(b" \t,[]\r", b",,xxxx")
"""Makes JSON of a plain label file, and no JSON of one that has commas or brackets itself."""


Polygons = Counter[tuple[int, bool]]
"""How many polygons have so many numbers, and may as well be boxes with keypoints, or not."""


def read_labels(path: str, columns: Columns, keypoints: int, polygons: Polygons) -> None:
    """Add the boxes of one label file: centre, width and height, in fractions.

    `keypoints` is how many numbers of a line are these. What is read as a polygon is counted.
    """
    data = read_bytes(path)
    rows = _plain_rows(data)
    if rows is None:
        return _read_carefully(data, Path(path), columns, keypoints, polygons)
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


def _read_carefully(
    data: bytes, path: Path, columns: Columns, keypoints: int, polygons: Polygons
) -> None:
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
            columns.counts["box followed by a number that is not a score: left out"] += 1
        if len(values) > 5:
            what = "box with keypoints, which are left out" if keypoints else _POLYGON
            columns.counts[what] += 1
            if len(polygons) < 2:  # else they are polygons
                polygons[len(values), _may_be_pose(values)] += 1


def require_polygons(polygons: Polygons, root: Path) -> None:
    """Raise DataError where all of what was read as polygons may be boxes with keypoints.

    So it is where all lines have the same count of columns, which is not that of four corners, and
    `_may_be_pose` says so of each.
    """
    if len(polygons) != 1:
        return
    (count, may_be_pose), _ = polygons.popitem()
    if may_be_pose and count != _CORNERS:
        behind, way = "keypoints", _keypoints_hint(count)
        if count == _TRACKED:
            behind, way = "a score and a track", _TRACK_HINT
        what = f"lines of {count + 1} columns may be polygons, or boxes followed by {behind}"
        hint = f"{way}; [0, 2] says that they are polygons"
        raise DataError(what, where=root, hint=hint)


def _may_be_pose(values: Sequence[float]) -> bool:
    """Whether numbers begin with a box that the points behind it fill, or have marks of keypoints.

    Those are 0, 1 or 2, the third number of each. Points fill a box where they lie within it, on
    both sides of its centre, and reach over a part of both its sides. A score and the track 1 may
    stand behind a box too; other tracks are beyond the image.
    """
    x, y, width, height, *rest = values
    if len(rest) == 2:
        return rest[1] == 1
    if len(rest) % 3 == 0 and all(mark in (0, 1, 2) for mark in rest[2::3]):
        return True
    return _fill(rest[::2], x, width) and _fill(rest[1::2], y, height)


def _fill(points: Sequence[float], centre: float, side: float) -> bool:
    first, last = centre - side / 2, centre + side / 2
    low, high = min(points), max(points)
    inside = -_SLACK <= first <= low + _SLACK and high - _SLACK <= last <= 1 + _SLACK
    return inside and low < centre < high and high - low >= _FILLED * side > 0


def _box_of(values: list[float], keypoints: int, where: str) -> tuple[list[float], float | None]:
    """The box of a line's numbers behind the class, and its score, None if it has none.

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
        what = f"is not a polygon: one of {count + 1} columns is {max(values):g}, beyond the image"
        raise DataError(what, where=where, hint=_keypoints_hint(count))
    return _hull(values[::2], values[1::2]), None


def _keypoints_hint(count: int) -> str:
    shape = f"[{(count - 4) // 3}, 3]" if (count - 4) % 3 == 0 else "[K, D]"
    return f"for keypoints after the box, set `kpt_shape: {shape}` in data.yaml"


def _hull(xs: list[float], ys: list[float]) -> list[float]:
    """Centre, width and height of the box around points."""
    x1, y1, x2, y2 = min(xs), min(ys), max(xs), max(ys)
    return [x1 / 2 + x2 / 2, y1 / 2 + y2 / 2, x2 - x1, y2 - y1]


def _numbers(row: str, where: str) -> tuple[int, list[float]]:
    """Class and further numbers of a row. Raises DataError."""
    first, *others = row.split()
    try:
        label = float(first.replace(",", "."))
    except ValueError:
        label = nan
    if not (label.is_integer() and 0 <= label < MOST_CLASSES):
        what = f"expected a class number first, found `{first[:40]}`"
        raise DataError(what, where=where, hint=_NUMBERS)
    try:
        values = list(map(float, others))
    except ValueError:
        values = numbers_of(others, where)  # with decimal commas, perhaps
    return int(label), values

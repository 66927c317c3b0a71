"""Boxes as files store them, to and from xyxy, and one rule for rounding.

10.1 + 0.2 is not 10.3 there. So a sum is rounded where a file is decimal text (CSV, MOT, VisDrone),
to ten decimals when it is read and to nine when it is written (MOT: ten, as its corner is a sum
too): that brings back what a file said. The numbers of JSON are floating-point ones already, and
those of WIDER FACE and of CVAT's masks whole: they stay as they add up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.text_rows import number_of
from dhcli.ops.arrays import tidy

Box = tuple[float, float, float, float]
"""xyxy."""

READ, WRITTEN = 10, 9
"""Decimals of a sum."""


def add(value: float, other: float) -> float:
    """The sum of two numbers of a file of decimal text."""
    return round(value + other, READ)


def from_xywh(x: float, y: float, width: float, height: float) -> Box:
    """The box of a corner and its sides, as they add up."""
    return x, y, x + width, y + height


def from_decimals(x: float, y: float, width: float, height: float) -> Box:
    """The box of a corner and its sides in decimal text."""
    return x, y, add(x, width), add(y, height)


def from_centre(x: float, y: float, width: float, height: float) -> Box:
    """The box around a centre."""
    return add(x, -width / 2), add(y, -height / 2), add(x, width / 2), add(y, height / 2)


def to_xywh(box: Sequence[float], decimals: int = WRITTEN) -> Box:
    """Corner and sides of a box, these to so many decimals."""
    x1, y1, x2, y2 = box
    return x1, y1, round(x2 - x1, decimals), round(y2 - y1, decimals)


def columns_xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, 4) corner and sides of `boxes` (M, 4)."""
    with np.errstate(over="ignore"):
        return np.hstack([boxes[:, :2], tidy(boxes[:, 2:] - boxes[:, :2], WRITTEN)])


def turned(box: Box, turn: float) -> Box:
    """The upright box around `box` turned by `turn` radians about its centre."""
    x1, y1, x2, y2 = box
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    x, y, width, height = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    dx, dy = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - dx, y - dy, x + dx, y + dy


def around_ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Box:
    """The upright box around an ellipse of two radii, turned by `turn` radians about its centre."""
    cos, sin = math.cos(turn), math.sin(turn)
    dx, dy = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return x - dx, y - dy, x + dx, y + dy


def hull(points: Iterable[Sequence[Any]]) -> Box:
    """The box around points (x, y). Raises ValueError where one is none, or there are none."""
    try:
        pairs = [(x, y) for x, y in points]
    except (TypeError, ValueError):
        raise ValueError("points that are not x, y pairs") from None
    if not pairs:
        raise ValueError("no points")
    xs, ys = [number_of(x) for x, _ in pairs], [number_of(y) for _, y in pairs]
    return min(xs), min(ys), max(xs), max(ys)


def hull_of_row(numbers: Sequence[Any]) -> Box:
    """The box around points x, y, x, y … Raises ValueError as `hull` does."""
    return hull(zip(numbers[::2], numbers[1::2], strict=True))

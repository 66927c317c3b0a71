"""Ground truth and detections of an image side by side, as in the paper's Figures 9 and 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dhcli.atomic import atomic_write
from dhcli.data.io.image import Pixels
from dhcli.report.draw import Box, draw_boxes, font_of

WIDTH = 460
"""Pixels of a panel."""
GAP = 8
LETTERS = 15
PAPER, INK = (255, 255, 255), (0, 0, 0)
LEAST = 64
"""Pixels of an image that are zoomed in on at least."""
AROUND = 2.2
"""Side of what is zoomed in on, over that of what it is about."""
DASH = 5


@dataclass(frozen=True)
class Mark:
    """A box that is pointed at: a solid line where something is found, else dashed."""

    box: Box
    colour: tuple[int, int, int]
    text: str = ""
    dashed: bool = False


FOUND, MISSED, PROPOSAL = (0, 158, 115), (213, 94, 0), (240, 228, 66)
"""Okabe and Ito's bluish green, vermilion and yellow."""


@dataclass(frozen=True)
class Panel:
    """An image with D boxes, each with a text, and marks over them.

    boxes   (D, 4) xyxy pixels of the image, the best first
    labels  (D,) their classes, which are their colours
    """

    title: str
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    texts: Sequence[str]
    marks: Sequence[Mark] = ()


def draw_example(image: Pixels, panels: Sequence[Panel], region: Box, path: Path) -> None:
    """Draw the panels of `image` (H, W, 3) to `path`, a PNG: above what is in `region`, below all.

    Raises DhError where `path` cannot be written.
    """
    height, width = image.shape[:2]
    views = [zoom_on(region, width, height), (0.0, 0.0, float(width), float(height))]
    rows = [[_view(image, panel, view) for panel in panels] for view in views]
    heights = [row[0].height for row in rows]
    top = LETTERS + 2 * GAP
    size = (len(panels) * (WIDTH + GAP) + GAP, top + sum(heights) + GAP * len(rows))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, panel in enumerate(panels):
        x, y = GAP + column * (WIDTH + GAP), top
        draw.text((x, GAP), panel.title, fill=INK, font=font_of(LETTERS))
        for row in rows:
            sheet.paste(row[column], (x, y))
            y += row[column].height + GAP
    with atomic_write(path) as file:
        sheet.save(file, "PNG")


def zoom_on(region: Box, width: int, height: int) -> Box:
    """What is shown large of an image of this size: `region` in the middle, in the same shape."""
    x1, y1, x2, y2 = region
    shape = width / height
    side = max(AROUND * (x2 - x1), AROUND * (y2 - y1) * shape, LEAST)
    w = min(side, width, height * shape)
    h = w / shape
    left = min(max((x1 + x2 - w) / 2, 0), width - w)
    top = min(max((y1 + y2 - h) / 2, 0), height - h)
    return left, top, left + w, top + h


def around(boxes: Sequence[Box]) -> Box:
    """The smallest box that holds all `boxes`."""
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _view(image: Pixels, panel: Panel, view: Box) -> Image.Image:
    """What lies in `view` of an image, `WIDTH` pixels wide, with the panel's boxes and marks."""
    scale = WIDTH / (view[2] - view[0])
    size = (WIDTH, max(1, round((view[3] - view[1]) * scale)))
    shown = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box=view)
    corner = np.array([*view[:2], *view[:2]])
    boxes = (panel.boxes - corner) * scale
    inside = (boxes[:, 2:] > 0).all(axis=1) & (boxes[:, :2] < np.array(size)).all(axis=1)
    rows = np.flatnonzero(inside)
    texts = [panel.texts[row] for row in rows.tolist()]
    picture = draw_boxes(np.asarray(shown), boxes[rows], panel.labels[rows], texts)
    draw = ImageDraw.Draw(picture)
    for mark in panel.marks:
        x1, y1, x2, y2 = ((np.array(mark.box) - corner) * scale).tolist()
        _draw_mark(draw, (x1 - 3, y1 - 3, x2 + 2, y2 + 2), mark)
        if mark.text:
            _write_below(draw, (x1 - 3, y2 + 2), mark, size)
    return picture


def _write_below(
    draw: ImageDraw.ImageDraw, corner: tuple[float, float], mark: Mark, size: tuple[int, int]
) -> None:
    """The mark's text below its box, or where the picture of `size` (w, h) still has room."""
    font = font_of(LETTERS - 2)
    left, top, right, bottom = font.getbbox(mark.text, anchor="la")
    x = min(max(corner[0], 0), max(size[0] - right - 4, 0))
    y = min(max(corner[1], 0), size[1] - bottom - 4)
    draw.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=mark.colour)
    draw.text((x + 2 - left, y + 2 - top), mark.text, fill=PAPER, font=font, anchor="la")


def _draw_mark(draw: ImageDraw.ImageDraw, box: Box, mark: Mark) -> None:
    if not mark.dashed:
        draw.rectangle(box, outline=mark.colour, width=3)
        return
    x1, y1, x2, y2 = box
    sides = ((x1, y1, x2, y1), (x1, y2, x2, y2), (x1, y1, x1, y2), (x2, y1, x2, y2))
    for ax, ay, bx, by in sides:
        length = max(abs(bx - ax), abs(by - ay), 1.0)
        for start in np.arange(0, length, 2 * DASH).tolist():
            a, b = start / length, min(start + DASH, length) / length
            ends = (ax + a * (bx - ax), ay + a * (by - ay), ax + b * (bx - ax), ay + b * (by - ay))
            draw.line(ends, fill=mark.colour, width=3)

"""Detections drawn into their image, to be read at a glance by everybody.

Colours can be told apart by colour-blind people, and never stand alone: every box has its label.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dhcli.atomic import atomic_write
from dhcli.data.io.image import Pixels
from dhcli.ops.arrays import intersections

if TYPE_CHECKING:
    from dhcli.inference.writers import Prediction

Box = tuple[float, float, float, float]

PALETTE = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)
"""Okabe and Ito's colours, without black."""
MANY = 40
"""Boxes in a picture from which they are drawn half as thick."""
CROWD = 150
PANEL = 1000
"""Longest side of a picture beside others, in pixels."""
HATCH = (190, 190, 190)
_MOST_LETTERS = 2000
"""Letters of a name that are looked at: no picture has room for more."""


@dataclass(frozen=True)
class Style:
    """Sizes in pixels that suit an image: width of a line, height of letters."""

    line: int
    letters: int

    @classmethod
    def of(cls, width: int, height: int, boxes: int = 0) -> Style:
        """A line of 3 ‰ of the image's mean side, letters of 2 %, and never too small to read.

        Half as much where there are `MANY` boxes, so that these do not hide what they are around.
        """
        side = (width * height) ** 0.5 / (1 + min(boxes / MANY, 2))
        least = 1 if boxes >= MANY else 2
        return cls(line=max(least, round(side * 0.003)), letters=max(10, round(side * 0.02)))


def draw_detections(
    image: Pixels,
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    classes: Sequence[str],
) -> Image.Image:
    """A picture of `image` (H, W, 3) with its detections (D of each), the best on top.

    boxes  (D, 4) xyxy pixels;  labels  (D,) in 0…K-1;  scores  (D,)
    """
    order = np.argsort(-scores, kind="stable")
    texts = [f"{classes[labels[row]]} {scores[row]:.2f}" for row in order]
    return draw_boxes(image, boxes[order], labels[order], texts)


def draw_boxes(
    image: Pixels,
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    texts: Sequence[str],
    regions: Sequence[Sequence[float]] = (),
) -> Image.Image:
    """A picture of `image` (H, W, 3) with boxes (D, 4) xyxy and a text each, the first on top.

    Of more than `CROWD` boxes the first of each class alone has its text.

    `regions` (R, 4) to ignore are hatched in grey below them, without a word.
    """
    picture = Image.fromarray(image)
    style = Style.of(*picture.size, len(boxes))
    draw = ImageDraw.Draw(picture)
    for region in regions:
        _hatch(draw, _within(region, picture.size), style)
    within = [_within(box, picture.size) for box in boxes.tolist()]
    for row in reversed(range(len(within))):
        _draw_box(draw, within[row], colour_of(int(labels[row])), style)
    taken: list[Box] = []
    named: dict[int, int] = {}
    for row, text in enumerate(texts):
        if len(boxes) > CROWD and named.setdefault(int(labels[row]), row) != row:
            continue  # labels would hide all else: the first of each class tells its colour
        taken.append(_draw_label(draw, within[row], text, int(labels[row]), style, taken))
    return picture


def write_drawing(image: Prediction, classes: Sequence[str], path: Path) -> None:
    """Draw what was found in `image` to `path`, a JPEG or PNG by its name.

    Raises DhError where it cannot be written.
    """
    _save(draw_detections(image.pixels, image.boxes, image.labels, image.scores, classes), path)


def write_panels(
    panels: Sequence[tuple[str, Prediction]], classes: Sequence[str], path: Path
) -> None:
    """Draw what several models found in an image beside each other, each below its title.

    One row of up to three (one column, of an image wider than twice its height), else a square
    of rows. An image longer than `PANEL` is made smaller before, so that boxes and words are to be
    read. Writes a JPEG or PNG by the name of `path`. Raises DhError where it cannot be written.
    """
    pictures = [(title, _panel(found, classes)) for title, found in panels]
    width, height = pictures[0][1].size
    few = 1 if width > 2 * height else len(panels)
    columns = few if len(panels) <= 3 else math.ceil(math.sqrt(len(panels)))
    style = Style.of(width, height)
    font, gap = font_of(max(14, style.letters)), style.letters
    across, down = width + gap, height + 3 * gap
    page = Image.new(
        "RGB", (columns * across + gap, -(-len(panels) // columns) * down + gap), "white"
    )
    draw = ImageDraw.Draw(page)
    for number, (title, picture) in enumerate(pictures):
        row, column = divmod(number, columns)
        corner = gap + column * across, gap + row * down
        text = _shorten(title, font, width)
        draw.text((corner[0], corner[1] + gap), text, fill="black", font=font, anchor="lm")
        page.paste(picture, (corner[0], corner[1] + 2 * gap))
    _save(page, path)


def _panel(found: Prediction, classes: Sequence[str]) -> Image.Image:
    """The picture of one model, at most `PANEL` pixels long."""
    scale = min(1.0, PANEL / max(found.size))
    image = Image.fromarray(found.pixels)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    boxes = found.boxes * np.array([image.width / found.size[0], image.height / found.size[1]] * 2)
    return draw_detections(np.asarray(image), boxes, found.labels, found.scores, classes)


def _save(picture: Image.Image, path: Path) -> None:
    kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    with atomic_write(path) as file:
        picture.save(file, kind, quality=92)


def colour_of(label: int) -> tuple[int, int, int]:
    """The colour of a class, always the same; every round of the palette is a shade darker."""
    shade = 0.72 ** (label // len(PALETTE) % 3)
    red, green, blue = PALETTE[label % len(PALETTE)]
    return round(red * shade), round(green * shade), round(blue * shade)


def _draw_box(
    draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], style: Style
) -> None:
    """A coloured line with a dark rim, which shows on any ground."""
    rim = max(1, style.line // 3)
    x1, y1, x2, y2 = box
    outer = (x1 - rim, y1 - rim, x2 + rim, y2 + rim)
    if style.line > 1:
        draw.rectangle(outer, outline="black", width=style.line + 2 * rim)
    draw.rectangle(box, outline=colour, width=style.line)


def _hatch(draw: ImageDraw.ImageDraw, box: Box, style: Style) -> None:
    """Thin slanting lines across a box, and around it."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    draw.rectangle(box, outline=HATCH, width=style.line)
    for reach in range(style.letters // 2, int(width + height), style.letters // 2):
        top = (x1 + min(reach, width), y1 + max(0, reach - width))
        left = (x1 + max(0, reach - height), y1 + min(reach, height))
        draw.line((top, left), fill=HATCH)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Box,
    text: str,
    label: int,
    style: Style,
    taken: Sequence[Box],
) -> Box:
    """Write `text` by the box, on a ground of its class's colour; the place it takes."""
    font = font_of(style.letters)
    pad = max(1, style.letters // 6)
    text = _shorten(text, font, draw.im.size[0] - 2 * pad)
    left, top, right, bottom = font.getbbox(text, anchor="la")
    size = (right - left + 2 * pad, bottom - top + 2 * pad)
    place = place_label(box, size, draw.im.size, taken)
    colour = colour_of(label)
    draw.rectangle(place, fill=colour)
    ink = "black" if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else "white"
    draw.text((place[0] + pad - left, place[1] + pad - top), text, fill=ink, font=font, anchor="la")
    return place


def place_label(
    box: Box, size: tuple[float, float], image: tuple[int, int], taken: Sequence[Box]
) -> Box:
    """Where a label of `size` (w, h) goes: inside the image, and least over the labels `taken`.

    Tried in turn: above the box, below it, within its corners, beside it, and a line further off.
    """
    (x1, y1, x2, y2), (w, h) = box, size
    corners = [
        (x1, y1 - h),
        (x1, y2),
        (x1, y1),
        (x2 - w, y1),
        (x1, y2 - h),
        (x2 - w, y2 - h),
        (x2, y1),
        (x1 - w, y1),
        (x1, y1 - 2 * h),
        (x1, y2 + h),
    ]
    room = (image[0] - 1 - w, image[1] - 1 - h)
    low = np.clip(np.array(corners), 0, np.maximum(room, 0))  # (P, 2)
    places = np.hstack([low, low + size])
    covered = intersections(places, np.array(taken, np.float64).reshape(-1, 4)).sum(axis=1)  # (P,)
    left, top, right, bottom = places[covered.argmin()].tolist()
    return left, top, right, bottom


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or as much of its beginning as fits, with an ellipsis."""
    beginning = text[:_MOST_LETTERS]
    if text == beginning and font.getlength(text) <= width:
        return text
    lengths = range(1, len(beginning) + 1)
    fitting = bisect_right(lengths, width, key=lambda n: font.getlength(f"{beginning[:n]}…"))
    return f"{beginning[: max(fitting, 1)]}…"


@lru_cache(maxsize=64)
def font_of(height: int) -> ImageFont.FreeTypeFont:
    """Letters of so many pixels."""
    font = ImageFont.load_default(height)
    assert isinstance(font, ImageFont.FreeTypeFont)  # Pillow's wheels bring FreeType
    return font


def _within(box: Sequence[float], image: tuple[int, int]) -> Box:
    """The first and last pixels of a box (exclusive maximum), of what lies in the image."""
    (x1, y1, x2, y2), (width, height) = box, image
    x1, y1 = min(max(x1, 0.0), width - 1.0), min(max(y1, 0.0), height - 1.0)
    return x1, y1, max(x1, min(x2, width) - 1), max(y1, min(y2, height) - 1)

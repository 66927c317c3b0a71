"""A small synthetic dataset: drawn shapes to find among clutter, for the demo and the tests.

Colour, size, angle and place say nothing of the class. Shapes overlap and leave the image;
half shapes, bars, ovals and arcs look like them and are none.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dhcli.atomic import folder_beside, require_free
from dhcli.data.formats import write_dataset
from dhcli.data.table import DetectionTable, Flag, make_table

CLASSES = ("circle", "square", "triangle", "star", "ring")
DISTRACTORS = ("half", "bar", "oval", "arc")
TRAIN_SHARE = 0.8

OBJECTS = (3, 8)
"""Objects an image, at least and at most."""
RADII = (0.07, 0.25)
"""Radius of an object as a share of the image's shorter side; small ones are more frequent."""
CLUTTER = (2, 5)
"""Distractors an image; and as many lines and blobs again."""
CLOSEST = 0.4
"""Distance of two centres as a share of the sum of the radii, at least."""
DIFFICULT_BELOW = 0.5
"""Share of an object that is to be seen, below which it is marked difficult."""
SCALE = 2
"""Pixels drawn for one pixel of the image, a side: what makes edges smooth."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Shape:
    """Something drawn: its kind, and in drawn pixels its centre and radius; angle in radians."""

    kind: str
    x: float
    y: float
    radius: float
    angle: float

    @property
    def frame(self) -> tuple[float, float, float, float]:
        """The square around it, xyxy."""
        x, y, r = self.x, self.y, self.radius
        return x - r, y - r, x + r, y + r


@dataclass(frozen=True)
class Drawn:
    """An image and its boxes: (M, 4) int64 xyxy, labels and flags (M,) int64."""

    image: Image.Image
    boxes: NDArray[np.int64]
    labels: NDArray[np.int64]
    flags: NDArray[np.int64]


def draw_shapes(out: Path, *, images: int, seed: int, size: tuple[int, int] = (320, 240)) -> Path:
    """Draw `images` images of `size` (width, height) and write them to `out` as Pascal VOC.

    The first four fifths are the split `train`, the rest `val`. The same for the same seed.
    Raises DhError if `out` is there already or cannot be written.
    """
    require_free(out)
    with folder_beside(out) as folder:
        table = shapes_table(folder, images=images, seed=seed, size=size)
        write_dataset(table, out, "voc", images="move")
    return out


def shapes_table(
    folder: Path, *, images: int, seed: int, size: tuple[int, int] = (320, 240)
) -> DetectionTable:
    """The dataset of `draw_shapes` with its images as JPEG files in `folder` and no annotations."""
    drawn, files = [], [f"{number:06d}.jpg" for number in range(1, images + 1)]
    for number, file in enumerate(files):
        one = draw_image(np.random.default_rng((seed, number)), size)
        one.image.save(folder / file, quality=92)
        drawn.append(one)
    cut = round(images * TRAIN_SHARE)
    none = np.zeros((0, 4))
    return make_table(
        folder,
        files,
        [size] * images,
        [len(one.boxes) for one in drawn],
        np.concatenate([none, *(one.boxes for one in drawn)]),
        np.concatenate([none[:, 0], *(one.labels for one in drawn)]),
        CLASSES,
        flags=np.concatenate([none[:, 0], *(one.flags for one in drawn)]).astype(np.uint8),
        splits={"train": np.arange(cut), "val": np.arange(cut, images)},
    )


def draw_image(rng: np.random.Generator, size: tuple[int, int]) -> Drawn:
    """One image of `size` (width, height), with what is to be found in it."""
    width, height = size[0] * SCALE, size[1] * SCALE
    canvas = _background(rng, width, height)
    _draw_clutter(rng, canvas)
    shapes = _place(rng, width, height)
    owner = Image.new("L", canvas.size)  # number of the shape seen at each pixel, 0 for none
    painted = [_draw_object(rng, canvas, owner, shape, n) for n, shape in enumerate(shapes, 1)]
    for _ in range(rng.integers(3)):
        _draw_line(rng, canvas, width=SCALE)
    boxes, labels, flags = _annotate(shapes, painted, np.asarray(owner))
    return Drawn(_photograph(rng, canvas), boxes, labels, flags)


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Soft patches of colour with a grain."""
    coarse = (width // 4, height // 4)
    texture = _noise(rng, (4, 3), 50, coarse) + _noise(rng, (48, 36), 14, coarse)
    pixels = np.clip(rng.uniform(60, 195, 3) + texture, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def _noise(
    rng: np.random.Generator, cells: tuple[int, int], spread: int, size: tuple[int, int]
) -> NDArray[np.float32]:
    """(H, W, 3) of random colours in ±spread on a grid of `cells`, smoothed to `size`."""
    grid = rng.integers(128 - spread, 128 + spread, (cells[1], cells[0], 3), np.uint8)
    return np.asarray(Image.fromarray(grid).resize(size), np.float32) - 128


def _draw_clutter(rng: np.random.Generator, canvas: Image.Image) -> None:
    for _ in range(rng.integers(CLUTTER[0], CLUTTER[1] + 1)):
        _draw_line(rng, canvas, width=int(rng.integers(1, 4)) * SCALE)
        _draw_blob(rng, canvas)
        shape = _random_shape(rng, canvas.size, str(rng.choice(DISTRACTORS)))
        _paint(ImageDraw.Draw(canvas), shape, _contrasting(rng, canvas, shape))


def _draw_line(rng: np.random.Generator, canvas: Image.Image, width: int) -> None:
    points = rng.uniform(0, 1, (2, 2)) * canvas.size
    ImageDraw.Draw(canvas).line(_flat(points), fill=_colour(rng), width=width)


def _draw_blob(rng: np.random.Generator, canvas: Image.Image) -> None:
    """A crooked polygon, little different from what it lies on."""
    centre = rng.uniform(0, 1, 2) * canvas.size
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(0.03, 0.16, 9) * canvas.size[1]
    points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ground = np.array(canvas.getpixel((int(centre[0]), int(centre[1]))))
    red, green, blue = np.clip(ground + rng.integers(-45, 46, 3), 0, 255).tolist()
    ImageDraw.Draw(canvas).polygon(_flat(points), fill=(red, green, blue))


def _place(rng: np.random.Generator, width: int, height: int) -> list[Shape]:
    """Shapes of every class and size, from back to front, none right on top of another."""
    placed: list[Shape] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        for _attempt in range(20):
            shape = _random_shape(rng, (width, height), str(rng.choice(CLASSES)))
            if all(_apart(shape, other) for other in placed):
                placed.append(shape)
                break
    return placed


def _random_shape(rng: np.random.Generator, size: tuple[int, int], kind: str) -> Shape:
    radius = float(np.exp(rng.uniform(*np.log(RADII)))) * min(size)
    x, y = (float(rng.uniform(0.6 * radius, side - 0.6 * radius)) for side in size)
    return Shape(kind, x, y, radius, float(rng.uniform(0, 2 * np.pi)))


def _apart(one: Shape, other: Shape) -> bool:
    distance = float(np.hypot(one.x - other.x, one.y - other.y))
    return distance > CLOSEST * (one.radius + other.radius)


def _draw_object(
    rng: np.random.Generator, canvas: Image.Image, owner: Image.Image, shape: Shape, number: int
) -> int:
    """Draw an object on the canvas and its number on `owner`; how many pixels it has in full."""
    fill = _contrasting(rng, canvas, shape)
    edge = _colour(rng) if rng.random() < 0.3 else None
    _paint(ImageDraw.Draw(canvas), shape, fill, edge)
    _paint(ImageDraw.Draw(owner), shape, number)
    side = int(2 * shape.radius) + 2
    whole = Image.new("1", (side, side))
    middle = Shape(shape.kind, side / 2, side / 2, shape.radius, shape.angle)
    _paint(ImageDraw.Draw(whole), middle, 1)
    return int(np.asarray(whole).sum())


def _paint(
    draw: ImageDraw.ImageDraw, shape: Shape, fill: Colour | int, edge: Colour | None = None
) -> None:
    degrees = np.degrees(shape.angle)
    stroke = max(1, int(0.36 * shape.radius))
    rim = max(1, int(0.12 * shape.radius)) if edge else 0
    match shape.kind:
        case "circle":
            draw.ellipse(shape.frame, fill=fill, outline=edge, width=rim)
        case "ring":
            draw.ellipse(shape.frame, outline=fill, width=stroke)
        case "half":
            draw.chord(shape.frame, degrees, degrees + 180, fill=fill)
        case "arc":
            draw.arc(shape.frame, degrees, degrees + 150, fill=fill, width=stroke)
        case _:
            draw.polygon(_corners(shape), fill=fill, outline=edge, width=rim or 1)


def _corners(shape: Shape) -> list[float]:
    """The corners of a shape with corners; an oval has many."""
    count = {"square": 4, "triangle": 3, "star": 10, "bar": 4, "oval": 32}[shape.kind]
    angles = 2 * np.pi * np.arange(count) / count + (np.pi / 4 if count == 4 else 0)
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if shape.kind == "star":
        points[1::2] *= 0.42
    if shape.kind in ("bar", "oval"):
        points[:, 1] *= 0.36
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    turned = points @ np.array([[cos, sin], [-sin, cos]])
    return _flat(turned * shape.radius + (shape.x, shape.y))


def _annotate(
    shapes: list[Shape], painted: list[int], owner: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Boxes around what is to be seen of each shape, in pixels of the image; labels; flags."""
    height, width = owner.shape
    boxes, labels, flags = [], [], []
    for number, (shape, whole) in enumerate(zip(shapes, painted, strict=True), 1):
        seen = owner == number
        if not seen.any():
            continue
        columns, rows = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        first = np.array([columns[0], rows[0]]) // SCALE
        last = -(-np.array([columns[-1] + 1, rows[-1] + 1]) // SCALE)
        boxes.append([*first, *last])
        labels.append(CLASSES.index(shape.kind))
        x1, y1, x2, y2 = shape.frame
        truncated = min(x1, y1) < 0 or x2 > width or y2 > height
        difficult = seen.sum() < DIFFICULT_BELOW * whole
        flags.append(truncated * Flag.TRUNCATED.value | difficult * Flag.DIFFICULT.value)
    return (
        np.array(boxes, np.int64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(flags, np.int64),
    )


def _photograph(rng: np.random.Generator, canvas: Image.Image) -> Image.Image:
    """The canvas at its final size, under some light and with a sensor's noise."""
    pixels = np.asarray(canvas.reduce(SCALE), np.float32)
    light = rng.uniform(0.75, 1.15)
    noise = rng.standard_normal(pixels.shape, np.float32) * rng.uniform(2, 10)
    return Image.fromarray(np.clip(pixels * light + noise, 0, 255).astype(np.uint8))


def _contrasting(rng: np.random.Generator, canvas: Image.Image, shape: Shape) -> Colour:
    """A colour that stands out from what lies under the shape, the best of a few if none does."""
    under = canvas.resize((3, 3), Image.Resampling.BOX, box=_inside(shape.frame, canvas.size))
    grounds = np.asarray(under, np.int64).reshape(-1, 3)
    colours = [_colour(rng) for _ in range(8)]
    contrast = [np.abs(grounds - colour).sum(axis=1).min() for colour in colours]
    clear = [colour for colour, how in zip(colours, contrast, strict=True) if how > 110]
    return clear[0] if clear else colours[int(np.argmax(contrast))]


def _colour(rng: np.random.Generator) -> Colour:
    hue, saturation, value = rng.uniform((0, 0.1, 0.15), (1, 1, 1))
    red, green, blue = (int(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def _inside(
    frame: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = frame
    return max(x1, 0), max(y1, 0), min(x2, size[0]), min(y2, size[1])


def _flat(points: NDArray[np.float64]) -> list[float]:
    flat: list[float] = points.ravel().tolist()
    return flat

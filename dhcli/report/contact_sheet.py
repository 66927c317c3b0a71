"""Many pictures on one page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw

from dhcli.atomic import atomic_write
from dhcli.report.draw import font_of

GAP = 8
"""Pixels between pictures."""
LETTERS = 14


def write_contact_sheet(
    pictures: Iterable[Path | Image.Image],
    path: Path,
    *,
    columns: int = 3,
    width: int = 360,
    legend: str = "",
) -> None:
    """Put `pictures`, files or images, on one page, row after row.

    Each is `width` pixels wide, see `tile_size`; `legend` is a line below them. Writes a PNG to
    `path`. Raises DhError where it cannot be written.
    """
    tiles = [_tile(picture, width) for picture in pictures]
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    foot = rows * (height + GAP) + GAP
    size = (columns * (width + GAP) + GAP, foot + (LETTERS + 2 * GAP) * bool(legend))
    page = Image.new("RGB", size, "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        page.paste(tile, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    ImageDraw.Draw(page).text((GAP, foot), legend, fill="black", font=font_of(LETTERS))
    with atomic_write(path) as file:
        page.save(file, format="PNG")


def _tile(picture: Path | Image.Image, width: int) -> Image.Image:
    if isinstance(picture, Path):
        with Image.open(picture) as image:
            return _tile(image, width)
    return picture.convert("RGB").resize(tile_size(picture, width), Image.Resampling.LANCZOS)


def tile_size(picture: Image.Image, width: int) -> tuple[int, int]:
    """Sides of a picture on a page: `width`, or narrower where it would be over twice as tall."""
    scale = min(width / picture.width, 2 * width / picture.height)
    return max(1, round(picture.width * scale)), max(1, round(picture.height * scale))

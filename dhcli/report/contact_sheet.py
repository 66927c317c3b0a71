"""Many pictures on one page."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from dhcli.atomic import atomic_write

GAP = 8
"""Pixels between pictures."""


def write_contact_sheet(
    pictures: Iterable[Path | Image.Image], path: Path, *, columns: int = 3, width: int = 360
) -> None:
    """Put `pictures`, files or images, on one page, row after row, each `width` pixels wide.

    Writes a PNG to `path`. Raises DhError where it cannot be written.
    """
    tiles = [_tile(picture, width) for picture in pictures]
    height = max(tile.height for tile in tiles)
    rows = -(-len(tiles) // columns)
    size = (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP)
    page = Image.new("RGB", size, "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        page.paste(tile, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    with atomic_write(path) as file:
        page.save(file, format="PNG")


def _tile(picture: Path | Image.Image, width: int) -> Image.Image:
    if isinstance(picture, Path):
        with Image.open(picture) as image:
            return _tile(image, width)
    height = max(1, round(picture.height * width / picture.width))
    return picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)

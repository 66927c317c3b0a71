"""Images that Pillow alone does not read: HEIC, TIFFs of many bands, 16-bit colour; and videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dhcli.data.io.stand_ins import stand_in
from dhcli.errors import DataError

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
"""How the names of videos end."""

_USUAL = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_REFUSED = (b"\0\0\1\0", b"icns", b"%!PS", b"\xc5\xd0\xd3\xc6")
"""Icons, which hold images of other sizes than they say, and PostScript, which is a program."""
_MOST_VALUES = 1 << 32
"""Values of a TIFF that are read: one of 134 bytes may speak of any number."""
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEAD = 64
_BITS, _PLANES = 258, 284
"""TIFF's tags of the bits of each band, and of how bands lie."""
_EXTRA = "`pip install 'dhcli[images]'`"


class Bands(Image.Image):
    """What stands for a TIFF that Pillow cannot hold: its size, and its `values` when asked for."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self.format = path, "TIFF"
        with _first_page(path) as page:
            self._size = (page.imagewidth, page.imagelength)

    def values(self) -> NDArray[Any]:
        """The pixels of the first page, (H, W) or (H, W, C)."""
        with _first_page(self._path) as page:
            if page.size > _MOST_VALUES:
                raise OSError(f"it has {page.size:,} values, more than {_MOST_VALUES:,}")
            values, axes = page.asarray(), page.axes
        if axes == "SYX":
            values = np.moveaxis(values, 0, -1)
        elif axes not in ("YX", "YXS"):
            raise OSError(f"its axes {axes} are not those of an image")
        return np.asarray(values)


@contextmanager
def _first_page(path: Path) -> Iterator[Any]:
    try:
        import tifffile
    except ImportError:
        what = "is a TIFF of many bands or floating-point pixels, which needs tifffile"
        hint = f"{_EXTRA}, or save it as 8-bit RGB"
        raise DataError(what, where=path, hint=hint) from None
    with tifffile.TiffFile(path) as file:
        yield file.pages[0]


def open_any(path: Path) -> Image.Image:
    """The image at `path`, opened.

    Raises DataError for what needs a package that is not there, for videos, icons and programs, and
    for what came in place of an image.
    """
    try:
        image = Image.open(path, formats=_USUAL)
    except UnidentifiedImageError:
        return _open_rare(path)
    return Bands(path) if _is_deep_planes(image) else image


def _open_rare(path: Path) -> Image.Image:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(_REFUSED):
        what = "is an icon or PostScript, not a picture"
        raise DataError(what, where=path, hint="save it as PNG")
    try:
        return Image.open(path)
    except UnidentifiedImageError:
        if head.startswith(_TIFF):
            return Bands(path)
        if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
            return _open_heic(path)
        if head[4:8] == b"ftyp" or path.suffix.lower() in VIDEOS:
            raise DataError("is a video", where=path, hint=frames_hint(path)) from None
        if instead := stand_in(head):
            raise DataError(instead, where=path) from None
        raise


def _is_deep_planes(image: Image.Image) -> bool:
    """Whether a TIFF has a plane per band and more than 8 bits: Pillow opens it, and fails then."""
    if image.format != "TIFF":
        return False
    tags = image.tag_v2  # type: ignore[attr-defined]
    return bool(tags.get(_PLANES, 1) == 2 and max(tags.get(_BITS, (8,))) > 8)


def frames_hint(video: Path) -> str:
    """What makes images of a video."""
    return f"extract its frames: `ffmpeg -i {video.name} frames/%06d.jpg`"


def deep_colour(path: Path) -> NDArray[np.uint16]:
    """The (H, W, 3) RGB values of a PNG or TIFF with 16 bits per channel. Raises OSError."""
    import cv2  # Pillow has the high bytes alone

    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise OSError("its 16-bit colour cannot be decoded")
    return np.ascontiguousarray(values[..., 2::-1])


def _open_heic(path: Path) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        hint = f"{_EXTRA}, or save it as JPEG"
        raise DataError("is a HEIC image, which needs pillow-heif", where=path, hint=hint) from None
    pillow_heif.register_heif_opener()
    return Image.open(path)

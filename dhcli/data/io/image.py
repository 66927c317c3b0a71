"""Reading images: whatever the file holds becomes upright 8-bit RGB, or one clear error."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from dhcli.errors import DataError

Pixels = NDArray[np.uint8]
Values = NDArray[np.uint8 | np.float32]
"""Pixels that resizing may have left between two whole numbers."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what makes the image upright."""

SIDEWAYS = (5, 6, 7, 8)
"""The orientations that exchange width and height."""
HEAD = 4096
"""Bytes at the start of a file that nearly always tell the size of its image."""
_FRAMES = (0xC0, 0xC1, 0xC2)
_SKIPPED = (0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE)
"""JPEG's markers of a frame, and those before it that say nothing of how the image lies."""
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 0
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def read_image(path: Path, *, upright: bool = True) -> Pixels:
    """The image as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation, or as it lies.

    16-bit grey keeps its high byte, transparency lies on white, and of several frames the first is
    read. Raises DataError naming `path` if it cannot be read to its end.
    """
    with _open(path) as image:
        orientation = _orientation(image) if upright else 1
        image.load()
        rgb = _to_rgb(image, path)
        if orientation in _UPRIGHT:
            rgb = rgb.transpose(_UPRIGHT[orientation])
        return np.array(rgb)


def read_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Width and height of what `read_image` would return, from the file's header alone.

    Raises DataError naming `path` if the header cannot be read.
    """
    with _open(path) as image:
        width, height = image.size
        sideways = upright and _orientation(image) in SIDEWAYS
        return (height, width) if sideways else (width, height)


def read_orientation(path: Path) -> int:
    """The EXIF orientation that `read_image` applies, 1…8; 1 where there is none.

    Raises DataError naming `path` if the header cannot be read.
    """
    with _open(path) as image:
        return _orientation(image)


def jpeg_size(head: bytes) -> tuple[int, int] | None:
    """What `read_size` would return, from the first bytes of a JPEG file; None if they do not tell.

    A tenth of Pillow's time. None for other kinds, for images with Exif or XMP, which may turn
    them, and for what Pillow would refuse.
    """
    if not head.startswith(b"\xff\xd8\xff"):
        return None
    place = 2
    while place + 9 <= len(head) and head[place] == 0xFF:
        kind = head[place + 1]
        if kind in _FRAMES:
            height, width = struct.unpack_from(">HH", head, place + 5)
            return (width, height) if 0 < width * height <= _MOST_PIXELS else None
        if kind not in _SKIPPED:
            return None
        place += 2 + int.from_bytes(head[place + 2 : place + 4], "big")
    return None


class _Quiet:
    """Pillow's warnings are hidden while any thread is in it: what can be read is worth no line.

    Python keeps one list of filters for all threads, so that the first to come sets it and the last
    to go puts it back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_QUIET = _Quiet()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    if path.exists() and not path.is_file():  # a pipe would wait for a writer
        raise DataError("is not a file", where=path)
    try:
        with _QUIET, Image.open(path) as image:
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        what = "is not an image of a known kind" if path.stat().st_size else "is an empty file"
        raise DataError(what, where=path) from error
    except MemoryError as error:
        raise DataError("does not fit into memory", where=path) from error
    except FileNotFoundError as error:
        raise DataError("no such image", where=path) from error
    except Image.DecompressionBombError as error:
        raise DataError(
            f"is too large an image: more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels",
            where=path,
            hint="cut it into tiles",
        ) from error
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read: {reason}", where=path) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is left to apply, 1…8; only metadata before the pixels counts."""
    if image.format == "TIFF":  # Pillow turns these itself
        return 1
    try:
        # Not `image.getexif()`: PNG's own method decodes all pixels in search of late metadata.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # Damaged metadata raises almost anything, and says nothing of the pixels.
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image, path)
    if image.mode == "F":
        raise DataError(
            "holds floating-point pixels, whose range is not known",
            where=path,
            hint="save it with 8 or 16 bits",
        )
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image, path: Path) -> Image.Image:
    """Grey 0…65535 → its high byte, as decoders do with 16-bit colour."""
    grey = np.asarray(image)
    if grey.min() < 0 or grey.max() > 0xFFFF:
        raise DataError(
            "holds 32-bit pixels, whose range is not known",
            where=path,
            hint="save it with 8 or 16 bits",
        )
    return Image.fromarray((grey.astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")

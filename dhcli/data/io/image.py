"""Reading images: whatever the file holds becomes upright 8-bit RGB, or one clear error."""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Condition, Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from dhcli.data.io.depth import Depth, DepthError, to_rgb
from dhcli.data.io.image_kinds import Bands, deep_colour, open_any
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
_QUALITY = 95
_FRAMES = (0xC0, 0xC1, 0xC2)
_SKIPPED = (0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xF0), 0xFE)
"""JPEG's markers of a frame, and those before it that say nothing of how the image lies."""
_MOST_PIXELS, _HUGE = 178_956_970, 1 << 32
"""More pixels than these are not decoded; the second, where the whole image is asked for."""
_DEEP = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_LARGE, _IN_FLIGHT = 16_000_000, 120_000_000
"""Pixels from which an image waits for room, and of all that are decoded at once then."""


Say = Callable[[str, str], None]
"""Told a code of `findings.CODES` and, in words, what is odd about an image that was read."""


def read_image(
    path: Path,
    *,
    upright: bool = True,
    depth: Depth = "auto",
    huge: bool = False,
    say: Say = lambda code, what: None,
) -> Pixels:
    """The image as (H, W, 3) uint8 RGB, turned upright by its EXIF orientation, or as it lies.

    More than 8 bits become 8 by `depth`, see `to_rgb`. Transparency lies on white; a fourth band of
    a TIFF is not taken for it. Of several frames the first is read. A JPEG that lacks no more than
    its end mark is read. `huge` reads more pixels than the guard lets pass. Raises DataError naming
    `path` if it cannot be read to its end.
    """
    with _open(path) as image:
        require_readable(image.size, path, huge=huge)
        with _memory_for(image.size):
            orientation = _orientation(image) if upright else 1
            rgb = _decode(image, path, depth, say)
            if orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[orientation])
            return np.array(rgb)


def read_opened(
    image: Image.Image,
    name: str,
    *,
    upright: bool = True,
    depth: Depth = "auto",
    say: Say = lambda code, what: None,
) -> Pixels:
    """What `read_image` gives, of an image that Pillow has opened or made; `name` is for errors.

    Of 16-bit colour Pillow keeps the high byte alone. Raises DataError where its file is damaged.
    """
    require_readable(image.size, name)
    try:
        with _QUIET, _ONE_AT_A_TIME:
            image.load()
            orientation = _orientation(image) if upright else 1
    except Exception as error:  # as in `_open`
        raise DataError(f"cannot be read: {error}", where=name) from error
    if _has_rule(image):
        rgb = Image.fromarray(_eight_bits(np.asarray(image), name, depth, say))
    else:
        rgb = _to_rgb(image)
    return np.array(rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb)


def read_array(
    values: NDArray[Any],
    name: str,
    *,
    upright: bool = True,
    depth: Depth = "auto",
    say: Say = lambda code, what: None,
) -> Pixels:
    """What `read_image` gives, of an image that is an array already; `name` is for errors.

    (H, W) or (H, W, 1) is grey, (H, W, 3) RGB; uint8, or uint16 that becomes 8 bits by `depth`. It
    is taken to be `upright`. Raises DataError for any other array.
    """
    if values.ndim not in (2, 3) or not values.size or values.shape[2:] not in ((), (1,), (3,)):
        what = f"is an array of shape {values.shape}, not (height, width, 3)"
        hint = "give RGB or grey with the channels last; several images as a list"
        raise DataError(what, where=name, hint=hint)
    if values.dtype not in (np.uint8, np.uint16):
        hint = "give values 0…255: `(255 * array).round().astype('uint8')` if the array holds 0…1"
        raise DataError(f"is an array of {values.dtype}, not uint8", where=name, hint=hint)
    return _eight_bits(values, name, depth, say)


def save_image(pixels: Pixels, path: Path) -> None:
    """Write pixels (H, W, 3) to `path` by its suffix, JPEG at quality 95. Raises OSError."""
    buffer = io.BytesIO()
    kind = Image.registered_extensions()[path.suffix.lower()]
    Image.fromarray(pixels).save(buffer, kind, quality=_QUALITY, subsampling=0)
    # Python writes all or raises: Pillow takes a full disk's short write for a whole one.
    path.write_bytes(buffer.getbuffer())


def require_readable(size: tuple[int, int], where: object, *, huge: bool = False) -> None:
    """Raise DataError where an image of `size` (w, h) is too large to be read whole."""
    most = _HUGE if huge else _MOST_PIXELS
    if size[0] * size[1] > most:
        hint = None if huge else "cut it into tiles: `dh convert DATA NEW --to coco --tile 1024`"
        what = f"is too large an image: {size[0]:,}×{size[1]:,}, more than {most:,} pixels"
        raise DataError(what, where=where, hint=hint)


def read_size(path: Path, *, upright: bool = True) -> tuple[int, int]:
    """Width and height of what `read_image` would return, from the file's header alone.

    Raises DataError naming `path` if the header cannot be read.
    """
    return look_at(path, upright=upright)[0]


def look_at(path: Path, *, upright: bool = True) -> tuple[tuple[int, int], bool]:
    """What `read_size` tells, and whether the pixels become RGB by a rule, see `to_rgb`."""
    with _open(path) as image:
        width, height = image.size
        sideways = upright and _orientation(image) in SIDEWAYS
        return (height, width) if sideways else (width, height), _has_rule(image)


def read_orientation(path: Path) -> int:
    """The EXIF orientation by which `read_image` turns the image, 1…8; 1 if it has none.

    Raises DataError naming `path` if the header cannot be read.
    """
    with _open(path) as image:
        return _told_orientation(image)


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
    """While any thread is in it, Pillow's warnings are hidden and its guard is off.

    What can be read is worth no line, and `require_readable` is our guard: opening an image decodes
    nothing. Python keeps one list of filters for all threads, and Pillow one limit, so that the
    first to come sets them and the last to go puts them back.
    """

    def __init__(self) -> None:
        self._lock, self._inside = Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)
                Image.MAX_IMAGE_PIXELS = self._limit


_QUIET = _Quiet()
_ONE_AT_A_TIME = Lock()
"""Held while an image that Pillow opened is loaded: it may be given twice, to two threads."""


_room = Condition()
_decoding = 0


@contextmanager
def _memory_for(size: tuple[int, int]) -> Iterator[None]:
    """Wait until a large image of `size` can be decoded beside those of other threads."""
    global _decoding
    pixels = size[0] * size[1]
    if pixels < _LARGE:
        yield
        return
    with _room:
        _room.wait_for(lambda: not _decoding or _decoding + pixels <= _IN_FLIGHT)
        _decoding += pixels
    try:
        yield
    finally:
        with _room:
            _decoding -= pixels
            _room.notify_all()


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    if path.exists() and not path.is_file():  # a pipe would wait for a writer
        raise DataError("is not a file", where=path)
    try:
        with _QUIET, open_any(path) as image:
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
    except Exception as error:  # Pillow's decoders raise almost anything on damaged bytes
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot be read: {reason}", where=path) from error


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is left to apply, 1…8."""
    return 1 if image.format == "TIFF" else _told_orientation(image)  # Pillow turns TIFFs itself


def _told_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1…8; only metadata before the pixels counts."""
    try:
        # Not `image.getexif()`: PNG's own method decodes all pixels in search of late metadata.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # Damaged metadata raises almost anything, and says nothing of the pixels.
        return 1
    return value if value in _UPRIGHT else 1


def _has_rule(image: Image.Image) -> bool:
    """Whether its pixels become RGB by `to_rgb`: more than 8 bits, or bands beside the colours."""
    as_colour = image.format == "TIFF" and image.mode == "RGBA"
    return image.mode in _DEEP or isinstance(image, Bands) or as_colour or _is_deep_colour(image)


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether Pillow would keep the high byte alone of 16-bit colour without transparency."""
    tile: Any = getattr(image, "tile", None)
    if image.mode != "RGB" or not tile or ";16" not in str(tile[0][3]):
        return False
    return image.format != "TIFF" or image.getexif().get(ExifTags.Base.Orientation, 1) == 1


def _decode(image: Image.Image, path: Path, depth: Depth, say: Say) -> Image.Image:
    """The pixels as Pillow's RGB."""
    if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
        say("image-frames", f"has {frames} frames, of which the first is read")
    if _has_rule(image):
        return _by_rule(image, path, depth, say)
    try:
        image.load()
    except OSError:
        image = _without_end_mark(path)
        say("image-unended", "has all its pixels, but no end mark")
    return _to_rgb(image)


def _by_rule(image: Image.Image, path: Path, depth: Depth, say: Say) -> Image.Image:
    """The pixels as `to_rgb` has them."""
    if isinstance(image, Bands):
        values = image.values()
    else:
        values = deep_colour(path) if _is_deep_colour(image) else np.asarray(image)
    return Image.fromarray(_eight_bits(values, path, depth, say))


def _eight_bits(values: NDArray[Any], where: object, depth: Depth, say: Say) -> Pixels:
    """The pixels as `to_rgb` has them, a copy. Raises DataError where it has no rule for them."""
    try:
        rgb, said = to_rgb(values, depth)
    except DepthError as error:
        raise DataError(str(error), where=where, hint="`--set input.depth=percentile`") from error
    for what in said:
        say("image-bands" if "bands" in what else "image-depth", what)
    return rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


_MOST_HEAD = 1 << 16
_BASELINE = (b"\xff\xc0", b"\xff\xc1")
_END = b"\xff\xd9"


def _without_end_mark(path: Path) -> Image.Image:
    """A JPEG that ends before its end mark but after its last pixel. Raises OSError for others.

    Where pixels are missing, the decoder makes them of what follows: two kinds of bytes give two
    images. Later scans of a progressive JPEG could be missing without a trace.
    """
    data = path.read_bytes()
    if not data.startswith(b"\xff\xd8") or not any(mark in data[:_MOST_HEAD] for mark in _BASELINE):
        return _load(data)
    data = data.removesuffix(_END[:1])
    ended, filled = _load(data + _END), _load(data + b"\x55" * 64 + _END)
    if ended.tobytes() != filled.tobytes():
        return _load(data)
    return ended


def _load(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image

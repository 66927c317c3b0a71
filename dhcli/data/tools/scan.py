"""What every image file of a table says without being decoded."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhcli.data.io.files import map_looks, map_threads, read_ends
from dhcli.data.io.image import HEAD, jpeg_size, look_at, read_image, require_readable
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError

_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89PNG": b"IEND"}
"""How files of a kind begin, and what stands at their end."""


@dataclass(frozen=True)
class Scan:
    """What the files told.

    sizes   (I, 2) int32 width, height from the headers; as annotated where that failed
    stamps  (I,) int64, the same for files of the same content, rarely for others
    bad     image number → what is wrong with the file
    odd     image number → code and words of what is odd about it, though it can be read
    """

    sizes: NDArray[np.int32]
    stamps: NDArray[np.int64]
    bad: dict[int, str]
    odd: dict[int, list[tuple[str, str]]] = field(default_factory=dict)

    @property
    def is_bad(self) -> NDArray[np.bool_]:
        """(I,) bool: images that cannot be used."""
        mask = np.zeros(len(self.sizes), np.bool_)
        mask[list(self.bad)] = True
        return mask


def scan_images(table: DetectionTable, *, decode: bool) -> Scan:
    """Look at the header and the end of every image; with `decode`, at all of it.

    A file whose end mark is missing is decoded to find out.
    """

    def look(file: str) -> _Look | str:
        try:
            return _look(f"{table.root}/{file}", decode)
        except DataError as error:
            return error.what

    files = list(table.files)
    if decode:
        looks = map_threads(look, files, "decoding images")
    else:
        looks = map_looks(look, files, "looking at images")
    sizes = table.sizes.copy()
    stamps = np.zeros(len(table), np.int64)
    bad: dict[int, str] = {}
    odd: dict[int, list[tuple[str, str]]] = {}
    for image, seen in enumerate(looks):
        if isinstance(seen, str):
            bad[image] = seen
        else:
            *sizes[image], stamps[image], said = seen
            if said:
                odd[image] = said
    return Scan(sizes, stamps, bad, odd)


_Look = tuple[int, int, int, list[tuple[str, str]]]


def _look(path: str, decode: bool) -> _Look:
    """Width, height and stamp of an image file, and what is odd about it.

    Raises DataError if it cannot be read.
    """
    head, tail, length = read_ends(path, HEAD)
    said: list[tuple[str, str]] = []
    size, has_rule = jpeg_size(head), False
    if size is None:
        size, has_rule = look_at(Path(path))
        require_readable(size, Path(path))
    end = next((end for begin, end in _ENDS.items() if head.startswith(begin)), b"")
    if decode or end not in tail:
        read_image(Path(path), say=lambda code, what: said.append((code, what)))
    elif has_rule:
        said.append(("image-depth", "has more than 8 bits per channel, or further bands"))
    return *size, length << 32 | zlib.crc32(tail), said

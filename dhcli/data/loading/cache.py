"""Images decoded once and kept for a whole training: in shared memory, or in a mapped file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.atomic import atomic_write
from dhcli.data.io.depth import Depth
from dhcli.data.io.files import map_threads
from dhcli.data.io.image import Pixels, read_image
from dhcli.data.io.memory import available_memory
from dhcli.data.loading.batching import known_sizes
from dhcli.data.loading.workers import free_shared_memory
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError


class ImageCache:
    """The decoded images of a table, one copy for all processes.

    bytes   every image's (H, W, 3) uint8 RGB, one after another: a (bytes,) uint8 tensor in shared
            memory, or the path of a file that each process maps
    shapes  (I, 2) int64 height, width

    Where the bytes are is all that a spawned worker is sent; a forked one has it already.
    """

    def __init__(self, bytes: Tensor | Path, shapes: NDArray[np.int64]) -> None:
        self._bytes, self._shapes = bytes, shapes
        self._stops = _stops(shapes)
        if isinstance(bytes, Path):
            self._flat = np.asarray(np.memmap(bytes, np.uint8, "r"))
        else:
            self._flat = bytes.numpy()

    def __getitem__(self, image: int) -> Pixels:
        """What `read_image` gives for image number `image`; read-only, as every epoch sees it."""
        height, width = self._shapes[image].tolist()
        stop = int(self._stops[image])
        pixels: Pixels = self._flat[stop - height * width * 3 : stop].reshape(height, width, 3)
        pixels.flags.writeable = False
        return pixels

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageCache, (self._bytes, self._shapes)


def decoded_size(table: DetectionTable, *, upright: bool) -> int:
    """Bytes of all images of `table` once decoded."""
    return int(known_sizes(table, upright=upright).prod(axis=1).sum()) * 3


def decode_to_memory(table: DetectionTable, *, upright: bool, depth: Depth = "auto") -> ImageCache:
    """Decode every image of `table` into shared memory, in threads.

    The memory is given back when the last process that uses it ends, however it ends.
    Raises DataError naming an image that cannot be read.
    """
    flat = torch.empty(decoded_size(table, upright=upright), dtype=torch.uint8)
    flat.share_memory_()  # type: ignore[no-untyped-call]
    place = flat.numpy()

    def keep(start: int, pixels: Pixels) -> None:
        place[start : start + pixels.size] = pixels.reshape(-1)

    return ImageCache(flat, _decode(table, keep, upright, depth))


def decode_to_file(
    table: DetectionTable, path: Path, *, upright: bool, depth: Depth = "auto"
) -> ImageCache:
    """Decode every image of `table` into the file `path`, in threads; the caller removes it.

    Raises DataError naming an image that cannot be read, DhError where `path` cannot be written.
    """
    with atomic_write(path) as file:
        one_at_a_time = Lock()

        def keep(start: int, pixels: Pixels) -> None:
            with one_at_a_time:
                file.seek(start)
                file.write(pixels.data)

        shapes = _decode(table, keep, upright, depth)
    return ImageCache(path, shapes)


def free_memory() -> int | None:
    """Bytes that processes could share now, without swapping; None if not known."""
    limits = [free_shared_memory(), available_memory()]
    return min((limit for limit in limits if limit is not None), default=None)


def _decode(
    table: DetectionTable, keep: Callable[[int, Pixels], None], upright: bool, depth: Depth
) -> NDArray[np.int64]:
    """Give every image to `keep`, with its place among the bytes; (I, 2) their heights, widths."""
    shapes = known_sizes(table, upright=upright)[:, ::-1].copy()
    stops = _stops(shapes)

    def decode(image: int) -> None:
        path = table.path(image)
        pixels = read_image(path, upright=upright, depth=depth)
        height, width = shapes[image]
        if pixels.size != height * width * 3:
            found = f"{pixels.shape[1]} × {pixels.shape[0]}"
            raise DataError(f"is {found} pixels, not {width} × {height} as annotated", where=path)
        keep(int(stops[image]) - pixels.size, pixels)
        shapes[image] = pixels.shape[:2]  # where it is not turned upright, the other way round

    map_threads(decode, range(len(table)), "decoding images")
    return shapes


def _stops(shapes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(I,) int64: where the bytes of each image end."""
    stops: NDArray[np.int64] = np.cumsum(shapes.prod(axis=1) * 3)
    return stops

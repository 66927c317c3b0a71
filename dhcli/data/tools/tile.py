"""Cutting large images into tiles, boxes along: for aerial images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.placing import NOT_FINITE, Holds, leads_out, not_followed
from dhcli.data.io.files import fold, map_threads
from dhcli.data.io.image import read_image, save_image
from dhcli.data.strings import Strings
from dhcli.data.table import DetectionTable, Flag
from dhcli.errors import DataError
from dhcli.words import counted

_LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
_MOST_TILES = 10_000_000
HOLDS = Holds("", columns=frozenset(("pose",)), classless=True)
"""What tiles keep of a box."""

Windows = NDArray[np.int64]


@dataclass(frozen=True)
class Tiling:
    """A table whose images are parts of other images.

    table    T tiles, called as their image and where they begin: `folder/name_820_0.png`,
             `folder/name.tif_820_0.png` where others are called so but for their suffix
    sources  (I,) POSIX paths, from the table's root, of the files that they are cut from
    source   (T,) which of those a tile is of
    windows  (T, 4) xyxy pixels of the tile in its source
    lost     lines on the boxes that are in no tile
    """

    table: DetectionTable
    sources: Sequence[str]
    source: Windows
    windows: Windows
    lost: tuple[str, ...]


def tile_table(table: DetectionTable, size: int, overlap: float, visible: float) -> Tiling:
    """Cut each image into tiles of `size` pixels a side that overlap by the fraction `overlap`.

    The last tile of a row ends at the image's edge; an image that is smaller is one tile. A box is
    in every tile that shows some of it: marked truncated where at least the fraction `visible` of
    its area is there, else a region to ignore. What else a format tells of a box, masks for one, is
    left out but for poses. Raises DataError where the size of an image is not known.
    """
    unknown = np.flatnonzero((table.sizes <= 0).any(axis=1))
    if len(unknown):
        raise DataError("its size is not known", where=table.path(int(unknown[0])))
    _require_few(table, size, overlap)
    grids = [_windows(width, height, size, overlap) for width, height in table.sizes.tolist()]
    source = np.repeat(np.arange(len(table)), [len(grid) for grid in grids])
    windows = np.concatenate([np.zeros((0, 4), np.int64), *grids])
    numbered = replace(table, box_ids=np.arange(len(table.boxes), dtype=np.int64))
    tiles = _cut_boxes(_repeat(numbered, source, windows), windows, visible)
    lost = _in_no_tile(table, tiles.box_ids)
    tiles = replace(tiles, box_ids=np.arange(1, len(tiles.boxes) + 1, dtype=np.int64))
    return Tiling(tiles, list(table.files), source, windows, lost)


def write_tiles(
    tiling: Tiling, folder: Path, *, follow: bool = False
) -> tuple[DetectionTable, tuple[str, ...]]:
    """Cut the images of the tiles into `folder`; the table of these, and what was not cut.

    JPEG stays JPEG; all else becomes PNG. Links that lead out of the dataset are cut with `follow`
    alone, but their tiles listed, as `Placing` has it. Raises DataError naming an image that cannot
    be read.
    """
    paths = [tiling.table.root / file for file in tiling.sources]
    is_outside = leads_out(tiling.table.root)
    outside = [] if follow else [n for n, path in enumerate(paths) if is_outside(path)]
    targets = [folder / str(file) for file in tiling.table.files]
    for parent in {target.parent for target in targets}:
        parent.mkdir(parents=True, exist_ok=True)
    ends = np.searchsorted(tiling.source, np.arange(len(tiling.sources) + 1))

    def cut(number: int) -> None:
        pixels = read_image(paths[number], huge=True)
        for tile in range(ends[number], ends[number + 1]):
            x1, y1, x2, y2 = tiling.windows[tile].tolist()
            save_image(pixels[y1:y2, x1:x2], targets[tile])

    inside = sorted(set(range(len(paths))).difference(outside))
    map_threads(cut, inside, "cutting images")
    lost = (not_followed([tiling.sources[number] for number in outside]),) if outside else ()
    return replace(tiling.table, root=folder), lost


def _require_few(table: DetectionTable, size: int, overlap: float) -> None:
    """Raise DataError for more tiles than any disk has files: a size is told wrongly, mostly."""
    step = max(1, round(size * (1 - overlap)))
    tiles = (np.maximum(table.sizes.astype(np.int64) - size, 0) // step + 1).prod(axis=1)
    if tiles.sum() > _MOST_TILES:
        largest = int(tiles.argmax())
        width, height = table.sizes[largest].tolist()
        what = f"of {width:,}×{height:,} pixels: that would be {int(tiles.sum()):,} tiles in all"
        raise DataError(what, where=table.path(largest), hint="is its size right? use larger tiles")


def _windows(width: int, height: int, size: int, overlap: float) -> Windows:
    """(n, 4) xyxy of the tiles of one image, row after row."""
    xs, ys = (_starts(side, size, overlap) for side in (width, height))
    low = np.array([(x, y) for y in ys for x in xs], np.int64)
    return np.hstack([low, np.minimum(low + size, (width, height))])


def _starts(side: int, size: int, overlap: float) -> list[int]:
    """Where the tiles along one side begin."""
    last = max(side - size, 0)
    return [*range(0, last, max(1, round(size * (1 - overlap)))), last]


def _repeat(table: DetectionTable, source: Windows, windows: Windows) -> DetectionTable:
    """The image of each tile with all its boxes, as if every tile were all of it."""
    files = list(table.files)
    stems = _own_stems(files)
    tiles = table.take_images(source)
    names = (
        f"{stems[image]}_{x}_{y}{_suffix(files[image])}"
        for image, (x, y) in zip(source.tolist(), windows[:, :2].tolist(), strict=True)
    )
    return replace(
        tiles,
        files=Strings.pack(names),
        image_ids=np.arange(1, len(source) + 1, dtype=np.int64),
        sizes=(windows[:, 2:] - windows[:, :2]).astype(np.int32),
        splits={name: np.flatnonzero(np.isin(source, rows)) for name, rows in table.splits.items()},
        extras={name: column for name, column in tiles.extras.items() if name in HOLDS.columns},
        image_extras={},
        about={},
    )


def _own_stems(files: Sequence[str]) -> list[str]:
    """What the tiles of each of `files` are called by, no two alike on any file system.

    The path without its suffix; with it where others differ in that alone, and numbered if need be.
    """
    stems = [str(PurePosixPath(file).with_suffix("")) for file in files]
    counts = Counter(map(fold, stems))
    taken = {stem for stem, times in counts.items() if times == 1}
    for number, file in enumerate(files):
        if counts[fold(stems[number])] > 1:
            stems[number] = next(stem for stem in _numbered(file) if fold(stem) not in taken)
            taken.add(fold(stems[number]))
    return stems


def _numbered(file: str) -> Iterator[str]:
    yield file
    yield from (f"{file}_{number}" for number in count(2))


def _suffix(file: str) -> str:
    suffix = PurePosixPath(file).suffix
    return suffix if suffix.lower() in _LOSSY else ".png"


def _cut_boxes(tiles: DetectionTable, windows: Windows, visible: float) -> DetectionTable:
    """The boxes as each tile shows them."""
    tile = tiles.image_of_box
    moved = tiles.boxes - np.tile(windows[:, :2], 2)[tile]
    boxes = np.clip(moved, 0, np.tile(tiles.sizes, 2)[tile])
    cut = (boxes != moved).any(axis=1)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        # Side by side: the area of a box of 1e308 pixels is beyond all numbers.
        sides, seen = (each[:, 2:] - each[:, :2] for each in (moved, boxes))
        share = np.where(cut, np.prod(seen / sides, axis=1), 1)
    mark = np.where(share >= visible, Flag.TRUNCATED.value, Flag.IGNORE.value)
    flags = tiles.flags | np.where(cut, mark, 0).astype(np.uint8)
    areas = np.where(cut, np.nan, tiles.areas)
    return replace(tiles, boxes=boxes, flags=flags, areas=areas).keep_boxes(share > 0)


def _in_no_tile(table: DetectionTable, shown: Windows) -> tuple[str, ...]:
    """Lines on the boxes of `table` but for the rows `shown`."""
    hidden = np.ones(len(table.boxes), np.bool_)
    hidden[shown] = False
    finite = np.asarray(np.isfinite(table.boxes[hidden]).all(axis=1))
    counts = {NOT_FINITE: ~finite, "box outside the image, or without area: in no tile": finite}
    return tuple(counted(int(rows.sum()), what) for what, rows in counts.items() if rows.any())

"""A small dataset in memory, its images on disk, and ways to compare datasets.

    draw     draw(path, size=(40, 30)): a grey image
    sample   a table of three images in two splits, with every mark
    lay      lay({path: text}, *images): files and images below tmp_path, which it returns
    content  content(table): what it holds, by image, to compare with another's
    unreadable  unreadable(table): `where: what` of each row that was not read
    splits   splits(table): the stems of the images in each split

Test files of one format have fixtures of their own on top: `put` or `folder` lay down a file of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dhcli.data.io.files import stem_of
from dhcli.data.table import ANY_CLASS, UNREADABLE, DetectionTable, Flag, make_table

Draw = Callable[..., None]


@pytest.fixture
def draw() -> Draw:
    """A function that draws a grey image of a size, 40 × 30 if not told."""

    def write(path: Path, size: tuple[int, int] = (40, 30), **options: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 90, 90)).save(path, **options)

    return write


@pytest.fixture
def sample(tmp_path: Path, draw: Draw) -> DetectionTable:
    """Three images in two splits; boxes of every kind of mark, one of no class; ids with gaps."""
    root = tmp_path / "source"
    sizes = [(40, 30), (30, 40), (64, 48)]
    files = [f"pictures/{name}" for name in ("a.jpg", "b.png", "c.jpg")]
    for file, size in zip(files, sizes, strict=True):
        draw(root / file, size)
    boxes = [[0, 0, 40, 30], [4, 5, 20.5, 25.25], [1, 2, 3, 4], [10, 10, 40, 40], [0.5, 1, 64, 48]]
    flags = [Flag.DIFFICULT, Flag.TRUNCATED | Flag.OCCLUDED, 0, Flag.CROWD, Flag.IGNORE]
    return make_table(
        root,
        files,
        sizes,
        [3, 0, 2],
        boxes,
        [0, 1, 1, 0, ANY_CLASS],
        ("cat", "hot dog"),
        flags=np.array(flags, np.uint8),
        image_ids=np.array([7, 42, 11]),
        category_ids=np.array([3, 17]),
        box_ids=np.array([5, 0, 9, 12, 100]),
        splits={"train": np.array([0, 1]), "val": np.array([2])},
    )


@pytest.fixture
def unreadable() -> Callable[[DetectionTable], list[str]]:
    """A function that gives `where: what` of each row that the reader of a table left out."""

    def list_remarks(table: DetectionTable) -> list[str]:
        return [f"{each.where}: {each.what}" for each in table.remarks if each.code == UNREADABLE]

    return list_remarks


@pytest.fixture
def lay(tmp_path: Path, draw: Draw) -> Callable[..., Path]:
    """A function that lays down texts by their path, and images of 40 × 30 pixels."""

    def put(files: dict[str, str | bytes], *images: str) -> Path:
        for name in images:
            draw(tmp_path / name)
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return put


Content = dict[str, list[tuple[Any, ...]]]


@pytest.fixture
def content() -> Callable[[DetectionTable], Content]:
    """A function that tells what a table holds: image → size and (class, box, flags) of boxes."""

    def tell(table: DetectionTable) -> Content:
        told: Content = {}
        rounded = np.round(table.boxes, 6).tolist()
        for image, file in enumerate(table.files):
            rows = table.rows(image)
            names = [None if k == ANY_CLASS else table.classes[k] for k in table.labels[rows]]
            boxes = [tuple(box) for box in rounded[rows]]
            parts = zip(names, boxes, table.flags[rows].tolist(), strict=True)
            stem = stem_of(file)
            told[file if stem in told else stem] = [tuple(table.sizes[image].tolist()), *parts]
        return told

    return tell


@pytest.fixture
def splits() -> Callable[[DetectionTable], dict[str, list[str]]]:
    """A function that tells the stems of the images in each split."""

    def tell(table: DetectionTable) -> dict[str, list[str]]:
        return {
            name: sorted(stem_of(table.files[image]) for image in images)
            for name, images in table.splits.items()
        }

    return tell

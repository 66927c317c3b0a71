"""What tests of whole commands share: a command that must succeed, and a dataset to run it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.data.formats import write_dataset
from dhcli.data.table import make_table


def dh(*words: object) -> Any:
    """The result of `dh` with these words, which must be done without an error."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (words, result.stderr, result.exception)
    return result


def draw_squares(folder: Path, rng: np.random.Generator, side: int, square: int) -> Path:
    """A COCO dataset of twelve images of `side` pixels, each with one red or green square."""
    drawn, boxes = folder / "drawn", []
    drawn.mkdir()
    for number in range(12):
        pixels = rng.integers(0, 40, (side, side, 3), dtype=np.uint8)
        x, y = rng.integers(0, side - square - 2, 2).tolist()
        pixels[y : y + square, x : x + square, number % 2] = 250
        Image.fromarray(pixels).save(drawn / f"{number}.png")
        boxes.append([x, y, x + square, y + square])
    files, labels, sizes = [f"{n}.png" for n in range(12)], [0, 1] * 6, [[side, side]] * 12
    table = make_table(drawn, files, sizes, [1] * 12, boxes, labels, ["red", "green"])
    write_dataset(table, folder / "photos", "coco")
    return folder / "photos"

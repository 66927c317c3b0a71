"""A small dataset for the tests of commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A YOLO dataset: ten images of 64 × 64 noise with a `cat` and a `dog` each."""
    folder = tmp_path / "photos"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(10):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        rows = "0 0.3 0.3 0.4 0.4\n1 0.7 0.7 0.4 0.4\n"
        (folder / "labels" / f"{number}.txt").write_text(rows, "utf-8")
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n", "utf-8")
    return folder

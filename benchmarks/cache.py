"""What `train.cache` saves: loading an epoch of drawn images with and without it.

    .venv/bin/python benchmarks/cache.py

An epoch is loaded in this process, without workers and without a detector, three ways in turn, and
the batches of every way are compared. Medians are added to `benchmarks/results/cache.csv`.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import cv2
import torch
from record import RESULTS, about, add_row

from dhcli.config.schema import Augment, Input
from dhcli.data.loading.cache import ImageCache, decode_to_file, decode_to_memory, decoded_size
from dhcli.data.loading.loader import Batch, TrainLoader
from dhcli.data.shapes import shapes_table
from dhcli.data.table import DetectionTable

T = TypeVar("T")

CASES = {
    (640, 480): Input(min_size=800, max_size=1333),
    (1600, 1200): Input(min_size=480, max_size=800),
}
"""Width, height of the files, and what they are resized to."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "cache.csv")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    machine = about("torch", "numpy", "pillow")
    for size in CASES:
        for row in measure(size, options.images, options.rounds):
            add_row(options.out, row | machine)


def measure(size: tuple[int, int], images: int, rounds: int) -> list[dict[str, Any]]:
    """A row a way to load images of `size`."""
    with tempfile.TemporaryDirectory() as place:
        table = shapes_table(Path(place), images=images, seed=0, size=size)
        ways: dict[str, tuple[ImageCache | None, float]] = {
            "none": (None, 0.0),
            "ram": timed(partial(decode_to_memory, table, upright=True)),
            "disk": timed(partial(decode_to_file, table, Path(place, "bin"), upright=True)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(rounds):
            digests = set()
            for name, (cache, _) in ways.items():
                batches, spent = timed(partial(epoch, table, CASES[size], cache, number))
                digests.add(digest(batches))
                seconds[name].append(spent)
            assert len(digests) == 1, "the batches differ"
        megabytes = decoded_size(table, upright=True) / 1e6
    rows = []
    for name, (_, once) in ways.items():
        rate = images / statistics.median(seconds[name])
        row = {"files": f"{size[0]}x{size[1]}", "min_size": CASES[size].min_size, "cache": name}
        row |= {"images": images, "rounds": rounds, "images_a_second": round(rate, 1)}
        row |= {"decoded_mb": round(megabytes), "decoding_seconds": round(once, 2)}
        rows.append(row)
    return rows


def epoch(
    table: DetectionTable, input: Input, cache: ImageCache | None, number: int
) -> list[Batch]:
    """All batches of an epoch."""
    loader = TrainLoader(table, input, Augment(), batch_size=2, seed=0, workers=0, cache=cache)
    return list(loader.epoch(number))


def digest(batches: list[Batch]) -> str:
    """A hash of all pixels."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(batch.images.pixels.permute(0, 2, 3, 1).numpy())
    return found.hexdigest()


def timed(job: Callable[[], T]) -> tuple[T, float]:
    """What `job` gives, and its seconds."""
    begun = time.perf_counter()
    return job(), time.perf_counter() - begun


if __name__ == "__main__":
    main()

"""The images of a training, decoded once before it begins."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dhcli.config.schema import Config
from dhcli.data.loading.cache import (
    ImageCache,
    decode_to_file,
    decode_to_memory,
    decoded_size,
    free_memory,
)
from dhcli.data.table import DetectionTable
from dhcli.errors import DhError
from dhcli.runtime.team import ALONE, Team
from dhcli.training.data import TrainingData
from dhcli.training.journal import Journal
from dhcli.training.run_folder import DECODED
from dhcli.words import counted


@contextmanager
def decoded_once(
    data: TrainingData, config: Config, folder: Path, journal: Journal, team: Team = ALONE
) -> Iterator[TrainingData]:
    """`data` with the caches that `train.cache` asks for; files among them last as long as this.

    Files are written by the first process of `team` and read by all; in memory each has its own.
    Raises DhError where the decoded images would not fit, before one is decoded.
    """
    if config.train.cache == "none":
        yield data
        return
    begun = time.perf_counter()
    upright, depth = config.input.exif, config.input.depth
    tables = [data.train] if data.val is None else [data.train, data.val]
    needed = sum(decoded_size(table, upright=upright) for table in tables)
    _require_room(needed, config.train.cache, folder)
    files = [folder / name for name in DECODED]

    def decode(table: DetectionTable, path: Path) -> ImageCache:
        if config.train.cache == "ram":
            return decode_to_memory(table, upright=upright, depth=depth)
        return team.from_first(lambda: decode_to_file(table, path, upright=upright, depth=depth))

    try:
        caches = [decode(table, path) for table, path in zip(tables, files, strict=False)]
        images, seconds = sum(map(len, tables)), time.perf_counter() - begun
        journal.say(
            f"decoded {counted(images, 'image')}, {needed / 1e6:.0f} MB in {seconds:.1f} s "
            f"(train.cache {config.train.cache})"
        )
        yield replace(data, train_cache=caches[0], val_cache=caches[1] if data.val else None)
    finally:
        for path in files if team.first else ():
            path.unlink(missing_ok=True)


def _require_room(needed: int, cache: str, folder: Path) -> None:
    on_disk = cache == "disk"
    free = shutil.disk_usage(folder).free if on_disk else free_memory()
    if free is not None and free < needed:
        place = f"on the disk of {folder}" if on_disk else "in the memory that processes share"
        what = f"the decoded images need {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free"
        other = "none" if on_disk else "disk` or `--cache none"
        raise DhError(f"{what} {place}", hint=f"`--cache {other}` trains the same, more slowly")

"""Decoded images that are kept. That loaders give the same from them: test_loader.py."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhcli.data.io.image import read_image
from dhcli.data.loading.cache import decode_to_file, decode_to_memory, decoded_size, free_memory
from dhcli.data.table import DetectionTable, make_table
from dhcli.errors import DataError, DhError

SIZES = [(5, 3), (4, 7), (2, 2)]


@pytest.fixture
def table(tmp_path: Path, rng: np.random.Generator) -> DetectionTable:
    """Three images of noise, sizes as they are seen: the second is turned by its EXIF."""
    for number, (width, height) in enumerate(SIZES):
        exif = Image.Exif()
        if number == 1:
            exif[0x0112], width, height = 6, height, width
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png", exif=exif)
    files = [f"{number}.png" for number in range(3)]
    return make_table(tmp_path, files, SIZES, [0] * 3, [], [], ["x"])


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_images_are_those_of_the_files_and_cannot_be_changed(
    table: DetectionTable, tmp_path: Path, place: str, upright: bool
) -> None:
    if place == "memory":
        cache = decode_to_memory(table, upright=upright)
    else:
        cache = decode_to_file(table, tmp_path / "decoded.bin", upright=upright)

    for image in (2, 0, 1):
        assert np.array_equal(cache[image], read_image(table.path(image), upright=upright))
    with pytest.raises(ValueError, match="read-only"):
        cache[0][:] = 0
    assert decoded_size(table, upright=upright) == sum(3 * w * h for w, h in SIZES)


def test_a_file_is_sent_as_its_path(table: DetectionTable, tmp_path: Path) -> None:
    cache = decode_to_file(table, tmp_path / "decoded.bin", upright=True)

    sent = pickle.dumps(cache)

    assert (tmp_path / "decoded.bin").stat().st_size == decoded_size(table, upright=True)
    (tmp_path / "decoded.bin").write_bytes(bytes(decoded_size(table, upright=True)))
    assert not pickle.loads(sent)[0].any()


def test_an_image_that_cannot_be_read_is_named_and_nothing_left(
    table: DetectionTable, tmp_path: Path
) -> None:
    table.path(1).write_bytes(b"no image")

    with pytest.raises(DataError, match=r"1\.png"):
        decode_to_file(table, tmp_path / "decoded.bin", upright=True)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png"]


def test_a_size_that_is_not_the_annotated_one_is_an_error(table: DetectionTable) -> None:
    table.sizes[0] = 6, 3

    with pytest.raises(DataError, match="is 5 × 3 pixels, not 6 × 3 as annotated"):
        decode_to_memory(table, upright=True)


def test_a_file_that_cannot_be_written_is_an_error(table: DetectionTable, tmp_path: Path) -> None:
    with pytest.raises(DhError, match="cannot be written"):
        decode_to_file(table, tmp_path / "0.png" / "decoded.bin", upright=True)


def test_free_memory_is_the_least_of_what_limits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "meminfo"
    state.write_text("MemTotal:  100 kB\nMemAvailable:      12 kB\n", "ascii")
    monkeypatch.setattr("dhcli.data.io.memory._STATE", state)
    monkeypatch.setattr("dhcli.data.io.memory._OWN_GROUPS", tmp_path / "absent")
    monkeypatch.setattr("dhcli.data.loading.workers.SHARED_MEMORY", tmp_path / "absent")

    assert free_memory() == 12 * 1024
    state.unlink()
    assert free_memory() is None

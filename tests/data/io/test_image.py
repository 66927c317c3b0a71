from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from dhcli.data.io.image import read_image, read_size
from dhcli.errors import DataError

GREY = (np.arange(24, dtype=np.uint8) * 10).reshape(4, 6)
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_makes_the_image_upright(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255  # one corner tells all eight orientations apart
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)

    pixels = read_image(path)

    assert read_size(path) == (48, 32)
    assert pixels.shape == (32, 48, 3)
    assert np.array_equal(pixels > 128, upright > 128)


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("rgb.png", Image.fromarray(COLOUR), COLOUR),
        ("grey.png", Image.fromarray(GREY), np.stack([GREY] * 3, axis=2)),
        ("bit.png", Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)[..., None]),
        ("bytes.bmp", Image.fromarray(COLOUR), COLOUR),
        (
            "deep.png",
            Image.fromarray(GREY.astype(np.uint16) * 256 + 200),
            np.stack([GREY] * 3, axis=2),
        ),
        (
            "deep.tif",
            Image.fromarray(GREY.astype(np.uint16) * 256 + 200),
            np.stack([GREY] * 3, axis=2),
        ),
        (
            "wide.tif",
            Image.fromarray(GREY.astype(np.int32) * 256 + 200),
            np.stack([GREY] * 3, axis=2),
        ),
        (
            "cmyk.tif",  # ink takes light away: (255 − ink)(255 − black) / 255
            Image.merge("CMYK", [Image.new("L", (6, 4), ink) for ink in (255, 0, 51, 0)]),
            np.broadcast_to([0, 255, 204], (4, 6, 3)),
        ),
        (
            "half.png",  # half transparent black on white
            Image.new("RGBA", (6, 4), (0, 0, 0, 127)),
            np.full((4, 6, 3), 128),
        ),
        (
            "grey_alpha.png",
            Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (6, 4), 255)]),
            np.stack([GREY] * 3, axis=2),
        ),
        (
            "clear.png",
            Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (6, 4), 0)]),
            np.full((4, 6, 3), 255),
        ),
    ],
)
def test_every_mode_becomes_rgb(
    tmp_path: Path, name: str, image: Image.Image, expected: np.ndarray
) -> None:
    image.save(tmp_path / name)

    pixels = read_image(tmp_path / name)

    assert pixels.dtype == np.uint8
    assert pixels.shape == (4, 6, 3)
    assert np.array_equal(pixels, np.broadcast_to(expected, (4, 6, 3)))


def test_palette_keeps_its_colours_and_lays_its_transparent_one_on_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "solid.png")
    image.save(tmp_path / "clear.gif", transparency=1)

    solid, clear = read_image(tmp_path / "solid.png"), read_image(tmp_path / "clear.gif")

    assert solid.tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert clear.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_deep_grey_of_a_pgm_is_scaled(tmp_path: Path) -> None:
    path = tmp_path / "deep.pgm"
    path.write_bytes(b"P5 2 1 65535\n" + bytes([0xFF, 0xFF, 0x80, 0x00]))

    pixels = read_image(path)

    assert pixels[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (b"Exif\0\0rubbish", (6, 4)),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\xff", (6, 4)),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0", (6, 4)),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0\0\0\0\0", (6, 4)),
        (b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0", (4, 6)),
    ],
    ids=["rubbish", "cut", "unknown value", "text", "sound"],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_refuse(
    tmp_path: Path, suffix: str, exif: bytes, size: tuple[int, int]
) -> None:
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(COLOUR).save(path, exif=exif)

    assert read_size(path) == size
    assert read_image(path).shape == (size[1], size[0], 3)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"hello, world", "not an image"),
        (b"\xff\xd8\xff\xe0", "cannot be read|not an image"),
    ],
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)

    for read in (read_image, read_size):
        with pytest.raises(DataError, match=said) as caught:
            read(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_image_is_refused_though_its_header_is_sound(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"photo.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-2000])

    with pytest.raises(DataError, match=r"photo\.\w+: cannot be read: .*truncated"):
        read_image(path)
    assert read_size(path) == (80, 64)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jpg: no such image"):
        read_size(tmp_path / "none.jpg")
    with pytest.raises(DataError, match="is not a file"):
        read_image(tmp_path)


def test_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 10_000)).save(path)

    for read in (read_image, read_size):
        with pytest.raises(DataError, match=r"bomb\.png: is too large an image"):
            read(path)


def test_pixels_of_unknown_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "float.tif")
    Image.fromarray(GREY.astype(np.int32) * 70_000).save(tmp_path / "wide.tif")

    with pytest.raises(DataError, match=r"float\.tif: holds floating-point"):
        read_image(tmp_path / "float.tif")
    with pytest.raises(DataError, match=r"wide\.tif: holds 32-bit"):
        read_image(tmp_path / "wide.tif")


def test_result_can_be_written_to(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "photo.png")

    pixels = read_image(tmp_path / "photo.png")

    pixels[0, 0] = 1
    assert pixels[0, 0].tolist() == [1, 1, 1]


def test_exif_orientation_can_be_left_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "lying.jpg"
    Image.new("RGB", (40, 20)).save(path, exif=exif)

    assert read_image(path, upright=False).shape == (20, 40, 3)
    assert read_size(path, upright=False) == (40, 20)
    assert read_size(path) == (20, 40)


def test_the_filters_of_warnings_are_as_before(tmp_path: Path) -> None:
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    before = list(warnings.filters)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, [tmp_path / "a.png"] * 40))

    assert list(warnings.filters) == before

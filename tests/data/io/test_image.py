from __future__ import annotations

import struct
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile

from dhcli.data.io import image as image_module
from dhcli.data.io.image import read_image, read_orientation, read_size
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

    assert (read_size(path), read_orientation(path)) == ((48, 32), orientation)
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

    with pytest.raises(DataError, match=r"bomb\.png: is too large an image") as caught:
        read_image(path)

    assert "--tile" in str(caught.value.hint)
    assert read_size(path) == (20_000, 10_000)
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's guard stands for others


def _icon(kind: bytes, png: bytes) -> bytes:
    """An icon that says it is of 16×16 pixels."""
    if kind == b"icns":
        return (
            kind
            + (len(png) + 16).to_bytes(4, "big")
            + b"ic07"
            + (len(png) + 8).to_bytes(4, "big")
            + png
        )
    entry = (
        bytes((16, 16, 0, 0, 1, 0, 32, 0)) + len(png).to_bytes(4, "little") + bytes((22, 0, 0, 0))
    )
    return b"\0\0\1\0\1\0" + entry + png


@pytest.mark.parametrize("kind", [b"ico", b"icns", b"eps"])
def test_a_bomb_in_an_icon_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    def unpack(*_: object) -> None:
        raise AssertionError

    png = tmp_path / "large.png"
    Image.new("1", (5000, 5000)).save(png)
    monkeypatch.setattr(ImageFile.ImageFile, "load", unpack)
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    if kind != b"eps":
        path.write_bytes(_icon(kind, png.read_bytes()))

    with pytest.raises(DataError, match="is an icon or PostScript"):
        read_image(path)


def test_bands_that_no_memory_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bands.tif"  # 134 bytes
    tags = {256: 10_000, 257: 10_000, 258: 8, 259: 8, 262: 1, 273: 8, 277: 100, 278: 10_000, 279: 0}
    entries = (struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + struct.pack("<I", 0)
    )

    with pytest.raises(DataError, match="10,000,000,000 values"):
        read_image(path)


def test_more_pixels_than_the_guard_lets_pass_are_read_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "_MOST_PIXELS", 20)
    Image.fromarray(COLOUR).save(tmp_path / "x.png")

    with pytest.raises(DataError, match="is too large an image: 6×4, more than 20 pixels"):
        read_image(tmp_path / "x.png")
    assert np.array_equal(read_image(tmp_path / "x.png", huge=True), COLOUR)


@pytest.mark.parametrize("values", [GREY.astype(np.float32), GREY.astype(np.int32) * 70_000])
def test_the_whole_range_of_some_pixels_is_not_known(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")

    with pytest.raises(DataError, match=r"x\.tif: has .*, whose whole range is not known"):
        read_image(tmp_path / "x.tif", depth="full")

    assert np.array_equal(read_image(tmp_path / "x.tif"), stretched(values))


def stretched(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (0.5, 99.5))
    scaled = np.round(np.clip((values - low) / (high - low), 0, 1) * 255)
    return np.broadcast_to(np.atleast_3d(scaled), (4, 6, 3))


SENSOR = np.linspace(300, 900, 24).astype(np.uint16).reshape(4, 6)
"""What a sensor of few bits leaves in a file of 16."""


@pytest.mark.parametrize("suffix", ["tif", "png"])
@pytest.mark.parametrize("colours", [1, 3])
def test_few_bits_in_a_file_of_many_are_seen(tmp_path: Path, suffix: str, colours: int) -> None:
    bands = [SENSOR, SENSOR // 2, SENSOR * 2][:colours]
    values = np.stack(bands, axis=2)
    cv2.imwrite(str(tmp_path / f"x.{suffix}"), values[..., ::-1])  # OpenCV writes BGR
    said: list[tuple[str, str]] = []

    read = read_image(tmp_path / f"x.{suffix}", say=lambda *words: said.append(words))
    full = read_image(tmp_path / f"x.{suffix}", depth="full")

    assert np.array_equal(read, stretched(values))
    assert np.array_equal(full, np.broadcast_to(values >> 8, (4, 6, 3)))
    [(code, what)] = said
    assert code == "image-depth"
    assert what.startswith(f"has 16 bits, of which {values.min()}…{values.max()} are used")


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bands", [4, 5])
def test_a_tiff_of_many_bands_is_read_by_its_first_three(
    tmp_path: Path, bands: int, kind: type, planar: bool
) -> None:
    tifffile = pytest.importorskip("tifffile")
    values = np.stack([GREY + band for band in range(bands)], axis=2).astype(kind)
    stored = np.moveaxis(values, 2, 0) if planar else values
    layout = "separate" if planar else "contig"
    tifffile.imwrite(tmp_path / "x.tif", stored, photometric="minisblack", planarconfig=layout)

    pixels = read_image(tmp_path / "x.tif")

    shown = values[..., :3]
    assert read_size(tmp_path / "x.tif") == (6, 4)
    assert np.array_equal(pixels, shown if kind is np.uint8 else stretched(shown))


def test_near_infrared_is_not_transparency(tmp_path: Path) -> None:
    infrared = Image.fromarray(COLOUR).copy()
    infrared.putalpha(40)
    infrared.save(tmp_path / "x.tif")

    assert np.array_equal(read_image(tmp_path / "x.tif"), COLOUR)


def test_a_heic_image_is_read_or_named_for_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 60))).save(tmp_path / "x.heic")

    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        without.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
        with pytest.raises(DataError, match="is a HEIC image, which needs pillow-heif") as caught:
            read_image(tmp_path / "x.heic")
    pixels = read_image(tmp_path / "x.heic")

    assert "dhcli[images]" in str(caught.value.hint)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 60)).max() < 12


def test_a_video_is_named_for_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(40))

    with pytest.raises(DataError, match="is a video") as caught:
        read_image(tmp_path / "x.mp4")

    assert "ffmpeg -i x.mp4" in str(caught.value.hint)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_end_mark_is_read(
    tmp_path: Path, cut: int, rng: np.random.Generator
) -> None:
    Image.fromarray(rng.integers(0, 255, (90, 70, 3), np.uint8)).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-cut])
    said: list[str] = []

    pixels = read_image(tmp_path / "cut.jpg", say=lambda code, what: said.append(code))

    assert np.array_equal(pixels, read_image(tmp_path / "whole.jpg"))
    assert said == ["image-unended"]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [8, 100, 900])
def test_a_jpeg_that_lacks_pixels_is_not(
    tmp_path: Path, cut: int, progressive: bool, rng: np.random.Generator
) -> None:
    image = Image.fromarray(rng.integers(0, 255, (90, 70, 3), np.uint8))
    image.save(tmp_path / "x.jpg", progressive=progressive)
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:-cut])

    with pytest.raises(DataError, match="truncated"):
        read_image(tmp_path / "x.jpg")


def test_large_images_are_decoded_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "_LARGE", 10)
    monkeypatch.setattr(image_module, "_IN_FLIGHT", 100)
    inside, most = [0], [0]

    def decode(side: int) -> None:
        with image_module._memory_for((side, side)):
            inside[0] += side * side
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= side * side

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, [7, 7, 7, 20, 7, 7, 20, 7]))

    assert most[0] == 400


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

"""Tiles cover every pixel, and boxes lie where the pixels are."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from dhcli.data.io import image as image_module
from dhcli.data.strings import Strings
from dhcli.data.table import SOURCE, Flag, make_table
from dhcli.data.tools.tile import tile_table, write_tiles
from dhcli.errors import DataError


def table_of(root=Path("root"), boxes=(), size=(100, 60), files=("a.png",), **columns):
    counts = [len(boxes)] + [0] * (len(files) - 1)
    return make_table(
        root, files, [size] * len(files), counts, boxes, [0] * len(boxes), ("ship",), **columns
    )


@pytest.mark.parametrize("size", [(100, 60), (40, 40), (17, 90), (41, 39)])
@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
def test_tiles_cover_every_pixel_and_stay_inside(size, overlap):
    tiling = tile_table(table_of(size=size), 40, overlap, 0.5)

    covered = np.zeros((size[1], size[0]), np.bool_)
    for x1, y1, x2, y2 in tiling.windows.tolist():
        assert 0 <= x1 < x2 <= size[0]
        assert 0 <= y1 < y2 <= size[1]
        assert (x2 - x1, y2 - y1) == (min(40, size[0]), min(40, size[1]))
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    assert len(np.unique(tiling.windows, axis=0)) == len(tiling.windows)


def test_boxes_are_whole_truncated_or_to_ignore():
    boxes = [(5, 5, 15, 15), (36, 10, 46, 20), (32, 30, 42, 38), (10, 39, 20, 43)]
    areas = np.array([77.0, 88, 99, 55])

    tiling = tile_table(table_of(boxes=boxes, size=(80, 40), areas=areas), 40, 0, 0.5)

    table = tiling.table
    assert list(table.files) == ["a_0_0.png", "a_40_0.png"]
    assert np.diff(table.offsets).tolist() == [4, 2]
    assert table.boxes.tolist() == [
        *([5, 5, 15, 15], [36, 10, 40, 20], [32, 30, 40, 38], [10, 39, 20, 40]),
        *([0, 10, 6, 20], [0, 30, 2, 38]),
    ]
    whole, cut, region = 0, Flag.TRUNCATED, Flag.IGNORE
    assert table.flags.tolist() == [whole, region, cut, region, cut, region]
    np.testing.assert_array_equal(table.areas, [77, *[np.nan] * 5])


def test_boxes_in_no_tile_are_counted_and_huge_ones_cut():
    beyond, nan, huge = (200, 5, 210, 15), (np.nan, 5, 10, 15), (-1e308, 5, 1e300, 15)
    boxes = [(5, 5, 15, 15), beyond, nan, (0, 5, np.inf, 15), huge, (20, 5, 1e308, 15)]

    tiling = tile_table(table_of(boxes=boxes, size=(80, 40)), 40, 0, 0.5)

    assert tiling.lost == (
        "2 boxes with a coordinate that is not finite: left out",
        "1 box outside the image, or without area: in no tile",
    )
    assert tiling.table.boxes.tolist() == [
        *([5, 5, 15, 15], [0, 5, 40, 15], [20, 5, 40, 15]),
        *([0, 5, 40, 15], [0, 5, 40, 15]),
    ]
    assert tiling.table.flags.tolist() == [0, *[Flag.IGNORE] * 4]
    assert tile_table(table_of(boxes=boxes[:1]), 40, 0, 0.5).lost == ()


def test_marks_and_splits_go_along_and_masks_do_not():
    table = table_of(
        boxes=[(5, 5, 15, 15)],
        files=("d/a.JPG", "d/b.tif"),
        flags=np.array([Flag.DIFFICULT], np.uint8),
        splits={"train": np.array([1]), "val": np.array([0])},
        extras={SOURCE: Strings.pack(["{}"]), "pose": Strings.pack(["Left"])},
    )

    tiles = tile_table(table, 60, 0, 0.5).table

    assert list(tiles.files) == ["d/a_0_0.JPG", "d/a_40_0.JPG", "d/b_0_0.png", "d/b_40_0.png"]
    assert {name: rows.tolist() for name, rows in tiles.splits.items()} == {
        "train": [2, 3],
        "val": [0, 1],
    }
    assert tiles.flags.tolist() == [Flag.DIFFICULT]
    assert {name: list(column) for name, column in tiles.extras.items()} == {"pose": ["Left"]}


def test_the_tiles_on_disk_are_the_pixels_of_their_windows(tmp_path, rng):
    pixels = rng.integers(0, 255, (60, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tiling = tile_table(table_of(tmp_path), 40, 0.5, 0.5)

    table, _ = write_tiles(tiling, tmp_path / "tiles")

    for tile, (x1, y1, x2, y2) in enumerate(tiling.windows.tolist()):
        with Image.open(table.path(tile)) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels[y1:y2, x1:x2])


TWINS = {
    "suffixes": (["a.bmp", "a.png", "a.jpg"], ["a.bmp", "a.png", "a.jpg"]),
    "case": (["d/a.png", "D/A.png"], ["d/a.png", "D/A.png_2"]),
    "accents": (["\u00e9.png", "e\u0301.png"], ["\u00e9.png", "e\u0301.png_2"]),
    "whole": (["a.bmp", "a.png", "a.bmp.png"], ["a.bmp_2", "a.png", "a.bmp"]),
    "numbers": (["a.bmp", "a.png", "a.bmp.png", "a.bmp_2.png"], None),
    "tile": (["a.png", "a_0_0.png", "b/a.png"], ["a", "a_0_0", "b/a"]),
    "same": (["a.png", "a.png"], ["a.png", "a.png_2"]),
}


@pytest.mark.parametrize("kind", TWINS)
def test_no_two_images_share_a_tile(kind):
    files, stems = TWINS[kind]

    tiles = list(tile_table(table_of(files=files), 40, 0, 0.5).table.files)

    folded = {unicodedata.normalize("NFC", tile).casefold() for tile in tiles}
    assert len(folded) == len(tiles) == 6 * len(files)
    if stems is not None:
        suffixes = [".jpg" if file.endswith(".jpg") else ".png" for file in files]
        assert tiles[::6] == [f"{a}_0_0{b}" for a, b in zip(stems, suffixes, strict=True)]


def test_images_that_differ_in_their_suffix_have_their_own_pixels(tmp_path):
    files, colours = ("a.bmp", "a.png", "a.tif"), ("red", "lime", "blue")
    for file, colour in zip(files, colours, strict=True):
        Image.new("RGB", (100, 60), colour).save(tmp_path / file)
    tiling = tile_table(table_of(tmp_path, files=files), 40, 0, 0.5)

    table, _ = write_tiles(tiling, tmp_path / "tiles")

    for tile, source in enumerate(tiling.source.tolist()):
        with Image.open(table.path(tile)) as image:
            assert image.getpixel((0, 0)) == ImageColor.getrgb(colours[source])


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_dataset_are_cut_if_asked(tmp_path, what):
    root, private = tmp_path / "in", tmp_path / "private"
    for folder in (root, private):
        folder.mkdir()
        Image.new("RGB", (100, 60)).save(folder / "a.png")
    to = ("d", private) if what == "folder" else ("b.png", private / "a.png")
    (root / to[0]).symlink_to(to[1])
    link = "d/a.png" if what == "folder" else "b.png"
    tiling = tile_table(table_of(root, files=("a.png", link)), 60, 0, 0.5)

    table, lost = write_tiles(tiling, tmp_path / "tiles")
    followed, nothing = write_tiles(tiling, tmp_path / "followed", follow=True)

    assert lost == (
        f"1 image linked to outside the dataset: only copied with --follow-links: {link}",
    )
    there = [table.path(tile).exists() for tile in range(len(table))]
    assert there == [True, True, False, False]
    assert nothing == ()
    assert all(followed.path(tile).exists() for tile in range(len(followed)))


def test_an_image_that_cannot_be_read_or_measured_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: its size is not known"):
        tile_table(table_of(size=(0, 0)), 40, 0.5, 0.5)
    with pytest.raises(DataError, match=r"a\.png: no such image"):
        write_tiles(tile_table(table_of(tmp_path), 40, 0.5, 0.5), tmp_path / "tiles")


def test_more_tiles_than_a_disk_holds_are_refused() -> None:
    table = make_table(Path("in"), ["x.png"], [[10**9, 10**9]], [0], [], [], ["cat"])

    with pytest.raises(DataError, match=r"x\.png: of 1,000,000,000×1,000,000,000 pixels") as caught:
        tile_table(table, 64, 0.2, 0.5)

    assert "tiles in all" in caught.value.what


def test_an_image_too_large_to_be_read_is_tiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_module, "_MOST_PIXELS", 100)
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    table = make_table(tmp_path, ["x.png"], [[40, 30]], [1], [[1, 1, 9, 9]], [0], ["cat"])
    (tmp_path / "tiles").mkdir()

    tiles, _ = write_tiles(tile_table(table, 16, 0, 0.5), tmp_path / "tiles")

    assert all(tiles.path(tile).exists() for tile in range(len(tiles)))

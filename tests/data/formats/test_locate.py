"""Which image a name in an annotation file means, however it is spelled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dhcli.data.formats.locate import locate_images
from dhcli.data.formats.spellings import path_of, spellings

Lay = Callable[..., Path]

QUERY = "Expires=12&Signature=ab%2Bc"
NAMES = [
    ("a.jpg", "images/a.jpg", None),
    ("images/a.jpg", "images/a.jpg", None),
    ("images%20(1).jpg", "images (1).jpg", "spelled otherwise, decoded"),
    ("day/a%20b.jpg", "images/day/a b.jpg", "spelled otherwise, decoded"),
    ("a.jpg?width=10", "images/a.jpg", "spelled otherwise, decoded or without its query"),
    (f"https://host.example/bucket/cjv%2F501a0.jpg?{QUERY}", "images/501a0.jpg", "leading out"),
    (f"https://host.example/a+b.jpg?{QUERY}", "a b.jpg", "leading out"),
    ("https://host.example/get?size=1&file=day%2Fa.jpg", "x/day/a.jpg", "leading out"),
    ("s3://bucket/set/a.jpg", "set/a.jpg", "leading out"),
    ("/home/me/set/a.jpg", "pictures/set/a.jpg", "leading out"),
    (r"C:\\me\\set\\a.jpg", "set/a.jpg", "leading out"),
    ("dataset/images/a.jpg", "images/a.jpg", "other folders"),
    ("dataset/day/a.jpg", "pictures/day/a.jpg", "other folders"),
    ("old/place/a.jpg", "pictures/a.jpg", "other folders"),
    ("frames/a", "frames/a.png", None),
    ("frames/a.jpg", "frames/a.jpg.png", "spelled otherwise than the image"),
    ("a%2520b.jpg", "a b.jpg", "spelled otherwise, decoded"),
    ("a%20b.JPG", "a b.jpg", "spelled otherwise, decoded"),
    ("old/A.JPEG", "pictures/a.jpg", "spelled otherwise, decoded"),
]


@pytest.mark.parametrize(("name", "image", "said"), NAMES)
def test_the_image_that_a_name_means(lay: Lay, name: str, image: str, said: str | None) -> None:
    root = lay({"annotations.json": ""}, image)

    files, notes = locate_images(root, root / "annotations.json", [name])

    assert files == [image]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]


def test_what_is_written_counts_before_what_it_may_mean(lay: Lay) -> None:
    root = lay({}, "a%20b.jpg", "a b.jpg", "x/d.jpg", "d.jpg")

    files, notes = locate_images(root, root / "a.json", ["a%20b.jpg", "a b.jpg", "x/d.jpg"])

    assert files == ["a%20b.jpg", "a b.jpg", "x/d.jpg"]
    assert notes == []


@pytest.mark.parametrize("start", ["", "/data/", "https://host.example/"])
def test_frames_of_one_name_are_not_each_others_image(lay: Lay, start: str) -> None:
    root = lay({}, "images/1.jpg", "images/2.jpg")
    names = [f"{start}day/1.jpg", f"{start}night/1.jpg", f"{start}day/2.jpg"]

    files, notes = locate_images(root, root / "a.json", names)

    inside = "images/data" if start == "/data/" else "images"
    assert files == [f"{inside}/day/1.jpg", f"{inside}/night/1.jpg", "images/2.jpg"]
    assert "2 names that could mean several images: taken as missing" in notes


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a", "a.jpg"),
        ("a.b", "a.b.jpg"),
        ("frame.0001", "frame.0001.jpg"),
        ("a.HEIC", "a.HEIC"),
        ("a.dng", "a.dng"),
        (f"a.jpg?{QUERY}", f"a.jpg?{QUERY}"),
        (f"https://host.example/b/a%20b.jpg?{QUERY}", "a b.jpg"),
    ],
)
def test_a_missing_image_has_a_suffix_but_not_two(lay: Lay, name: str, file: str) -> None:
    root = lay({}, "b.jpg")

    assert locate_images(root, root / "a.json", [name, "b.jpg"])[0] == [file, "b.jpg"]


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("/data/local-files/?d=a/b%20c.jpg", "a/b c.jpg"),
        ("s3://bucket/a/b.jpg", "a/b.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
    ],
)
def test_the_path_of_an_address(address: str, path: str) -> None:
    assert path_of(address) == path


def test_a_plain_name_has_one_spelling() -> None:
    assert spellings("images/a.jpg") == ["images/a.jpg"]
    assert spellings("a%20b.jpg?x=c+d.jpg")[:3] == [
        "a%20b.jpg?x=c+d.jpg",
        "a b.jpg?x=c+d.jpg",
        "a%20b.jpg",
    ]


def test_images_in_folders_that_no_name_tells_of(lay: Lay) -> None:
    images = ("images/day/a.jpg", "images/night/b.png", "images/day/c.jpg", "images/night/c.jpg")
    root = lay({"l.csv": ""}, *images)

    files, notes = locate_images(root, root / "l.csv", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])

    assert files == ["images/day/a.jpg", "images/night/b.png", "c.jpg", "d.jpg"]
    assert any("with other folders than the image: only the end is used" in note for note in notes)


def test_an_image_that_is_gone_is_not_one_called_so_elsewhere(lay: Lay) -> None:
    root = lay({"l.csv": ""}, "images/a.jpg", "old/day/b.jpg")

    files, _ = locate_images(root, root / "l.csv", ["a.jpg", "b.jpg"])

    assert files == ["images/a.jpg", "images/b.jpg"]

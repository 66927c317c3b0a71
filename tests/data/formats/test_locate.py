"""Names of images in annotation files, and the images that they mean."""

import pytest

from dhcli.data.formats import read_dataset
from dhcli.data.formats.locate import locate_images, plain_name

ADDRESS = "https://host.example/o/set%2Fa0.jpg?Expires=12&Signature=ab%2Bc"


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a%20(1).jpg", "a (1).jpg"),
        ("a%2520b.jpg", "a b.jpg"),
        ("a+b.jpg", "a b.jpg"),
        ("set%2Fa.jpg", "set/a.jpg"),
        ("k%C3%A4fer.jpg", "käfer.jpg"),
        ("a%20b.JPG", "a b.jpg"),
        ("a.jpg?size=1&x=/b.jpg", "a.jpg"),
        (ADDRESS, "a0.jpg"),
        (ADDRESS, "images/a0.jpg"),
        (ADDRESS, "set/a0.jpg"),
        ("file:///C:/me/a%20b.png", "images/a b.png"),
        ("s3://bucket/deep/er/a.jpg", "er/a.jpg"),
        ("more/images/a.jpg", "images/a.jpg"),
        ("more/a.jpg", "images/a.jpg"),
        ("more/A.JPEG", "a.jpg"),
        (r"C:\me\images\a.jpg", "images/a.jpg"),
        ("what?.jpg", "what?.jpg"),
        ("50%.jpg", "50%.jpg"),
        ("a%20b.jpg", "a%20b.jpg"),
        ("1+1.jpg", "1+1.jpg"),
    ],
)
def test_what_a_name_means(lay, name, image):
    root = lay({}, image)

    files, _ = locate_images(root, root / "boxes.json", [name])

    assert files == [image]


def test_a_name_counts_as_it_is_written_first(lay):
    root = lay({}, "a%20b.jpg", "a b.jpg", "images/a%20b.jpg")

    assert locate_images(root, root / "a.csv", ["a%20b.jpg"]) == (["a%20b.jpg"], [])


@pytest.mark.parametrize(
    ("name", "left"),
    [
        (ADDRESS, "a0.jpg"),
        ("a.jpg?x=1", "a.jpg?x=1"),
        ("a.HEIC", "a.HEIC"),
        ("a", "a.jpg"),
        ("a%20b.png", "a%20b.png"),
    ],
)
def test_no_suffix_is_added_to_a_name_that_has_one(lay, name, left):
    root = lay({}, "other.jpg")

    assert locate_images(root, root / "a.csv", [name])[0] == [left]


def test_an_end_that_two_names_have_is_of_neither(lay):
    root = lay({}, "a.jpg", "x/b.jpg")

    files, _ = locate_images(root, root / "a.csv", ["x/a.jpg", "y/a.jpg", "x/b.jpg", "y/b.jpg"])

    assert files == ["x/a.jpg", "y/a.jpg", "x/b.jpg", "y/b.jpg"]


def test_what_was_found_otherwise_is_noted(lay):
    text = "filename,class,xmin,ymin,xmax,ymax\n" + "".join(
        f"{name},cat,1,2,3,4\n" for name in ("a%20b.jpg", "c.jpg?x=1", "d.jpg")
    )

    table = read_dataset(lay({"a.csv": text}, "a b.jpg", "c.jpg", "d.jpg"))

    assert list(table.files) == ["a b.jpg", "c.jpg", "d.jpg"]
    assert table.notes == ("2 names found by its end, decoded or without query",)


def test_plain_names():
    assert plain_name(ADDRESS) == "https://host.example/o/set/a0.jpg"
    assert plain_name("what?.jpg") == "what?.jpg"

"""Paths that cannot leave the dataset, texts of any encoding, names of splits."""

import threading
import time

import pytest

from dhcli.data.formats.placing import decimal, flat_names
from dhcli.data.io import files
from dhcli.data.io.files import (
    FilesByStem,
    confine,
    find_folders,
    first_folder,
    last_part,
    list_files,
    list_folders,
    list_images,
    listing_once,
    map_looks,
    map_threads,
    read_lines,
    read_sizes,
    split_name,
    stem_of,
    usual_split,
)


@pytest.mark.parametrize(
    ("name", "folder", "path"),
    [
        ("a.jpg", "", "a.jpg"),
        ("a.jpg", "x/y", "x/y/a.jpg"),
        ("./x//a.jpg", "", "x/a.jpg"),
        (r"x\a.jpg", "", "x/a.jpg"),
        ("../a.jpg", "x", "a.jpg"),
        ("..a.jpg", "", "..a.jpg"),
        ("ö/a b\n.jpg", "", "ö/a b\n.jpg"),
        ("../a.jpg", "", None),
        ("x/../../a.jpg", "", None),
        ("../../a.jpg", "x", None),
        ("..", "", None),
        ("/etc/passwd", "", None),
        (r"\\server\a.jpg", "", None),
        ("C:/a.jpg", "", None),
        ("http://host/a.jpg", "", None),
        ("a\0.jpg", "", None),
        ("", "", None),
        ("a" * 300, "", None),
        ("a/" * 3000, "", None),
        ("\ud800.jpg", "", None),
    ],
)
def test_confine(name, folder, path):
    assert confine(name, folder) == path


@pytest.mark.parametrize(
    ("name", "last"),
    [("x/a.jpg", "a.jpg"), (r"C:\x\a.jpg", "a.jpg"), ("x/..", "unnamed"), ("a" * 300, "unnamed")],
)
def test_last_part(name, last):
    assert last_part(name) == last


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("x/a.JPG", "a"),
        ("a.rf.0123", "a.rf.0123"),
        ("a.rf.0123.png", "a.rf.0123"),
        ("v1.5", "v1.5"),
        (".jpg", ".jpg"),
        ("a.xml", "a"),
    ],
)
def test_stem_of(name, stem):
    assert stem_of(name) == stem


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("instances_train2017", "train"),
        ("instances_val2014", "val"),
        ("valid", "val"),
        ("image_info_test-dev2017", "test"),
        ("trainval", "trainval"),
        ("_annotations.coco", None),
        ("trains", None),
        ("interval", None),
        ("constraint", None),
    ],
)
def test_split_name(name, split):
    assert split_name(name) == split


@pytest.mark.parametrize(
    ("name", "usual"),
    [
        ("Train", "train"),
        ("VALID", "val"),
        ("validation", "val"),
        ("testing", "test"),
        ("trainval", "trainval"),
        ("train2017", "train2017"),
        ("Night val", "Night val"),
    ],
)
def test_usual_split(name, usual):
    assert usual_split(name) == usual


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_lines_of_any_encoding(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes("één\r\n\r\n  twee \n".encode(encoding))

    assert read_lines(tmp_path / "a.txt") == ["één", "twee"]


def test_listing_takes_what_it_is_asked_for(tmp_path):
    for name in ("b.JPG", "a.png", ".hidden.jpg", "c.txt", "sub/d.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "sub/loop").symlink_to(tmp_path)

    assert list_images(tmp_path) == ["a.png", "b.JPG"]
    assert list_images(tmp_path, deep=True) == ["a.png", "b.JPG", "sub/d.webp"]
    assert list_files(tmp_path, ".txt") == ["c.txt"]
    assert list_files(tmp_path / "absent", ".txt") == []


def test_a_link_to_itself_hides_nothing(tmp_path):
    for name in ("a.png", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "b.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "x").mkdir()

    assert list_images(tmp_path) == ["a.png", "b.png", "c.png"]
    assert list_folders(tmp_path) == ["x"]


def test_folders_are_found_in_any_case_and_those_of_archivers_are_none(tmp_path):
    for name in ("Images/Train", "images", "LABELS", "__MACOSX", ".git"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "Images/Train/a.jpg").touch()

    assert list_folders(tmp_path) == ["Images", "LABELS", "images"]
    assert list(find_folders(tmp_path, ("labels", "images", "IMAGES", "absent", "."))) == [
        *("LABELS", "images", "Images", "."),
    ]
    assert first_folder(tmp_path, ("labels", "Images/train"), ".jpg") == "Images/Train"


def test_files_by_stem_prefer_the_very_name(tmp_path):
    for name in ("a.jpg", "A.png", "B.JPEG", "ku\u0308hl.jpg", "c.txt"):
        (tmp_path / name).touch()

    images = FilesByStem(tmp_path, ".jpg", ".png", ".jpeg")

    assert [images.find(stem) for stem in ("a", "A", "b", "k\u00fchl", "c")] == [
        *("a.jpg", "A.png", "B.JPEG", "ku\u0308hl.jpg", None),
    ]


def test_sizes_of_unreadable_images_are_0(tmp_path, draw):
    draw(tmp_path / "a.png", (7, 9))

    assert read_sizes(tmp_path, ["a.png", "absent.png"]).tolist() == [[7, 9], [0, 0]]


def test_threads_keep_the_order():
    assert map_threads(lambda x: x * x, range(1000)) == [x * x for x in range(1000)]


@pytest.mark.parametrize(("waiting", "threads"), [(1e9, False), (4, True)])
def test_looks_are_taken_in_threads_where_they_wait(monkeypatch, waiting, threads):
    monkeypatch.setattr(files, "_LOOKS", 5)
    monkeypatch.setattr(files, "_WAITING", waiting)

    def look(item):
        time.sleep(0.002)
        return item, threading.current_thread() is threading.main_thread()

    looks = map_looks(look, range(20))

    assert [item for item, _ in looks] == list(range(20))
    assert [here for _, here in looks] == [True] * 5 + [not threads] * 15


def test_flat_names_have_stems_of_their_own():
    files = ["x/a.jpg", "y/a.jpg", "a.png", "y_a.png", "B.jpg", "z/b.jpg"]

    names = flat_names(files)

    assert names == ["a.jpg", "y_a.jpg", "a_2.png", "y_a_2.png", "B.jpg", "z_b.jpg"]


def test_no_stem_of_flat_names_is_another_of_them():
    assert flat_names(["a.jpg.png", "a.jpg", "b.jpg", "B.JPG.png"]) == [
        *("a.jpg.png", "a_2.jpg", "b.jpg", "B.JPG_2.png")
    ]


def test_flat_names_are_never_hidden_ones():
    files = [".a.jpg", "..a.png", ".h/a.jpg", ".jpg", "a.b.jpg"]

    assert flat_names(files) == ["a.jpg", "a_2.png", "h_a.jpg", "_.jpg", "a.b.jpg"]


@pytest.mark.parametrize(
    ("value", "text"), [(3.0, "3"), (0.1, "0.1"), (-2.5, "-2.5"), (1e300, "1e+300")]
)
def test_decimal(value, text):
    assert decimal(value) == text
    assert float(text) == value


def test_a_folder_is_listed_once_within_the_block_and_anew_after_it(tmp_path):
    (tmp_path / "a.txt").touch()
    with listing_once():
        assert list_files(tmp_path, ".txt") == ["a.txt"]
        (tmp_path / "b.txt").touch()
        with listing_once():
            assert list_files(tmp_path, ".txt") == ["a.txt"]

    assert list_files(tmp_path, ".txt") == ["a.txt", "b.txt"]

from __future__ import annotations

from pathlib import Path

import pytest

from dhcli.errors import DataError
from dhcli.inference.locate_images import find_images, other_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a/1.jpg", "a/2.PNG", "b/1.jpg", "b/deep/3.tif", "b/scan", "b/.hid/4.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "root", "names"),
    [
        (["a"], "a", ["1.jpg", "2.PNG"]),
        (["."], ".", ["a/1.jpg", "a/2.PNG", "b/1.jpg", "b/deep/3.tif"]),
        (["a/1.jpg"], "a", ["1.jpg"]),
        (["a/1.jpg", "b/1.jpg"], ".", ["a/1.jpg", "b/1.jpg"]),
        (["b/deep", "b/1.jpg"], "b", ["deep/3.tif", "1.jpg"]),
        (["a/1.jpg", "a", "a/../a/1.jpg"], "a", ["1.jpg", "2.PNG"]),
        (["b/scan"], "b", ["scan"]),  # a file named by hand is taken at its word
        (["*/1.*"], ".", ["a/1.jpg", "b/1.jpg"]),
        (["b/*.*"], "b", ["1.jpg"]),  # a pattern is not
        (["b/**/*.tif"], "b/deep", ["3.tif"]),
    ],
)
def test_inputs_become_names_below_the_folder_that_holds_them_all(
    tree: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], root: str, names: list[str]
) -> None:
    monkeypatch.chdir(tree)

    found = find_images(inputs)

    assert found.root == (tree / root).resolve()
    assert list(found.names) == names


def test_results_of_an_earlier_run_are_left_out(tree: Path) -> None:
    (tree / "a/out/drawn").mkdir(parents=True)
    (tree / "a/out/drawn/1.jpg").touch()

    found = find_images([str(tree / "a")], skip=tree / "a/out")

    assert list(found.names) == ["1.jpg", "2.PNG"]


def test_a_list_stands_for_its_images(tree: Path) -> None:
    (tree / "b/list.txt").write_text("../a/1.jpg\n\ndeep/3.tif\n")

    found = find_images([str(tree / "b/list.txt")])

    assert [(found.root / name).resolve() for name in found.names] == [
        (tree / "a/1.jpg").resolve(),
        (tree / "b/deep/3.tif").resolve(),
    ]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_begin_with_a_mark_of_its_encoding(tree: Path, encoding: str) -> None:
    (tree / "b/list.txt").write_bytes("../a/1.jpg\r\ndeep/3.tif\r\n".encode(encoding))

    assert len(find_images([str(tree / "b/list.txt")]).names) == 2


def test_videos_in_folders_are_named(tree: Path) -> None:
    (tree / "a/deep").mkdir()
    (tree / "a/deep/clip.MOV").touch()

    assert other_files([str(tree / "a"), str(tree / "b/1.jpg")]) == ["deep/clip.MOV"]


def test_a_name_with_brackets_is_no_pattern(tree: Path) -> None:
    (tree / "a/x[1].jpg").touch()

    assert list(find_images([str(tree / "a/x[1].jpg")]).names) == ["x[1].jpg"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (["absent.jpg"], "absent.jpg: no such image or folder"),
        (["b/*.gif"], "no image matches this pattern"),
        (["b/.hid/../notes"], "no such image"),
        (["empty"], "empty: no images found"),
        (["list.txt"], r"list\.txt:2: no such image: b/9\.jpg"),
        (["x.json"], r"x\.json: is a \.json file, not an image"),
        (["clip.MP4"], r"clip\.MP4: is a video"),
    ],
)
def test_what_is_not_there_is_an_error(
    tree: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], said: str
) -> None:
    monkeypatch.chdir(tree)
    (tree / "empty").mkdir()
    (tree / "list.txt").write_text("a/1.jpg\nb/9.jpg\n")
    (tree / "x.json").touch()
    (tree / "clip.MP4").touch()

    with pytest.raises(DataError, match=said):
        find_images(inputs)

"""How files lie, whatever is in them; and what floating point leaves of boxes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dhcli.data.formats import FORMATS, imagenet, read_dataset, write_dataset
from dhcli.data.formats.boxes import from_centre, from_decimals, from_xywh, to_xywh
from dhcli.data.formats.columns import Columns
from dhcli.data.formats.layouts import FilePerImage, FilePerSplit, Part
from dhcli.data.formats.placing import Placing
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag
from dhcli.errors import DataError

Lay = Callable[..., Path]
Files = dict[str, str]


def is_ours(path: Path) -> bool:
    return path.suffix == ".boxes" and path.read_text().startswith("ours")


def read_names(root: Path, path: Path) -> DetectionTable:
    columns = Columns(root, path)
    columns.image(path.read_text().split()[1])
    columns.locate()
    return columns.table(columns.classes_after())


READ_BELOW = {"imagenet", "labelme-web", "mot"}
"""Formats whose annotations lie in folders of any name."""

SPLIT = FilePerSplit("*.boxes", (".boxes",), is_ours)


def test_a_file_per_split_is_found_and_named_by_its_split(lay: Lay) -> None:
    files = {"train.boxes": "ours a.jpg", "val.boxes": "ours b.jpg", "x.boxes": "theirs"}
    root = lay(files, "a.jpg", "b.jpg")

    table = SPLIT.read(root, read_names, "Boxes")

    assert SPLIT.sniff(root)
    assert SPLIT.sniff(root / "val.boxes")
    assert not SPLIT.sniff(root / "x.boxes")
    assert {name: images.tolist() for name, images in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }
    assert list(SPLIT.read(root / "val.boxes", read_names, "Boxes").files) == ["b.jpg"]


def test_files_of_other_images_that_name_no_split_are_one_dataset(lay: Lay) -> None:
    root = lay({"x.boxes": "ours a.jpg", "y.boxes": "ours b.jpg"}, "a.jpg", "b.jpg")

    table = SPLIT.read(root, read_names, "Boxes")

    assert (sorted(table.files), dict(table.splits)) == (["a.jpg", "b.jpg"], {})
    assert table.notes == ("2 files with different images, read as one dataset",)


@pytest.mark.parametrize("other", [{"y.boxes": "ours a.jpg"}, {"train.boxes": "ours b.jpg"}])
def test_files_that_name_no_split_beside_others_are_an_error(lay: Lay, other: Files) -> None:
    root = lay({"x.boxes": "ours a.jpg", "z.boxes": "ours c.jpg", **other}, "a.jpg")

    with pytest.raises(DataError, match=r"do not say which split each is: x\.boxes") as caught:
        SPLIT.read(root, read_names, "Boxes")

    assert caught.value.hint is not None
    assert f"dh convert {root}/x.boxes {root}/" in caught.value.hint


def test_splits_may_have_any_name_behind_a_prefix(lay: Lay) -> None:
    layout = FilePerSplit("*.boxes", (".boxes",), is_ours, prefix="my_")
    files = {"my_day.boxes": "ours a.jpg", "my_val2017.boxes": "ours b.jpg"}
    root = lay(files, "a.jpg", "b.jpg")

    assert list(layout.read(root, read_names, "Boxes").splits) == ["day", "val"]
    (root / "my_val2017.boxes").unlink()
    assert not layout.read(root, read_names, "Boxes").splits


def test_a_stricter_rule_holds_in_folders_unless_nothing_keeps_to_it(lay: Lay) -> None:
    layout = FilePerSplit("*.boxes", (".boxes",), is_ours, in_folder=lambda _: False)
    root = lay({"train.boxes": "ours a.jpg"}, "a.jpg")

    assert not layout.sniff(root)
    assert [file.name for file in layout.files(root)] == ["train.boxes"]


def test_a_folder_without_files_is_an_error_that_says_what_was_looked_for(lay: Lay) -> None:
    with pytest.raises(DataError, match="holds no Boxes file") as caught:
        SPLIT.read(lay({"x.boxes": "theirs"}), read_names, "Boxes")

    assert caught.value.hint == "looked for *.boxes (Boxes)"


def test_a_file_per_image_is_read_alone_or_with_its_part(lay: Lay) -> None:
    root = lay({"labels/a.boxes": "ours", "labels/b.boxes": "ours"})
    layout = FilePerImage(
        "labels/*.boxes",
        is_ours,
        lambda root: [Part("", "labels", ".")] if (root / "labels").is_dir() else [],
        lambda path: (path.parent.parent, [Part("", "labels", ".", [path.name])]),
    )

    def names(path: Path) -> list[str]:
        found, (part,) = layout.files(path)
        assert found == root
        return list(part.files(found, ".boxes"))

    assert layout.sniff(root)
    assert not layout.sniff(root / "labels")
    assert names(root) == ["a.boxes", "b.boxes"]
    assert names(root / "labels/b.boxes") == ["b.boxes"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_says_once_what_is_looked_for(format: str) -> None:
    each = FORMATS[format]

    assert each.looks_for == f"{each.layout.looks_for} ({each.title})"
    assert each.title not in each.layout.looks_for


def test_a_box_of_no_class_is_a_region_and_scores_may_be_text(tmp_path: Path) -> None:
    columns = Columns(tmp_path)
    columns.add_image("a.jpg", 40, 30)

    columns.add("cat", (1, 2, 3, 4), Flag.OCCLUDED.value, 1, score="0,5")
    columns.add("DontCare", (1, 2, 3, 4), 0, 2, score=1)

    table = columns.table(columns.classes_after())
    assert table.labels.tolist() == [0, ANY_CLASS]
    assert table.flags.tolist() == [Flag.OCCLUDED, Flag.IGNORE]
    assert table.scores is not None
    assert table.scores.tolist() == [0.5, 1]


def test_decimals_come_back() -> None:
    assert from_xywh(10.1, 1, 0.2, 1)[2] == 10.1 + 0.2 != 10.3
    assert from_decimals(10.1, 1, 0.2, 1) == (10.1, 1, 10.3, 2)
    assert to_xywh(from_xywh(10.1, 1, 0.2, 1)) == (10.1, 1, 0.2, 1)
    assert from_centre(10.05, 1, 0.1, 2) == (10, 0, 10.1, 2)


@pytest.mark.parametrize("format", sorted({*FORMATS} - READ_BELOW))
def test_folders_with_annotations_below_those_read_are_named(
    sample: DetectionTable, tmp_path: Path, format: str
) -> None:
    out = tmp_path / "out"
    write_dataset(replace(sample, splits={}), out, format)
    before = read_dataset(out)
    file = Path(before.image_extras["annotation"][0])
    for folder in (file.parent / "more", file.parent / "empty"):
        (out / folder).mkdir()
    shutil.copy(out / file, out / file.parent / "more" / file.name)

    table = read_dataset(out, format=format)

    told = f"1 folder with files of {FORMATS[format].title} beside those read: left out: "
    assert f"{told}{(file.parent / 'more').as_posix()}" in table.notes
    assert list(table.files) == list(before.files)
    assert not [note for note in before.notes if note.startswith(told)]


@pytest.mark.parametrize("format", ["voc", "labelme", "createml"])
def test_folders_beside_those_of_splits_are_named(
    sample: DetectionTable, tmp_path: Path, format: str
) -> None:
    for name in ("train", "car", "bus"):
        write_dataset(replace(sample, splits={}), tmp_path / name, format)
        for each in (tmp_path / name).rglob("*"):
            if each.is_file():
                each.rename(tmp_path / name / each.name)

    table = read_dataset(tmp_path, format=format)

    assert list(table.splits) == ["train"]
    (note,) = (note for note in table.notes if "left out: " in note)
    assert "bus" in note
    assert "car" in note


@pytest.mark.parametrize(
    ("other", "splits"), [("car", []), ("val", ["train", "val"]), ("all", ["train"])]
)
def test_imagenets_folder_of_a_class_called_as_a_split_is_none(
    sample: DetectionTable, tmp_path: Path, other: str, splits: list[str]
) -> None:
    own = {"train": np.array([0, 1]), other: np.array([2])}
    table = replace(sample, splits=own)
    imagenet.write_imagenet(table, Placing(table, tmp_path / "out", "copy"))

    table = read_dataset(tmp_path / "out")

    assert (table.format, len(table), sorted(table.splits)) == ("imagenet", 3, splits)

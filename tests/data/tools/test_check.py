"""What is wrong with a dataset: found, named, mended."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dhcli.data.formats import read_dataset
from dhcli.data.strings import Strings
from dhcli.data.table import ANY_CLASS, SOURCE, Flag, make_table
from dhcli.data.tools.check import check_table
from dhcli.data.tools.mend import mend_for_training
from dhcli.data.tools.scan import scan_images
from dhcli.errors import DataError


def check(table, *, decode=False):
    """Everything found wrong with a dataset, its images looked at or, with `decode`, decoded."""
    return check_table(table, scan_images(table, decode=decode))


@pytest.fixture
def dataset(tmp_path, rng):
    """A function from each image's boxes (label, x1, y1, x2, y2) to a table; 40 × 30 pixels."""

    def make(*images, kind="jpg", classes=("cat", "dog"), **columns):
        rows = [row for image in images for row in image]
        files = [f"{number}.{kind}" for number in range(len(images))]
        for file in files:
            pixels = rng.integers(0, 255, (30, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / file)
        counts = [len(image) for image in images]
        boxes, labels = [row[1:] for row in rows], [row[0] for row in rows]
        sizes = [[40, 30]] * len(images)
        return make_table(tmp_path, files, sizes, counts, boxes, labels, classes, **columns)

    return make


def mend(table, on_bad_image="error"):
    return mend_for_training(table, scan_images(table, decode=False), on_bad_image=on_bad_image)


GOOD = [(0, 0, 0, 40, 30), (1, 1, 2, 3, 4)]


def codes(findings):
    return Counter(finding.code for finding in findings)


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp"])
def test_a_sound_dataset_has_no_findings(dataset, kind):
    table = dataset(GOOD, GOOD[1:], kind=kind)

    assert check(table, decode=True) == []
    mended, findings = mend(table)
    assert findings == []
    np.testing.assert_array_equal(mended.boxes, table.boxes)


@pytest.mark.parametrize(
    ("box", "code", "severity", "kept"),
    [
        ((5, 5, 5, 9), "box-empty", "error", None),
        ((5, 5, 9, 5), "box-empty", "error", None),
        ((9, 7, 5, 3), "box-inverted", "error", [5, 3, 9, 7]),
        ((np.nan, 5, 5, 9), "box-not-finite", "error", None),
        ((0, 0, np.inf, 9), "box-not-finite", "error", None),
        ((40, 0, 50, 9), "box-outside", "error", None),
        ((5, -9, 9, 0), "box-outside", "error", None),
        ((5, 5, 6, 9), "box-thin", "warning", None),
        ((-1, 2, 45, 31), "box-over-edge", "warning", [0, 2, 40, 30]),
        ((-0.3, 2, 40.5, 9), None, None, [0, 2, 40, 9]),
    ],
)
def test_boxes_are_judged_and_mended(dataset, box, code, severity, kept):
    table = dataset(GOOD, [(1, *box)])

    found = check(table)
    mended, findings = mend(table)

    assert [(f.code, f.severity) for f in found] == ([(code, severity)] if code else [])
    assert findings == found
    if code:
        assert found[0].where == "1.jpg, box 1"
        assert found[0].what.startswith("`dog` [")
    assert mended.boxes[2:].tolist() == ([kept] if kept else [])
    assert len(mended) == 2


def test_duplicate_boxes_are_named_and_kept(dataset):
    table = dataset([GOOD[1], GOOD[0], GOOD[1], (0, *GOOD[1][1:])], GOOD)

    findings = check(table)

    assert [(f.code, f.where) for f in findings] == [("box-duplicate", "0.jpg, box 3")]
    assert len(mend(table)[0].boxes) == 6


def test_an_unknown_class_becomes_a_region_to_ignore(dataset):
    flags = np.array([0, 0, 0, Flag.IGNORE], np.uint8)
    table = dataset([*GOOD, (ANY_CLASS, 9, 9, 20, 20), (ANY_CLASS, 1, 1, 9, 9)], flags=flags)

    mended, findings = mend(table)

    assert codes(findings) == {"class-unknown": 1}
    assert mended.has(Flag.IGNORE).tolist() == [False, False, True, True]


def damage_missing(path):
    path.unlink()


def damage_empty(path):
    path.write_bytes(b"")


def damage_end(path):
    path.write_bytes(path.read_bytes()[:-300])


def damage_kind(path):
    path.write_text("not an image")


def damage_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (damage_missing, "image-missing"),
        (damage_empty, "image-unreadable"),
        (damage_end, "image-unreadable"),
        (damage_kind, "image-unreadable"),
        (damage_pipe, "image-unreadable"),
    ],
)
def test_bad_images_are_named_stop_or_are_left_out(dataset, damage, code, kind):
    splits = {"train": np.array([2, 0, 1]), "val": np.array([1])}
    table = replace(dataset(GOOD, GOOD, GOOD[:1], kind=kind), splits=splits)
    damage(table.path(1))

    found = [f for f in check(table) if f.code.startswith("image")]
    assert [(f.code, f.severity, f.where) for f in found] == [(code, "error", f"1.{kind}")]
    with pytest.raises(DataError, match=rf"1\.{kind}") as caught:
        mend(table)
    assert "data.on_bad_image=skip" in caught.value.hint

    mended, findings = mend(table, "skip")
    assert codes(findings) == {code: 1, "split-leak": 1}
    assert list(mended.files) == [f"0.{kind}", f"2.{kind}"]
    assert np.diff(mended.offsets).tolist() == [2, 1]
    assert {k: v.tolist() for k, v in mended.splits.items()} == {"train": [1, 0], "val": []}


def test_data_after_the_end_mark_is_no_damage(dataset):
    table = dataset(GOOD)
    with table.path(0).open("ab") as file:
        file.write(b"\0" * 10_000)

    assert check(table) == []


def test_damage_in_the_middle_needs_decoding(dataset):
    table = dataset(GOOD, kind="png")
    content = bytearray(table.path(0).read_bytes())
    content[len(content) // 2] ^= 0xFF
    table.path(0).write_bytes(content)

    assert check(table) == []
    assert codes(check(table, decode=True)) == {"image-unreadable": 1}


def test_sizes_that_differ_are_named_and_the_images_own_counts(dataset):
    sizes = np.array([[40, 30], [30, 40], [0, 0], [41, 31]], np.int32)
    table = replace(dataset(GOOD, GOOD[1:], GOOD[1:], [(0, 0, 0, 41, 30)]), sizes=sizes)

    mended, findings = mend(table)

    assert [(f.code, f.where) for f in findings] == [
        *[("image-size", "1.jpg"), ("image-size", "3.jpg"), ("box-over-edge", "3.jpg, box 1")]
    ]
    assert findings[0].what == "annotated as 30×40, but is 40×30"
    assert mended.sizes.tolist() == [[40, 30]] * 4
    assert mended.boxes[-1].tolist() == [0, 0, 40, 30]


def test_an_image_in_two_splits_is_a_leak_but_not_of_trainval(dataset):
    splits = {
        "train": np.array([0, 1]),
        "trainval": np.array([0, 1, 2]),
        "val": np.array([1, 2]),
        "more": np.array([0]),
    }
    table = replace(dataset(GOOD, GOOD, GOOD), splits=splits)

    findings = check(table)

    assert [(f.code, f.severity, f.where, f.what) for f in findings] == [
        ("split-leak", "error", "1.jpg", "is in both `train` and `val`")
    ]


@pytest.mark.parametrize(("other", "code"), [("train", "image-duplicate"), ("test", "split-leak")])
def test_the_same_image_under_two_names(dataset, other, code):
    splits = {"train": np.array([0]), "test": np.array([2])}
    splits[other] = np.append(splits[other], 1)
    table = replace(dataset(GOOD, GOOD, GOOD), splits=splits)
    table.path(1).write_bytes(table.path(0).read_bytes())

    findings = check(table)

    assert [(f.code, f.where) for f in findings] == [(code, "1.jpg")]
    assert findings[0].what.startswith("is the same image as 0.jpg")


def test_classes_unused_or_spelt_alike(dataset):
    classes = ("Hot Dog", "cat", "hot_dog", "owl")
    table = dataset([(0, *GOOD[0][1:]), (1, *GOOD[1][1:]), (2, 3, 3, 9, 9)], classes=classes)

    findings = check(table)

    assert [(f.code, f.where) for f in findings] == [
        *[("class-unused", "class owl"), ("class-spelling", "class Hot Dog")]
    ]
    assert findings[1].what == "`Hot Dog`, `hot_dog` differ only in case or spacing"


def test_a_dataset_without_boxes_is_an_error(dataset):
    assert codes(check(dataset([], []))) == {"dataset-empty": 1, "class-unused": 2}


def test_boxes_of_unreadable_images_are_not_judged(dataset):
    table = dataset(GOOD, [(0, 5, 5, 5, 5)])
    damage_missing(table.path(1))

    assert codes(check(table)) == {"image-missing": 1}


def test_the_place_is_file_and_line_or_annotation(dataset):
    annotation = {"annotation": Strings.pack(["labels/0.txt"])}
    table = dataset([*GOOD, (0, 5, 5, 5, 5)], image_extras=annotation)

    in_text = replace(table, extras={"line": np.array([1, 3, 7])})

    assert check(in_text)[0].where == "labels/0.txt:7"
    assert check(table)[0].where == "labels/0.txt, annotation 3"


def test_mending_drops_the_text_of_annotations_only(dataset):
    extras = {SOURCE: Strings.pack(["{}", "{}"]), "truncation": np.zeros(2)}
    table = dataset(GOOD, extras=extras)

    assert list(mend(table)[0].extras) == ["truncation"]


def test_nothing_is_changed_in_place(dataset):
    table = dataset([*GOOD, (0, -5, 5, 50, 50)])
    before = table.boxes.copy(), table.sizes.copy(), table.flags.copy()

    check(table)
    mend(table, "skip")

    for column, was in zip((table.boxes, table.sizes, table.flags), before, strict=True):
        np.testing.assert_array_equal(column, was)


@pytest.mark.realdata
def test_bccds_two_boxes_without_area_are_found_and_named(realdata):
    table = read_dataset(realdata / "bccd")

    mended, findings = mend(table)

    assert [(f.code, f.where) for f in findings] == [
        ("box-empty", "Annotations/BloodImage_00338.xml:158"),
        ("box-empty", "Annotations/BloodImage_00343.xml:50"),
    ]
    assert len(mended.boxes) == 4886


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kitti_tiny", {"split-class": 1}),  # no Person_sitting in train
        ("coco_tiny_val80", {}),
        ("voc2007_real14", {"image-duplicate": 1}),
    ],
)
def test_the_other_real_datasets_have_their_own_flaws_only(realdata, name, expected):
    findings = check(read_dataset(realdata / name), decode=True)

    assert {k: v for k, v in codes(findings).items() if k != "class-unused"} == expected

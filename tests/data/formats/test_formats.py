"""Recognising, describing and writing datasets, whatever their format."""

import contextlib
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhcli.data.formats import FORMATS, describe, held, read_dataset, write_dataset
from dhcli.data.formats.placing import LEFT_OUT
from dhcli.data.io import progress
from dhcli.data.io.progress import watched_by
from dhcli.data.table import ANY_CLASS, UNREADABLE, Flag, Remark, make_table
from dhcli.errors import ConfigError, DataError, DhError

REGIONS = int(Flag.CROWD | Flag.IGNORE)


RENAMED = {
    "kitti": lambda name: name.replace(" ", "_"),
    "dota": lambda name: name.replace(" ", "-"),
    "widerface": lambda name: "face",
}
"""What formats make of a class name."""


def expected(told, format):
    """What is left of `told`, as the fixture `content` tells it, in a format that holds so much."""
    holds, rename = FORMATS[format].holds, RENAMED.get(format, lambda name: name)
    left = {}
    for stem, (size, *parts) in told.items():
        kept = []
        for name, box, flags in parts:
            region = flags & REGIONS or name is None
            if not region:
                kept.append((rename(name), box, flags & int(holds.marks)))
            elif not holds.regions:
                kept.append((name, box, flags))
            elif holds.regions != LEFT_OUT:
                kept.append(("region", box))
        if kept or holds.empty:
            left[stem] = [size, *kept]
    return left


def as_held(told, format):
    """`told` of a dataset that was read, with regions as `expected` has them."""
    if FORMATS[format].holds.regions:
        told = {
            stem: [size, *(("region", p[1]) if p[2] & REGIONS else p for p in parts)]
            for stem, (size, *parts) in told.items()
        }
    return told


def anonymous(told):
    """`told` without the names of images, which MOT numbers anew."""
    return sorted(told.values(), key=repr)


@pytest.mark.parametrize("format", FORMATS)
def test_a_written_dataset_is_recognised_and_equal(sample, tmp_path, content, splits, format):
    write_dataset(sample, tmp_path / "out", format)

    table = read_dataset(tmp_path / "out")

    assert table.format == format
    assert not [note for note in table.notes if "could be read as" in note]
    assert all(table.path(image).is_file() for image in range(len(table)))
    told, wanted = as_held(content(table), format), expected(content(sample), format)
    if format == "mot":
        assert anonymous(told) == anonymous(wanted)
        assert {name: len(stems) for name, stems in splits(table).items()} == {"train": 2, "val": 1}
    else:
        assert told == wanted
        lists = {"train": ["a", "b"], "val": ["c"]}
        held = {name: [stem for stem in stems if stem in wanted] for name, stems in lists.items()}
        assert splits(table) == {name: stems for name, stems in held.items() if stems}


@pytest.mark.parametrize("format", FORMATS)
def test_what_a_format_does_not_hold_is_counted(sample, tmp_path, format):
    holds = FORMATS[format].holds
    table = replace(
        sample,
        classes=(*sample.classes, "unused"),
        category_ids=np.array([3, 17, 18]),
        scores=np.linspace(0.1, 0.9, 5),
        splits={"train": np.array([0, 1]), "test": np.array([0, 2])},
        extras={"track": np.arange(5)},
    )

    lost = write_dataset(table, tmp_path / "out", format)

    said = "\n".join(lost)
    assert ("scores: not kept" in said) == (not holds.scores)
    assert ("1 class without boxes: not listed" in said) == (not holds.classes)
    assert ("1 image in several splits: kept in the smallest" in said) == (not holds.splits)
    assert bool(re.search("images? without boxes: not listed", said)) == (not holds.empty)
    assert ("tracks of 5 boxes: not kept" in said) == ("track" not in holds.columns)
    assert ("to ignore (crowd, ignored, of no class)" in said) == bool(holds.regions)
    again = table
    if format != "coco":
        again = read_dataset(tmp_path / "out", format=format, predictions=True)
    assert (again.scores is None) == (not holds.scores)
    assert ("unused" in again.classes) == holds.classes
    assert ("track" in again.extras) == ("track" in holds.columns or format == "coco")


@pytest.mark.parametrize("format", FORMATS)
def test_sizes_without_images_are_kept_or_said_to_be_lost(sample, tmp_path, format):
    sizes = FORMATS[format].holds.sizes

    lost = write_dataset(sample, tmp_path / "out", format, images="none")

    said = "sizes of 3 images: not kept, and the files are left out"
    assert (said in lost) == (not sizes)
    if sizes:
        known = read_dataset(tmp_path / "out").sizes
        assert known.all()


HOLD_ALL = [name for name, each in FORMATS.items() if not each.holds.regions]


@pytest.mark.parametrize("format", HOLD_ALL)
def test_formats_that_hold_every_mark_and_region(sample, tmp_path, content, format):
    sample = sample.take_images(np.array([0, 2]))

    lost = write_dataset(sample, tmp_path / "out", format)

    assert content(read_dataset(tmp_path / "out")) == content(sample)
    assert lost == ()


def test_kitti_turns_regions_into_dont_care_and_says_so(sample, tmp_path):
    lost = write_dataset(sample, tmp_path / "out", "kitti")

    table = read_dataset(tmp_path / "out")
    regions = table.labels == ANY_CLASS
    assert regions.tolist() == [False, False, False, True, True]
    assert table.has(Flag.IGNORE).tolist() == regions.tolist()
    assert lost == (
        "1 class written otherwise: `hot dog` as `hot_dog`",
        "1 region to ignore (crowd, ignored, of no class): written as DontCare",
        "1 mark `difficult`: not kept",
    )


def test_yolo_counts_what_it_leaves_out(sample, tmp_path):
    lost = write_dataset(sample, tmp_path / "out", "yolo")

    assert len(read_dataset(tmp_path / "out").boxes) == 3
    assert lost == (
        "2 regions to ignore (crowd, ignored, of no class): left out",
        "1 mark `difficult`: not kept",
        "1 mark `truncated`: not kept",
        "1 mark `occluded`: not kept",
    )


SCORED = [name for name, each in FORMATS.items() if each.holds.scores and name != "coco"]


@pytest.mark.parametrize("format", SCORED)
def test_scores_are_written_and_read_back(sample, tmp_path, format):
    objects = sample.keep_boxes(sample.flags & REGIONS == 0)
    scored = replace(objects, scores=np.array([0.25, 1 / 3, 1.0]))
    write_dataset(scored, tmp_path / "out", format, images="copy")

    table = read_dataset(tmp_path / "out", predictions=True)

    np.testing.assert_allclose(table.scores, [0.25, 1 / 3, 1.0], atol=1e-12)


@pytest.mark.parametrize("format", SCORED)
def test_boxes_with_scores_are_ground_truth_unless_told_otherwise(sample, tmp_path, format):
    objects = sample.keep_boxes(sample.flags & REGIONS == 0)
    scored = replace(objects, scores=np.array([0.25, 1 / 3, 1.0]))
    write_dataset(scored, tmp_path / "scored", format)

    table = read_dataset(tmp_path / "scored")
    write_dataset(table, tmp_path / "coco", "coco")

    assert table.scores is None
    assert [
        note
        for note in table.notes
        if note.startswith("score of 3 boxes: left out of the ground truth")
    ]
    names = sorted(path.name for path in (tmp_path / "coco").rglob("*.json"))
    assert names == ["instances_train.json", "instances_val.json"]


@pytest.mark.parametrize("format", FORMATS)
def test_overlapping_splits_and_images_in_none_survive(sample, tmp_path, splits, format):
    holds = FORMATS[format].holds
    lists = {"train": np.array([0, 1]), "trainval": np.array([0, 1]), "test": np.array([0])}
    lost = write_dataset(replace(sample, splits=lists), tmp_path / "out", format)

    table = read_dataset(tmp_path / "out")

    told = {name: len(images) for name, images in splits(table).items()}
    train = 2 if holds.empty else 1
    if holds.splits:
        assert told == {"train": train, "trainval": train, "test": 1}
    else:
        assert told == {"test": 1, "train": 1}
        assert "2 images in several splits: kept in the smallest" in lost
    if format == "yolo":  # whose lists name all the images there are
        assert lost[-1] == "1 image in no split: in no list"
    else:
        alone = holds.empty or holds.regions != LEFT_OUT  # an image with regions alone
        assert len(table) == train + alone


NAMES = {
    "hidden": [".a.jpg", "a.jpg", ".h/b.jpg", "__MACOSX/c.jpg"],
    "two suffixes": ["x.jpg.jpg", "x.txt.jpg", "x.bmp", "y.jpg", "y.jpg.png", "z.png.jpg"],
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", NAMES)
def test_images_of_any_name_come_back_with_their_boxes(tmp_path, draw, format, kind):
    files = NAMES[kind]
    sizes = [(40 + index, 30) for index in range(len(files))]
    for file, size in zip(files, sizes, strict=True):
        draw(tmp_path / "source" / file, size)
    boxes = [[1, 2, 10 + 4 * index, 20] for index in range(len(files))]
    counts, labels = np.ones(len(files), np.int64), np.zeros(len(files), np.int64)
    table = make_table(tmp_path / "source", files, sizes, counts, boxes, labels, ("face",))
    *most, last = range(len(files))
    splits = {"train": np.array(most), "val": np.array([last])}
    write_dataset(replace(table, splits=splits), tmp_path / "out", format)

    back = read_dataset(tmp_path / "out")

    sides = back.sizes[back.image_of_box, 0].tolist()
    assert {name: len(rows) for name, rows in back.splits.items()} == {"train": last, "val": 1}
    assert len(back) == len(files)
    assert sorted(zip(sides, back.boxes[:, 2].round().tolist(), strict=True)) == [
        (width, box[2]) for (width, _), box in zip(sizes, boxes, strict=True)
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_a_failed_conversion_leaves_nothing(sample, tmp_path, monkeypatch, format):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dhcli.data.formats.placing.shutil.copyfile", fail)

    with pytest.raises(DhError, match="No space left"):
        write_dataset(sample, tmp_path / "out", format)

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_images_are_linked_or_left_out(sample, tmp_path):
    write_dataset(sample, tmp_path / "linked", "voc", images="link")
    write_dataset(sample, tmp_path / "bare", "voc", images="none")

    linked = tmp_path / "linked/JPEGImages/a.jpg"
    assert linked.is_symlink()
    assert linked.resolve() == sample.path(0).resolve()
    assert not (tmp_path / "bare/JPEGImages").exists()
    assert len(read_dataset(tmp_path / "bare").boxes) == 5


def test_missing_images_are_counted_not_fatal(sample, tmp_path):
    sample.path(1).unlink()

    lost = write_dataset(sample, tmp_path / "out", "coco")

    assert "1 image missing: not copied" in lost


def test_boxes_that_are_not_finite_are_left_out_and_counted(sample, tmp_path):
    boxes = sample.boxes.copy()
    boxes[1, 2] = np.nan

    lost = write_dataset(replace(sample, boxes=boxes), tmp_path / "out", "coco")

    assert len(read_dataset(tmp_path / "out").boxes) == 4
    assert lost == ("1 box with a coordinate that is not finite: left out",)


def test_an_existing_destination_is_not_touched(sample, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("kept")

    with pytest.raises(DhError, match="already exists"):
        write_dataset(sample, tmp_path / "out", "coco")

    assert (tmp_path / "out/mine.txt").read_text() == "kept"


def test_writing_does_not_change_the_table(sample, tmp_path):
    before = sample.boxes.copy(), sample.flags.copy(), sample.box_ids.copy()

    for format in FORMATS:
        write_dataset(sample, tmp_path / format, format)

    for column, was in zip((sample.boxes, sample.flags, sample.box_ids), before, strict=True):
        np.testing.assert_array_equal(column, was)


def test_an_unknown_folder_says_what_was_looked_for_and_found(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "letter.doc").touch()

    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path)

    assert "it holds notes/, letter.doc" in caught.value.what
    for name in ("Annotations/*.xml", "label_2", "annotations/*.json", "data.yaml"):
        assert name in caught.value.hint


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", "", "it is empty"),
        ("a.json", "[]", "it is a JSON list (detections?)"),
        ("a.json", "{}", "it is a .json file"),
        ("a.jpg", "no matter", "it holds 1 image and no annotations"),
    ],
)
def test_what_is_no_dataset_is_told_in_a_few_words(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, "utf-8")

    with pytest.raises(DataError) as caught:
        read_dataset(tmp_path if name == "a.jpg" else tmp_path / name)

    assert caught.value.what.endswith(said)


def test_a_folder_in_a_folder_is_found(sample, tmp_path):
    write_dataset(sample, tmp_path / "zip/VOCdevkit/VOC2007", "voc")

    (tmp_path / "zip/README.md").touch()
    (tmp_path / "zip/__MACOSX/VOCdevkit").mkdir(parents=True)
    (tmp_path / "zip/scripts").mkdir()

    table = read_dataset(tmp_path / "zip")

    assert table.root == tmp_path / "zip/VOCdevkit/VOC2007"
    assert "found in VOCdevkit/VOC2007" in table.notes


def test_a_dataset_beside_others_is_not_taken_for_all(sample, tmp_path):
    write_dataset(sample, tmp_path / "kit/a", "voc")
    write_dataset(sample, tmp_path / "b", "coco", images="none")
    (tmp_path / "b/annotations/instances_train.json").rename(tmp_path / "kit/a/b.json")

    with pytest.raises(DataError, match="holds no COCO file"):
        read_dataset(tmp_path / "kit", format="coco")
    assert read_dataset(tmp_path / "kit").format == "voc"


def test_several_datasets_in_a_folder_are_named(sample, tmp_path):
    write_dataset(sample, tmp_path / "kit/a", "voc")
    write_dataset(sample, tmp_path / "kit/b", "coco")

    with pytest.raises(DataError, match="holds several datasets: a, b") as caught:
        read_dataset(tmp_path / "kit")

    assert "dh convert" in caught.value.hint


def test_a_list_of_detections_is_no_dataset(tmp_path):
    (tmp_path / "results.json").write_text("[]")

    with pytest.raises(DataError, match=r"a JSON list \(detections\?\)"):
        read_dataset(tmp_path / "results.json")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"format": "pascal"}, "unknown format `pascal`"),
        ({"voc_offset": "2"}, "voc_offset is one of"),
        ({"voc_offset": "1"}, "voc_offset is for Pascal VOC"),
    ],
)
def test_settings_that_cannot_be_used(sample, tmp_path, options, said):
    write_dataset(sample, tmp_path / "out", "coco")

    with pytest.raises(ConfigError, match=said):
        read_dataset(tmp_path / "out", **options)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(DataError, match="no such dataset"):
        read_dataset(tmp_path / "absent")


@pytest.mark.parametrize("format", FORMATS)
def test_a_dataset_without_images_is_an_error(tmp_path, format):
    for folder in ("Annotations", "annotations", "training/label_2", "images", "labels"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    with pytest.raises(DataError):
        read_dataset(tmp_path, format=format)


FILES = {
    "voc": "Annotations/c.xml",
    "imagenet": "Annotations/DET/val/c.xml",
    "labelme-web": "Annotations/val/c.xml",
    "kitti": "training/label_2/c.txt",
    "coco": "annotations/instances_val.json",
    "datumaro": "annotations/val.json",
    "via": "via_val.json",
    "label-studio": "label_studio_val.json",
    "createml": "val/_annotations.createml.json",
    "supervisely": "val/ann/c.jpg.json",
    "labelme": "val/c.json",
    "cvat": "annotations.xml",
    "openimages": "val-annotations-bbox.csv",
    "csv": "val_labels.csv",
    "retinanet": "val_annotations.csv",
    "automl": "automl.csv",
    "makesense": "labels_val.csv",
    "keras-yolo": "val/_annotations.txt",
    "imagefolder": "val/metadata.jsonl",
    "crowdhuman": "annotation_val.odgt",
    "scalabel": "labels/det_val.json",
    "ground-truth": "val.manifest",
    "dota": "val/labelTxt/c.txt",
    "mot": "val/pictures/gt/gt.txt",
    "visdrone": "val/annotations/c.txt",
    "widerface": "wider_face_split/wider_face_val_bbx_gt.txt",
    "yolo": "labels/val/c.txt",
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "empty"])
def test_what_is_no_file_is_refused_or_left_out(sample, tmp_path, format, kind):
    write_dataset(sample, tmp_path / "out", format)
    path = tmp_path / "out" / FILES[format]
    path.unlink()
    {"pipe": os.mkfifo, "folder": Path.mkdir, "empty": Path.touch}[kind](path)

    with contextlib.suppress(DataError):
        # A reader that lists what it looks for finds the other files alone.
        table = read_dataset(tmp_path / "out", format=format)
        assert len(table) < 3 or (kind != "pipe" and len(table.boxes) < 5)


@pytest.mark.parametrize("format", FORMATS)
def test_folders_that_lie_within_themselves_end(sample, tmp_path, content, format):
    root = tmp_path / "out"
    write_dataset(sample, root, format)
    before = content(read_dataset(root))
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / "loop").symlink_to(root)

    assert content(read_dataset(root, format=format)) == before


def test_describe_tells_all_that_is_held(sample):
    text = describe(replace(sample, format="coco", notes=("one thing",)))

    assert text == (
        "COCO, 3 images, 5 boxes, 2 classes (cat 2, hot dog 2), splits train 2, val 1; "
        "boxes: 1 of no class, 1 crowd, 1 difficult, 1 truncated, 1 occluded\n  one thing"
    )


def test_describe_names_the_first_row_that_cannot_be_read(sample):
    remarks = (
        Remark("image-unannotated", "a.jpg", "is listed"),
        Remark(UNREADABLE, "a.csv:2", "expected 6 columns, found 2"),
        Remark(UNREADABLE, "a.csv:9", "expected 6 columns, found 3"),
    )

    lines = describe(replace(sample, remarks=remarks)).splitlines()

    assert lines[1:] == [
        "  2 rows that cannot be read, left out: a.csv:2: expected 6 columns, found 2 "
        "(`dh check` lists all)"
    ]


REAL = {
    "bccd": ("voc", 364, 4888, {"RBC": 4155, "WBC": 372, "Platelets": 361}),
    "kitti_tiny": (
        "kitti",
        75,
        499,
        {"Car": 209, "Pedestrian": 36, "Van": 25, "Cyclist": 14, "Truck": 10}
        | {"Tram": 9, "Person_sitting": 5, "Misc": 3, None: 188},
    ),
    "coco_tiny_val80": ("coco", 80, 815, None),
    "voc2007_real14": ("voc", 14, 43, None),
}


@pytest.mark.realdata
@pytest.mark.parametrize("name", REAL)
def test_real_datasets_hold_what_is_known_of_them(realdata, name):
    format, images, boxes, classes = REAL[name]

    table = read_dataset(realdata / name)

    assert (table.format, len(table), len(table.boxes)) == (format, images, boxes)
    assert all(table.path(image).is_file() for image in range(images))
    if classes:
        labels = [None if k == ANY_CLASS else table.classes[k] for k in table.labels.tolist()]
        assert {name: labels.count(name) for name in set(labels)} == classes


@pytest.mark.realdata
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", REAL)
def test_real_datasets_survive_every_format(realdata, tmp_path, content, splits, name, format):
    table = read_dataset(realdata / name)
    write_dataset(table, tmp_path / "out", format, images="link")

    again = read_dataset(tmp_path / "out")

    told, wanted = as_held(content(again), format), expected(content(table), format)
    if format == "mot":
        told = dict(enumerate(anonymous(told)))
        wanted = dict(enumerate(anonymous(wanted)))
    else:
        kept = {
            name: [stem for stem in stems if stem in wanted]
            for name, stems in splits(table).items()
            if FORMATS[format].holds.splits or name != "trainval"  # all in train or val
        }
        assert splits(again) == kept
    assert told.keys() == wanted.keys()
    for stem, (size, *parts) in wanted.items():
        assert told[stem][0] == size
        for (name, box, *marks), (name2, box2, *marks2) in zip(told[stem][1:], parts, strict=True):
            assert (name, marks) == (name2, marks2)
            assert box == pytest.approx(box2, abs=1e-6)


@pytest.mark.realdata
def test_voc_coco_and_yolo_of_the_same_images_agree_where_voc_counts_from_0(realdata, content):
    folder = realdata / "voc2007_real14"
    coco, yolo = read_dataset(folder / "voc_coco_demo.json"), read_dataset(folder, format="yolo")

    voc = read_dataset(folder, voc_offset="0")

    limits = np.tile(voc.sizes, 2)[voc.image_of_box] - 1
    clipped = replace(voc, boxes=np.minimum(voc.boxes, limits))  # as the others are
    expected = {k: sorted(part[:2] for part in v[1:]) for k, v in content(clipped).items()}
    assert {k: sorted(p[:2] for p in v[1:]) for k, v in content(coco).items()} == expected
    for image in range(len(voc)):  # YOLO has 32 of the 43
        for box in yolo.boxes[yolo.rows(image)]:
            assert np.abs(clipped.boxes[voc.rows(image)] - box).max(axis=1).min() < 1e-3
    assert len(yolo.boxes) == 32
    counted_from_1 = read_dataset(folder)
    np.testing.assert_array_equal(counted_from_1.boxes - voc.boxes, [[-1, -1, 0, 0]] * 43)


def test_formats_load_no_torch():
    code = (
        "import sys, dhcli.data.formats, dhcli.data.tools.check, dhcli.data.tools.split;"
        "print([m for m in ('torch', 'albumentations', 'matplotlib') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


@pytest.mark.parametrize("format", ["voc", "yolo", "kitti", "dota", "labelme", "supervisely"])
def test_reading_a_file_an_image_says_how_far_it_is(sample, tmp_path, format):
    write_dataset(sample, tmp_path / "out", format)
    told = []

    with watched_by(lambda *step: told.append(step)):
        table = read_dataset(tmp_path / "out")

    assert {what for what, _, _ in told} <= {"annotation files read", "looking at files"}
    steps = [(done, total) for what, done, total in told if what == "annotation files read"]
    assert {done for done, _ in steps} == {0}
    assert sum(total for _, total in steps) == len(table)


@pytest.mark.parametrize("format", FORMATS)
def test_writing_says_how_far_it_is(sample, tmp_path, format):
    told = []

    with watched_by(lambda *step: told.append(step)):
        write_dataset(sample, tmp_path / "out", format)

    assert {"images put into their place", "annotations written"} <= {what for what, _, _ in told}


@pytest.mark.parametrize(
    ("format", "suffix"),
    [(f, ".json") for f in ("coco", "datumaro", "via", "createml", "label-studio", "scalabel")]
    + [(f, ".csv") for f in ("csv", "openimages", "retinanet")]
    + [("mot", ".txt"), ("keras-yolo", ".txt"), ("cvat", ".xml"), ("imagefolder", ".jsonl")]
    + [("makesense", ".csv"), ("crowdhuman", ".odgt"), ("ground-truth", ".manifest")],
)
def test_reading_one_large_file_says_how_far_it_is(sample, tmp_path, monkeypatch, format, suffix):
    monkeypatch.setattr(progress, "LARGE", 1)
    write_dataset(sample, tmp_path / "out", format)
    told = []

    with watched_by(lambda *step: told.append(step)):
        read_dataset(tmp_path / "out")

    shares = [done / total for what, done, total in told if what.endswith(suffix)]
    assert shares
    assert 0 < max(shares) <= 1


@pytest.mark.parametrize("format", ["coco", "via", "datumaro"])
def test_splits_of_any_name_come_back(sample, tmp_path, format):
    own = replace(sample, splits={"learn": np.array([0, 1]), "look": np.array([2])})
    write_dataset(own, tmp_path / "out", format)

    table = read_dataset(tmp_path / "out")

    assert {name: len(images) for name, images in table.splits.items()} == {"learn": 2, "look": 1}


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_out_of_the_dataset_are_copied_if_asked(tmp_path, what, rng):
    root, private = tmp_path / "in", tmp_path / "private"
    (root / "labels").mkdir(parents=True)
    private.mkdir()
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    Image.new("RGB", (20, 10)).save(private / "a.png")
    if what == "file":
        (root / "images").mkdir()
        (root / "images/a.png").symlink_to(private / "a.png")
    else:
        (root / "images").symlink_to(private)
    table = read_dataset(root)

    lost = write_dataset(table, tmp_path / "out", "yolo")
    followed = write_dataset(table, tmp_path / "followed", "yolo", follow=True)

    assert "images/a.png" in lost[-1]
    assert "--follow-links" in lost[-1]
    assert not list((tmp_path / "out").rglob("*.png"))
    assert followed == ()
    assert len(list((tmp_path / "followed").rglob("*.png"))) == 1


def test_links_within_the_dataset_are_copied(tmp_path):
    root = tmp_path / "in"
    (root / "labels").mkdir(parents=True)
    (root / "images").mkdir()
    (root / "labels/a.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    Image.new("RGB", (20, 10)).save(root / "store.png")
    (root / "images/a.png").symlink_to("../store.png")
    (tmp_path / "link").symlink_to(root)

    assert write_dataset(read_dataset(tmp_path / "link"), tmp_path / "out", "yolo") == ()
    assert len(list((tmp_path / "out").rglob("*.png"))) == 1


def test_fractions_of_an_image_that_is_not_there_are_not_written(tmp_path):
    boxes = [[1, 1, 9, 9], [100, 100, 900, 900]]
    table = make_table(tmp_path, ["a.png", "b.png"], [[20, 20], [0, 0]], [1, 1], boxes, [0, 0], "c")

    for format in ("yolo", "openimages", "automl", "label-studio"):
        lost = write_dataset(table, tmp_path / format, format)

        assert (
            "1 image of unknown size, which fractions need, left out with its boxes: b.png" in lost
        )
        assert list(held(table, format).files) == ["a.png"]
        assert len(held(table, format).boxes) == 1
    [line] = [line for line in write_dataset(table, tmp_path / "coco", "coco") if "size" in line]
    assert line == "1 image of unknown size: written as 0×0: b.png"


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_counted_is_what_is_there(format, tmp_path, sample):
    write_dataset(sample, tmp_path / "out", format)

    written, there = held(sample, format), read_dataset(tmp_path / "out")

    assert len(written.boxes) == len(there.boxes)
    assert len(written) == len(there)


def test_a_table_without_boxes_loses_no_columns(tmp_path, sample):
    table = replace(sample, extras={"location": np.zeros((len(sample.boxes), 3))})
    none = table.keep_boxes(np.zeros(len(table.boxes), np.bool_))

    assert not [line for line in write_dataset(none, tmp_path / "out", "coco") if "3-D" in line]

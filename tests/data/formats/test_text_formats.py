"""DOTA, MOT, WIDER FACE and ImageNet as their makers published them; darknet's YOLO."""

from dataclasses import replace

import numpy as np
import pytest

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.table import ANY_CLASS, Flag
from dhcli.errors import DataError

DOTA = """imagesource:GoogleEarth
gsd:0.146343590398
10.0 10.0 30.0 10.0 30.0 20.0 10.0 20.0 small-vehicle 1
12.0 2.0 22.0 7.0 20.0 11.0 10.0 6.0 large-vehicle 0
1 2 3 2 3 4 1 4 plane
"""


def test_dota_corners_become_upright_boxes(lay):
    files = {"train/labelTxt/P0000.txt": DOTA, "val/labelTxt/P0003.txt": ""}

    table = read_dataset(lay(files, "train/images/P0000.png", "val/images/P0003.png"))

    assert table.format == "dota"
    assert list(table.files) == ["train/images/P0000.png", "val/images/P0003.png"]
    assert table.boxes.tolist() == [[10, 10, 30, 20], [10, 2, 22, 11], [1, 2, 3, 4]]
    assert table.flags.tolist() == [Flag.DIFFICULT, 0, 0]
    assert table.extras["line"].tolist() == [3, 4, 5]
    assert "1 box askew: read as the upright box around" in table.notes
    assert {name: images.tolist() for name, images in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }


@pytest.mark.parametrize("labels", ["annfiles", "labelTxt-v1.5/DOTA-v1.5_train_hbb", "LABELTXT"])
def test_dota_folders_called_otherwise(lay, labels):
    table = read_dataset(lay({f"train/{labels}/P0.txt": DOTA}, "train/images/P0.png"))

    assert (table.format, len(table.boxes)) == ("dota", 3)
    assert list(table.files) == ["train/images/P0.png"]


MOT = """1,1,1,1,40,30,1,1,1
2,1,11.5,2,10,20,1,1,0.4
2,-1,5,5,10,10,0,8,1
4,2,3,3,5,5,1,3,1
"""
INFO = """[Sequence]
name=MOT17-02-FRCNN
imDir=img1
frameRate=30
seqLength=3
imWidth=40
imHeight=30
imExt=.jpg
"""


def test_mot_counts_pixels_from_1(lay):
    base = "train/MOT17-02-FRCNN"
    images = [f"{base}/img1/{frame:06d}.jpg" for frame in (1, 2, 3)]

    table = read_dataset(lay({f"{base}/gt/gt.txt": MOT, f"{base}/seqinfo.ini": INFO}, *images))

    assert table.format == "mot"
    assert list(table.files) == [*images, f"{base}/img1/000004.jpg"]
    assert table.sizes.tolist() == [[40, 30]] * 4
    assert table.offsets.tolist() == [0, 1, 3, 3, 4]
    assert table.boxes[:2].tolist() == [[0, 0, 40, 30], [10.5, 1, 20.5, 21]]
    assert table.classes == ("car", "distractor", "pedestrian")
    assert table.flags.tolist() == [0, Flag.OCCLUDED, Flag.IGNORE, 0]
    assert table.extras["track"].tolist() == [1, 1, -1, 2]
    assert table.extras["visibility"].tolist() == [1, 0.4, 1, 1]
    assert list(table.splits) == ["train"]


def test_mot_with_labels_of_its_own(lay):
    files = {"gt/gt.txt": "1,1,1,1,4,3,1,2,1\n", "gt/labels.txt": "cat\ndog\n"}

    table = read_dataset(lay(files, "img1/000001.jpg"))

    assert (table.classes, table.labels.tolist()) == (("cat", "dog"), [1])
    with pytest.raises(DataError, match="class 3 is not one of the 2"):
        read_dataset(lay({"gt/gt.txt": "1,1,1,1,4,3,1,3,1\n"}))


def test_mot_names_images_that_are_no_frames(lay):
    files = {"gt/gt.txt": "1,1,1,1,4,3,1,2,1\n", "gt/labels.txt": "cat\ndog\n"}

    table = read_dataset(lay(files, "img1/000001.jpg", "img1/cover.jpg"))

    assert list(table.files) == ["img1/000001.jpg"]
    assert table.notes == ("1 image not called by a number: left out: img1/cover.jpg",)


VISDRONE = """2,3,10,12,1,4,0,1
20,5,8,9,0,1,0,0,
0,0,6,6,0,0,0,0
1,1,5,5,0,11,1,2
"""


def test_visdrone_regions_to_ignore_and_degrees(lay):
    base = "VisDrone2019-DET"
    files = {f"{base}-train/annotations/1.txt": VISDRONE, f"{base}-val/annotations/2.txt": ""}

    table = read_dataset(lay(files, f"{base}-train/images/1.jpg", f"{base}-val/images/2.jpg"))

    assert table.format == "visdrone"
    assert list(table.files) == [f"{base}-train/images/1.jpg", f"{base}-val/images/2.jpg"]
    assert table.boxes[:2].tolist() == [[2, 3, 12, 15], [20, 5, 28, 14]]
    assert (table.classes[3], len(table.classes)) == ("car", 10)
    assert table.labels.tolist() == [3, 0, ANY_CLASS, ANY_CLASS]
    both = Flag.IGNORE | Flag.TRUNCATED | Flag.OCCLUDED
    assert table.flags.tolist() == [Flag.OCCLUDED, Flag.IGNORE, Flag.IGNORE, both]
    assert table.extras["occlusion"].tolist() == [1, 0, 0, 2]
    assert "1 box of `others`: a region to ignore" in table.notes
    assert {name: images.tolist() for name, images in table.splits.items()} == {
        "train": [0],
        "val": [1],
    }


def test_visdrone_is_written_with_its_own_numbers(lay, tmp_path):
    root = lay({"annotations/1.txt": VISDRONE}, "images/1.jpg")

    write_dataset(read_dataset(root), tmp_path / "out", "visdrone")

    assert not (tmp_path / "out/classes.txt").exists()
    assert (tmp_path / "out/annotations/1.txt").read_text().splitlines() == [
        *("2,3,10,12,1,4,0,1", "20,5,8,9,0,1,0,0", "0,0,6,6,0,0,0,0", "1,1,5,5,0,0,1,2")
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,2,3,4,1,12,0,0", "category 12 is not one of the 10"),
        ("1,2,3,4,1,1.5,0,0", "category 1.5 is not one of the 10"),
        ("1,2,3,4,1,4,0", "expected 8 columns, found 7"),
        ("1,2,3,x,1,4,0,0", "a column that is not a number: `x`"),
    ],
)
def test_visdrone_rows_that_cannot_be_read_are_named(lay, unreadable, row, said):
    root = lay({"annotations/1.txt": f"1,2,3,4,1,4,0,0\n{row}\n"}, "images/1.jpg")

    table = read_dataset(root)

    (remark,) = unreadable(table)
    assert remark.startswith("annotations/1.txt:2: ")
    assert said in remark
    assert len(table.boxes) == 1


WIDER = """0--Parade/0_Parade_a.jpg
2
5 6 10 12 2 0 0 0 0 0
20 3 8 9 0 0 0 1 2 0
0--Parade/0_Parade_none.jpg
0
0 0 0 0 0 0 0 0 0 0
1--Handshaking/1_b.jpg
1
0 0 40 30 0 0 0 0 1 0
"""


def test_wider_face_invalid_faces_and_images_of_none(lay):
    names = ("0--Parade/0_Parade_a", "0--Parade/0_Parade_none", "1--Handshaking/1_b")
    images = [f"WIDER_val/images/{name}.jpg" for name in names]

    table = read_dataset(lay({"wider_face_split/wider_face_val_bbx_gt.txt": WIDER}, *images))

    assert table.format == "widerface"
    assert list(table.files) == images
    assert table.offsets.tolist() == [0, 2, 2, 3]
    assert table.boxes.tolist() == [[5, 6, 15, 18], [20, 3, 28, 12], [0, 0, 40, 30]]
    assert table.flags.tolist() == [0, Flag.IGNORE | Flag.OCCLUDED, Flag.OCCLUDED]
    assert table.extras["occlusion"].tolist() == [0, 2, 1]
    assert table.classes == ("face",)
    assert list(table.splits) == ["val"]


def test_wider_face_images_of_none_without_a_line_of_zeros(lay):
    text = WIDER.replace("0 0 0 0 0 0 0 0 0 0\n", "")

    assert len(read_dataset(lay({"wider_face_val_bbx_gt.txt": text}))) == 3


IMAGENET = """<annotation>
  <folder>n01440764</folder><filename>n01440764_18</filename>
  <source><database>ILSVRC_2012</database></source>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  <object><name>n01440764</name><pose>Unspecified</pose><truncated>0</truncated>
    <difficult>0</difficult>
    <bndbox><xmin>0</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>
</annotation>
"""


@pytest.mark.parametrize(
    ("annotations", "images", "split"),
    [
        ("Annotations/CLS-LOC/train/n01440764", "Data/CLS-LOC/train/n01440764", "train"),
        ("ILSVRC/Annotations/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "val"),
        ("Annotation/n01440764", "Images/n01440764", ""),
    ],
)
def test_imagenet_folders(lay, annotations, images, split):
    files = {f"{annotations}/n01440764_18.xml": IMAGENET}

    table = read_dataset(lay(files, f"{images}/n01440764_18.JPEG"))

    assert table.format == "imagenet"
    assert table.path(0).is_file()
    assert table.boxes.tolist() == [[0, 3, 20, 30]]
    assert table.classes == ("n01440764",)
    assert list(table.splits) == ([split] if split else [])
    assert table.notes[0].startswith("pixels counted from 0")


def test_imagenet_takes_the_offset_of_voc(lay):
    root = lay({"Annotations/n1/a.xml": IMAGENET.replace(">0<", ">5<")}, "Images/n1/a.jpg")

    assert read_dataset(root).boxes.tolist() == [[4, 2, 20, 30]]
    assert read_dataset(root, voc_offset="0").boxes.tolist() == [[5, 3, 20, 30]]


def test_darknet_tells_of_lists_by_where_it_was(lay):
    files = {
        "obj.data": "classes = 2\ntrain = data/train.txt\nvalid = data/test.txt\n"
        "names = data/obj.names\nbackup = backup/\n",
        "obj.names": "cat\ndog\n",
        "train.txt": "data/obj_train_data/a.jpg\n",
        "test.txt": "data/obj_train_data/b.jpg\n",
        "obj_train_data/a.txt": "1 0.5 0.5 0.25 0.5\n",
    }
    root = lay(files, "obj_train_data/a.jpg", "obj_train_data/b.jpg")

    for path in (root, root / "obj.data"):
        table = read_dataset(path)

        assert table.format == "yolo"
        assert table.classes == ("cat", "dog")
        assert list(table.files) == ["obj_train_data/a.jpg", "obj_train_data/b.jpg"]
        assert table.boxes.tolist() == [[15, 7.5, 25, 22.5]]
        assert {name: i.tolist() for name, i in table.splits.items()} == {"train": [0], "val": [1]}


BAD = {
    "dota": ("labelTxt/a.txt", "1 2 3 4 5 6 7 8\n", "expected 8 numbers, a class"),
    "mot": ("gt/gt.txt", "0,1,1,1,4,3,1,1,1\n", "expected frame, id, left"),
    "widerface": ("a_bbx_gt.txt", "a.jpg\n3\n1 2 3\n", "expected 10 columns, or 4, found 3"),
}


@pytest.mark.parametrize("format", BAD)
def test_a_bad_line_is_named(lay, format):
    file, text, said = BAD[format]

    with pytest.raises(DataError, match=said) as caught:
        read_dataset(lay({file: text}), format=format)

    assert f"{file}:" in caught.value.where


CSV = "filename,class,xmin,ymin,xmax,ymax\n"
IMAGE_IDS = "ImageID,LabelName,XMin,XMax,YMin,YMax\n"
DAMAGED = {
    "dota": ("labelTxt/a.txt", "1 1 9 1 9 9 1 9 car 0\n1 1 9 1 9 9 1 9\n", ["2"]),
    "mot": ("gt/gt.txt", "1,1,1,1,4,3,1,1,1\n1,1,x,1,4,3,1,1,1\n1,1\n", ["2", "3"]),
    "visdrone": ("annotations/a.txt", "1,2,3,4,1,4,0,0\n1,2\n1,2,3,4,1,99,0,0\n", ["2", "3"]),
    "retinanet": ("a.csv", "a.jpg,1,2,3,4,cat\na.jpg,1,x,3,4,cat\nb.jpg,1\n", ["2", "3"]),
    "csv": ("a.csv", f"{CSV}a.jpg,cat,1,2,3,4\nb.jpg,cat,x,2,3,4\nb.jpg,1\n", ["3", "4"]),
    "makesense": ("a.csv", "cat,1,2,3,4,a.jpg,40,30\ncat,1,x,3,4,b.jpg,40,30\ncat,1\n", ["2", "3"]),
    "keras-yolo": ("a.txt", "a.jpg 1,2,3,4,0\nb.jpg 1,2,3,4,0 1,2,e,4,0\nb.jpg,\n", ["2", "3"]),
    "automl": ("a.csv", "a.jpg,cat,0,0,,,1,1,,\nb.jpg,cat,0,x,,,1,1,,\n", ["2"]),
    "openimages": ("a.csv", f"{IMAGE_IDS}a,cat,0,1,0,1\nb,cat,0,x,0,1\nb,cat\n", ["3", "4"]),
    "widerface": ("a_bbx_gt.txt", "a.jpg\n2\n1 2 3 4\n1 2 x 4\nb.jpg\n1\n1 2\n", ["4", "7"]),
}


@pytest.mark.parametrize("format", DAMAGED)
def test_bad_rows_are_left_out_and_all_named(lay, unreadable, tmp_path, format):
    file, text, lines = DAMAGED[format]
    folder = {"mot": "img1", "dota": "images", "visdrone": "images"}.get(format, ".")
    image = "000001" if format == "mot" else "a"
    root = lay({f"in/{file}": text}, f"in/{folder}/{image}.jpg") / "in"

    table = read_dataset(root, format=format)

    assert [remark.split(": ")[0] for remark in unreadable(table)] == [f"{file}:{n}" for n in lines]
    assert len(table.boxes) == len(table) == 1  # an image without a row that is read is left out
    write_dataset(table, tmp_path / "out", format)
    assert not read_dataset(tmp_path / "out", format=format).remarks


FIRST = {
    "mot": ("train/pictures/gt/gt.txt", "1,1,x"),
    "retinanet": ("train_annotations.csv", "<<<<<<< HEAD"),
    "csv": ("train_labels.csv", "pictures/a.jpg,40"),
    "makesense": ("labels_train.csv", "cat,1,2,3"),
    "keras-yolo": ("train/_annotations.txt", "a.jpg 1,2"),
    "automl": ("automl.csv", '"TRAIN,images/a.jpg,cat'),
    "openimages": ("train-annotations-bbox.csv", '"a,xclick,cat'),
    "widerface": ("wider_face_split/wider_face_train_bbx_gt.txt", "x.jpg\nmany"),
    "crowdhuman": ("annotation_train.odgt", '{"ID": "a", "gtboxes": ['),
    "ground-truth": ("train.manifest", "}"),
    "imagefolder": ("train/metadata.jsonl", '{"file_name": "a.jpg", '),
    "supervisely": ("train/ann/a.jpg.json", '{"objects": ['),
    "labelme": ("train/a.json", ""),
}
"""Files that tell of the split `train`, and what becomes of their first line."""


@pytest.mark.parametrize("format", FIRST)
def test_a_bad_first_row_does_not_lose_its_file(sample, tmp_path, unreadable, format):
    name, bad = FIRST[format]
    whole = replace(sample, splits={"train": np.array([0, 2]), "val": np.array([1])})
    write_dataset(whole, tmp_path / "out", format)
    file = tmp_path / "out" / name
    is_whole_file = file.suffix == ".json"
    lines = file.read_text().splitlines(keepends=True)
    at = int(format in ("csv", "openimages"))  # below the header
    after = [] if is_whole_file else lines[at:]
    file.write_text("".join([*lines[:at], bad, *([] if is_whole_file else ["\n"]), *after]))

    table = read_dataset(tmp_path / "out")

    assert table.format == format
    line = at + 1 + (format == "widerface")
    assert [told.partition(": ")[0] for told in unreadable(table)] == [f"{name}:{line}"]
    lost = 3 if is_whole_file else 0
    sound = read_dataset(write(whole, tmp_path / "sound", format))
    assert len(table.boxes) == len(sound.boxes) - lost
    assert len(table) == len(sound) - is_whole_file


def test_supervisely_without_objects_is_no_background(sample, tmp_path, unreadable):
    write_dataset(sample, tmp_path / "out", "supervisely")
    file = tmp_path / "out/train/ann/a.jpg.json"
    file.write_text(file.read_text().replace('"objects"', '"obejcts"'))

    table = read_dataset(tmp_path / "out")

    assert unreadable(table) == ["train/ann/a.jpg.json:1: has no `objects`"]
    assert "train/img/a.jpg" not in list(table.files)


def write(table, folder, format):
    write_dataset(table, folder, format)
    return folder


def test_a_file_of_a_split_that_is_none_is_named(sample, tmp_path):
    write_dataset(sample, tmp_path / "out", "retinanet")
    (tmp_path / "out/train_annotations.csv").write_bytes(b"\xff\xfe\x00<html>\n")

    table = read_dataset(tmp_path / "out")

    assert list(table.splits) == ["val"]
    assert table.notes == ("1 file not of keras-retinanet CSV: left out: train_annotations.csv",)


def test_frames_of_a_sequence_without_a_sound_row_are_no_background(sample, tmp_path):
    write_dataset(sample, tmp_path / "out", "mot")
    (tmp_path / "out/train/pictures/gt/gt.txt").write_text("\0\0\0\n")

    table = read_dataset(tmp_path / "out")

    assert list(table.files) == ["val/pictures/img1/000001.jpg"]
    assert "2 images of which no row can be read, left out" in table.notes[0]
    assert [remark.where for remark in table.remarks] == ["train/pictures/gt/gt.txt:1"]


WIDER_COUNTS = {
    "too large": ("a.jpg\n3\n1 2 3 4\nb.jpg\n1\n5 6 7 8\n", "2: ends before 3 faces: 1 are there"),
    "at the end": ("b.jpg\n1\n5 6 7 8\na.jpg\n3\n1 2 3 4", "5: ends before 3 faces: 1 are there"),
    "too small": (
        "a.jpg\n1\n1 2 3 4\n1 2 3 4\n1 2 3 4\nb.jpg\n1\n5 6 7 8\n",
        "5: expected the number of faces, found `1 2 3 4`",
    ),
    "none": ("c.jpg\na.jpg\n1\n1 2 3 4\nb.jpg\n1\n5 6 7 8\n", "2: expected the number of faces"),
}


@pytest.mark.parametrize("name", WIDER_COUNTS)
def test_wider_face_goes_on_behind_a_wrong_count(lay, unreadable, name):
    text, said = WIDER_COUNTS[name]

    root = lay({"a_bbx_gt.txt": text}, "a.jpg", "b.jpg")
    table = read_dataset(root / "a_bbx_gt.txt", format="widerface")

    (remark,) = unreadable(table)
    assert remark.startswith(f"a_bbx_gt.txt:{said}")
    assert sorted(table.boxes.tolist()) == [[1, 2, 4, 6], [5, 6, 12, 14]]


@pytest.mark.parametrize("text", ["nan", "inf", "1e308", "1e999"])
def test_numbers_that_are_none_of_pixels_are_left_to_the_check(lay, text):
    table = read_dataset(lay({"labelTxt/a.txt": f"{text} 2 3 2 3 4 1 4 car 0\n"}), format="dota")

    assert (len(table.boxes), ANY_CLASS in table.labels) == (1, False)


BACKGROUNDS_FIRST = {
    "kitti": ("labels", "Car 0 0 -1.57 1 2 9 9 1.5 1.6 3.7 2 1.5 9 -1.4\n"),
    "visdrone": ("annotations", "1,2,3,4,1,4,0,0\n"),
}


@pytest.mark.parametrize("format", BACKGROUNDS_FIRST)
def test_files_without_boxes_may_come_first(lay, format):
    folder, row = BACKGROUNDS_FIRST[format]
    files = {f"{folder}/{number:03}.txt": "" for number in range(25)}

    table = read_dataset(lay({**files, f"{folder}/900.txt": row}, "images/900.png"))

    assert (table.format, len(table), len(table.boxes)) == (format, 26, 1)

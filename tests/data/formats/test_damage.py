"""Damaged files: a reader gives a table or a DhError, never anything else."""

import random

import pytest

from dhcli.data.checks import check_table
from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.mend import mend_table
from dhcli.data.scan import scan_images
from dhcli.errors import DhError

FILES = {
    "imagenet": ("Annotations/DET/train/a.xml", "Annotations/DET/val/c.xml"),
    "datumaro": ("annotations/train.json", "annotations/val.json"),
    "via": ("via_train.json", "via_val.json"),
    "createml": ("train/_annotations.createml.json", "val/_annotations.createml.json"),
    "supervisely": ("train/ann/a.jpg.json", "meta.json"),
    "labelme": ("train/a.json", "val/c.json"),
    "cvat": ("annotations.xml", "annotations.xml"),
    "openimages": ("train-annotations-bbox.csv", "class-descriptions-boxable.csv"),
    "csv": ("train_labels.csv", "val_labels.csv"),
    "retinanet": ("train_annotations.csv", "classes.csv"),
    "dota": ("train/labelTxt/a.txt", "val/labelTxt/c.txt"),
    "mot": ("train/pictures/gt/gt.txt", "train/pictures/seqinfo.ini"),
    "widerface": ("wider_face_split/wider_face_train_bbx_gt.txt",) * 2,
    "voc": ("Annotations/a.xml", "ImageSets/Main/train.txt"),
    "kitti": ("training/label_2/a.txt", "train.txt"),
    "coco": ("annotations/instances_train.json", "annotations/instances_val.json"),
    "yolo": ("labels/train/a.txt", "data.yaml"),
}
ROUNDS = 100
PIECES = [
    *(b"NaN", b"Infinity", b"1e308", b"1e999", b"-1", b"0", b"null", b"true", b"9" * 25),
    *(b"[]", b"{}", b'""', b"[" * 200, b"<a>", b"<!DOCTYPE a>", b"&lt;", b"..", b"/", b"\\"),
    *(b"\xff\xfe", b"\x00", b"\xe9", b"\n", b" ", b",", b"\\ud800", b"a" * 300, b"../../etc"),
]


def damaged(data, dice):
    """`data` with a few bytes cut out, put in or changed."""
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        start = dice.randrange(len(changed) + 1)
        stop = start + dice.choice([0, 0, 1, 8])
        changed[start:stop] = dice.choice([b"", bytes([dice.randrange(256)]), dice.choice(PIECES)])
    return bytes(changed)


@pytest.mark.parametrize("format", FILES)
@pytest.mark.filterwarnings("error")
def test_damage_is_an_error_for_people(sample, tmp_path, format):
    folder, dice = tmp_path / "in", random.Random(0)
    write_dataset(sample, folder, format)
    sound, errors = 0, []

    for number in range(ROUNDS):
        path = folder / FILES[format][number % 2]
        data = path.read_bytes()
        path.write_bytes(damaged(data, dice))
        try:
            table = read_dataset(folder)
            check_table(table)
            mend_table(table, scan_images(table, decode=False), on_bad_image="skip")
            write_dataset(table, tmp_path / f"out{number}", format, images="none")
            sound += 1
        except DhError as error:
            errors.append(error)
        path.write_bytes(data)

    assert sound
    assert errors
    assert all(error.where for error in errors)

"""What is written is read by the programs it is written for, or by their published rules."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from dhcli.data.formats import read_dataset, write_dataset
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError

Label = tuple[str, float, float, float, float]


def read_as_ultralytics(file: Path) -> Mapping[str, Mapping[str, list[Label]]]:
    """Split → image → labels, by Ultralytics' rules for data.yaml.

    `train` and `val` are needed; a place is relative to `path`, or, without one, to the folder of
    the file; a list names images, `./` being its own folder; the label file lies where the last
    `/images/` of the image's path is `/labels/`; a line has five columns, fractions in 0…1.
    """
    told = yaml.safe_load(file.read_text("utf-8"))
    names = told["names"] if isinstance(told["names"], dict) else dict(enumerate(told["names"]))
    assert set(names) == set(range(len(names)))
    base = Path(told.get("path") or file.parent)
    splits = {}
    for split in ("train", "val", *(["test"] if "test" in told else [])):
        place = base / told[split]
        if place.is_dir():
            images = sorted(str(path) for path in place.rglob("*.*"))
        else:
            lines = place.read_text("utf-8").strip().splitlines()
            parent = f"{place.parent}/"
            images = [x.replace("./", parent, 1) if x.startswith("./") else x for x in lines]
        splits[split] = {Path(image).name: _labels_of(image, names) for image in images}
    return splits


def _labels_of(image: str, names: Mapping[int, str]) -> list[Label]:
    assert Path(image).is_file()
    file = Path("/labels/".join(image.rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
    rows = [line.split() for line in file.read_text().splitlines() if line]
    assert all(len(row) == 5 for row in rows)
    assert all(0 <= float(value) <= 1 for row in rows for value in row[1:])
    return [(names[int(row[0])], *map(float, row[1:])) for row in rows]


@pytest.mark.parametrize("overlapping", [False, True])
def test_written_yolo_works_by_ultralytics_rules_wherever_it_is_started(
    sample, tmp_path, monkeypatch, overlapping
):
    monkeypatch.chdir(tmp_path)
    if overlapping:
        sample = replace(sample, splits=dict(sample.splits) | {"test": np.array([0, 2])})

    write_dataset(sample, tmp_path / "images/out", "yolo")

    told = read_as_ultralytics(tmp_path / "images/out/data.yaml")
    assert told["train"]["b.png"] == []
    assert [name for name, *_ in told["train"]["a.jpg"]] == ["cat", "hot dog", "hot dog"]
    sides = [box for _, *box in told["train"]["a.jpg"]]
    whole = [[0.5, 0.5, 1, 1], [0.30625, 0.504167, 0.4125, 0.675], [0.05, 0.1, 0.05, 0.066667]]
    np.testing.assert_allclose(sides, whole, atol=1e-6)
    assert told["val"] == {"c.jpg": []}
    assert set(told) == {"train", "val", "test"} if overlapping else {"train", "val"}
    assert len(read_dataset(tmp_path / "images/out").boxes) == 3


def test_a_split_called_as_an_entry_of_data_yaml_is_refused(sample, tmp_path):
    with pytest.raises(DataError, match="a split cannot be called `names`"):
        write_dataset(replace(sample, splits={"names": np.array([0])}), tmp_path / "out", "yolo")


def test_written_coco_is_read_by_pycocotools(sample, tmp_path):
    from pycocotools.coco import COCO

    write_dataset(sample, tmp_path / "out", "coco")

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "out/annotations/instances_train.json"))
    [image] = coco.loadImgs(coco.getImgIds(imgIds=[7]))
    told = coco.loadAnns(coco.getAnnIds(imgIds=[7]))
    assert (image["width"], image["height"]) == (40, 30)
    assert [name["name"] for name in coco.loadCats(coco.getCatIds())] == ["cat", "hot dog"]
    assert [each["bbox"] for each in told] == [[0, 0, 40, 30], [4, 5, 16.5, 20.25], [1, 2, 2, 2]]
    assert len(coco.getAnnIds(catIds=[17])) == 2


def test_written_voc_is_read_by_torchvision(sample: DetectionTable, tmp_path):
    from torchvision.datasets import VOCDetection

    whole = replace(sample, boxes=np.round(sample.boxes))
    write_dataset(whole, tmp_path / "VOCdevkit/VOC2012", "voc")

    data = VOCDetection(str(tmp_path), year="2012", image_set="train")
    picture, told = data[0]
    objects = told["annotation"]["object"]
    assert len(data) == 2
    assert picture.size == (40, 30)
    assert [each["name"] for each in objects] == ["cat", "hot dog", "hot dog"]
    sides = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[int(each["bndbox"][side]) for side in sides] for each in objects]
    assert boxes == [[1, 1, 40, 30], [5, 6, 20, 25], [2, 3, 3, 4]]

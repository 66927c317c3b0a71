from __future__ import annotations

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from dhcli.inference.writers import (
    FORMATS,
    Place,
    Prediction,
    find_twins,
    write_coco_json,
    write_csv,
    write_kitti,
    write_voc,
    write_yolo,
)


def prediction(name: str = "a/1.jpg", boxes: int = 2) -> Prediction:
    """In an image 200 × 100: a dog at (10, 20)–(30, 60), a red <car> at (0, 0)–(200, 100)."""
    return Prediction(
        name,
        (200, 100),
        np.array([[10.0, 20, 30, 60], [0, 0, 200, 100]])[:boxes],
        np.array([0.9, 0.123456789])[:boxes],
        np.array([1, 0])[:boxes],
        np.zeros((100, 200, 3), np.uint8),
    )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path, ("red <car>", "dog"), (7, 42))


def test_coco_json_has_xywh_and_own_ids_and_names_them(place: Place) -> None:
    with write_coco_json(place) as write:
        write(prediction("a/1.jpg"))
        write(prediction("empty.jpg", boxes=0))
        write(prediction("b.jpg", boxes=1))

    rows = json.loads((place.folder / "predictions.bbox.json").read_text())
    assert rows == [
        {"image_id": "a/1.jpg", "category_id": 42, "bbox": [10, 20, 20, 40], "score": 0.9},
        {"image_id": "a/1.jpg", "category_id": 7, "bbox": [0, 0, 200, 100], "score": 0.123457},
        {"image_id": "b.jpg", "category_id": 42, "bbox": [10, 20, 20, 40], "score": 0.9},
    ]
    named = json.loads((place.folder / "categories.json").read_text(encoding="utf-8"))
    assert named["categories"] == [{"id": 7, "name": "red <car>"}, {"id": 42, "name": "dog"}]


def test_coco_json_of_nothing_is_an_empty_list(place: Place) -> None:
    with write_coco_json(place) as write:
        write(prediction(boxes=0))

    assert json.loads((place.folder / "predictions.bbox.json").read_text()) == []


def test_csv_has_a_line_a_detection(place: Place) -> None:
    with write_csv(place) as write:
        write(prediction('a "b", c.jpg'))

    with (place.folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert rows[0]["image"] == 'a "b", c.jpg'
    assert (rows[1]["class"], rows[1]["category_id"]) == ("red <car>", "7")
    assert [float(rows[0][key]) for key in ("score", "x1", "y1", "x2", "y2")] == [
        *(0.9, 10, 20, 30, 60)
    ]


def test_yolo_has_fractions_and_the_score_last(place: Place) -> None:
    with write_yolo(place) as write:
        write(prediction())

    lines = (place.folder / "yolo/a/1.txt").read_text().splitlines()
    assert lines[0] == "1 0.100000 0.400000 0.100000 0.400000 0.900000"
    assert lines[1] == "0 0.500000 0.500000 1.000000 1.000000 0.123457"
    assert (place.folder / "yolo/classes.txt").read_text() == "red <car>\ndog\n"


def test_kitti_has_sixteen_columns(place: Place) -> None:
    with write_kitti(place) as write:
        write(prediction())

    rows = [line.split() for line in (place.folder / "kitti/a/1.txt").read_text().splitlines()]
    assert [len(row) for row in rows] == [16, 16]
    assert rows[0][0] == "dog"
    assert rows[1][0] == "red_<car>"
    assert rows[0][4:8] == ["10.00", "20.00", "30.00", "60.00"]
    assert float(rows[0][15]) == 0.9


def test_voc_counts_from_one(place: Place) -> None:
    with write_voc(place) as write:
        write(prediction())

    root = ElementTree.parse(place.folder / "voc/a/1.xml").getroot()
    first, second = root.findall("object")
    assert (first.findtext("name"), second.findtext("name")) == ("dog", "red <car>")
    assert [float(part.text or "") for part in first.find("bndbox") or ()] == [11, 21, 30, 60]
    assert [float(part.text or "") for part in second.find("bndbox") or ()] == [1, 1, 200, 100]
    assert float(first.findtext("score") or "") == 0.9
    assert root.findtext("filename") == "1.jpg"
    assert root.findtext("size/width") == "200"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_name_that_is_no_text_can_be_written(place: Place, kind: str) -> None:
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")

    with FORMATS[kind](place) as write:
        write(prediction(name))

    assert any(path.is_file() for path in place.folder.rglob("*"))


@pytest.mark.parametrize("kind", ["coco-json", "csv"])
def test_a_run_that_fails_leaves_the_old_file(place: Place, kind: str) -> None:
    with FORMATS[kind](place) as write:
        write(prediction())
    before = {path: path.read_bytes() for path in place.folder.iterdir()}

    def fail() -> None:
        with FORMATS[kind](place) as write:
            write(prediction("other.jpg"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert {path: path.read_bytes() for path in place.folder.iterdir()} == before


def test_twins_keep_their_suffix(tmp_path: Path) -> None:
    names = ["a/1.jpg", "a/1.png", "b/1.jpg", "a/2.jpg"]

    place = Place(tmp_path, ("x",), (1,), find_twins(names))

    files = [place.file("yolo", name, ".txt").relative_to(tmp_path) for name in names]
    assert [str(file) for file in files] == [
        "yolo/a/1.jpg.txt",
        "yolo/a/1.png.txt",
        "yolo/b/1.txt",
        "yolo/a/2.txt",
    ]


def test_names_behind_names_have_files_of_their_own(tmp_path: Path) -> None:
    names = ["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.tif", "classes.jpg", "classes.jpg.png"]

    place = Place(tmp_path, ("x",), (1,), find_twins(names))

    assert len({place.file("yolo", name, ".txt") for name in names}) == len(names)


@pytest.mark.parametrize("stem", ["classes", "Classes", "labels", "names", "readme.dataset"])
def test_an_image_called_as_a_file_of_names_keeps_its_suffix(place: Place, stem: str) -> None:
    for write_kind in (write_yolo, write_kitti, write_voc):
        with write_kind(place) as write:
            write(prediction(f"{stem}.jpg"))
            write(prediction(f"a/{stem}.jpg"))

    for folder in ("yolo", "yolo/a", "kitti", "kitti/a"):
        label_file = place.folder / folder / f"{stem}.jpg.txt"
        assert len(label_file.read_text().splitlines()) == 2
    assert (place.folder / "yolo/classes.txt").read_text() == "red <car>\ndog\n"
    assert (place.folder / f"voc/{stem}.xml").exists()

"""`dh inspect` as people and programs see it."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.data.table import make_table
from dhcli.report.contact_sheet import GAP, LETTERS
from dhcli.report.dataset_pictures import choose_samples


def dh(*words):
    return CliRunner().invoke(app, ["inspect", *map(str, words)])


@pytest.fixture
def source(tmp_path):
    """A YOLO folder of three images; the last has no object."""
    for folder in ("images/train", "images/val", "labels/train", "labels/val"):
        (tmp_path / "in" / folder).mkdir(parents=True)
    rows = ("0 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.2\n", "0 0.5 0.5 0.2 0.2\n", "")
    for number, (split, row) in enumerate(zip(("train", "train", "val"), rows, strict=True)):
        Image.new("RGB", (80, 60), "teal").save(tmp_path / f"in/images/{split}/{number}.png")
        (tmp_path / f"in/labels/{split}/{number}.txt").write_text(row, "utf-8")
    names = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
    (tmp_path / "in/data.yaml").write_text(names, "utf-8")
    return tmp_path / "in"


def test_tables_tell_of_classes_sizes_and_splits(source):
    run = dh(source)

    assert run.exit_code == 0, run.output
    assert "3, 1 without objects" in run.stdout
    assert "80×60 3" in run.stdout
    rows = [line.split() for line in run.stdout.splitlines()]
    assert ["cat", "2", "0"] in rows
    assert ["images", "2", "1"] in rows


def test_names_of_classes_fit_into_80_columns(source):
    (source / "data.yaml").write_text("names: [Person_sitting, traffic light]\n", "utf-8")

    run = CliRunner().invoke(app, ["inspect", str(source)], env={"COLUMNS": "80"})

    assert "Person_sitting    " in run.stdout.split("in split")[0]
    assert "traffic light    " in run.stdout.split("in split")[0]


def test_json_is_one_document(source):
    told = json.loads(dh(source, "--json", "--split", "train").stdout)

    assert (told["images"], told["objects"]) == (2, 3)
    assert [(each["name"], each["objects"]) for each in told["classes"]] == [("cat", 2), ("dog", 1)]


def test_pictures_are_drawn_into_a_new_folder(source, tmp_path):
    (source / "images/train/1.png").write_bytes(b"no image")

    run = dh(source, "--out", tmp_path / "look")

    assert run.exit_code == 0, run.output
    sizes = {}
    for path in (tmp_path / "look").glob("*.png"):
        with Image.open(path) as picture:
            sizes[path.name] = picture.size
    assert set(sizes) == {"samples.png", "classes.png", "sizes.png", "centres.png"}
    assert min(min(size) for size in sizes.values()) > 100


def test_the_tables_lie_beside_the_pictures_as_a_page_with_every_class(source, tmp_path):
    names = ", ".join(["<b>cat", "dog", *(f"class {number}" for number in range(200))])
    (source / "data.yaml").write_text(f"names: [{names}]\n", "utf-8")

    run = dh(source, "--out", tmp_path / "look")

    assert run.exit_code == 0, run.output
    assert "statistics.html" in run.stderr
    assert "… and 102 more (--json)" in run.stdout
    page = (tmp_path / "look/statistics.html").read_text("utf-8")
    assert "<td>3, 1 without objects</td>" in page
    assert '<th scope="row">&lt;b&gt;cat</th><td class="number">2</td>' in page
    assert page.count('<th scope="row">class 199</th>') == 2  # classes, and splits


def test_regions_to_ignore_are_told_of_below_the_samples(source, tmp_path):
    heights = []
    for number, names in enumerate(("[cat, dog]", "[cat]")):  # a box of no class is a region
        (source / "data.yaml").write_text(f"names: {names}\n", "utf-8")
        dh(source, "--out", tmp_path / str(number))
        with Image.open(tmp_path / str(number) / "samples.png") as sheet:
            heights.append(sheet.height)

    assert heights[1] - heights[0] == LETTERS + 2 * GAP


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_boxes_beyond_all_numbers_are_drawn_and_are_no_objects(source, tmp_path):
    rows = ["image,class,x1,y1,x2,y2", "0.jpg,cat,10,20,1e308,30", "0.jpg,cat,1,2,1e-170,1e170"]
    Image.new("RGB", (80, 60), "teal").save(source.parent / "0.jpg")
    file = source.parent / "boxes.csv"
    file.write_text("\n".join([*rows, "0.jpg,cat,0,0,1e170,1e-170"]), "utf-8")

    run = dh(file, "--out", tmp_path / "look")

    assert run.exit_code == 0, run.output
    assert "objects            0" in run.stdout


def test_boxes_lie_where_the_image_files_have_them(source):
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = ["image,class,x1,y1,x2,y2,width,height", "0.jpg,cat,10,20,70,30,80,60"]
    folder = source.parent / "turned"
    folder.mkdir()
    Image.new("RGB", (80, 60), "teal").save(folder / "0.jpg", exif=exif)
    (folder / "boxes.csv").write_text("\n".join(rows), "utf-8")

    run = dh(folder, "--json")

    assert "warning: image-turned (1): " in run.stderr
    assert json.loads(run.stdout)["image_sizes"] == [[60, 80, 1]]


def test_a_split_that_is_not_there_is_named(source):
    run = dh(source, "--split", "test")

    assert run.exit_code == 3
    assert "the dataset has: train, val" in run.stderr


def test_samples_show_every_class_where_they_can(rng):
    labels = np.repeat([0, 1, 2], [50, 1, 1])
    boxes = [[0, 0, 5, 5]] * 52
    files = [f"{number}.png" for number in range(60)]
    table = make_table(
        "root", files, [[9, 9]] * 60, [1] * 52 + [0] * 8, boxes, labels, ("a", "b", "c")
    )

    chosen = choose_samples(table, 3, seed=0)

    assert set(table.labels[chosen].tolist()) == {0, 1, 2}
    assert choose_samples(table, 3, seed=0) == chosen
    assert len(choose_samples(table, 100, seed=0)) == 60

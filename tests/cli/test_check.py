"""`dh check` as people and programs see it."""

import json
import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.data.formats import read_dataset

XML = "<annotation><filename>{name}</filename>{objects}</annotation>"
OBJECT = (
    "<object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def dh(*words):
    return CliRunner().invoke(app, ["check", *map(str, words)])


@pytest.fixture
def source(tmp_path):
    """A VOC folder of two images with a sound box each."""
    root = tmp_path / "in"
    for name in ("Annotations", "JPEGImages"):
        (root / name).mkdir(parents=True)
    for number, colour in enumerate(("red", "green")):
        Image.new("RGB", (40, 30), colour).save(root / f"JPEGImages/{number}.png")
        spoil(root, number, (2, 3, 20, 20))
    return root


def spoil(root, number, *boxes):
    text = XML.format(name=f"{number}.png", objects="\n".join(OBJECT.format(*box) for box in boxes))
    (root / f"Annotations/{number}.xml").write_text(text, "utf-8")


def test_a_sound_dataset_exits_0(source):
    run = dh(source, "--decode")

    assert run.exit_code == 0, run.output
    assert run.stdout == f"{source}: no errors, no warnings\n"
    assert "Pascal VOC, 2 images, 2 boxes" in run.stderr


def test_errors_exit_1_and_are_named_with_file_and_line(source):
    spoil(source, 1, (2, 3, 20, 20), (5, 5, 5, 5))

    run = dh(source)

    assert run.exit_code == 1
    assert "error box-empty (1): a box has no area; in training: left out" in run.stdout
    assert "Annotations/1.xml:2: `cat` [5, 5, 5, 5] in JPEGImages/1.png has no area" in run.stdout
    assert "1 error, no warnings" in run.stdout


def test_warnings_alone_exit_0(source):
    spoil(source, 1, (2, 3, 90, 20))

    run = dh(source)

    assert run.exit_code == 0
    assert "warning box-over-edge (1)" in run.stdout


def test_few_are_shown_unless_all_are_asked_for(source):
    spoil(source, 1, *[(5, 5, 5, row) for row in range(5, 13)], (2, 3, 20, 20))

    few, everything = dh(source).stdout, dh(source, "--all").stdout

    assert "… and 3 more (--all)" in few
    assert few.count("Annotations/1.xml") == 5
    assert everything.count("Annotations/1.xml") == 8


def test_json_is_one_document_with_every_finding(source):
    spoil(source, 1, (2, 3, 20, 20), (5, 5, 5, 5))

    run = dh(source, "--json", "--preset", "small")

    told = json.loads(run.stdout)
    assert run.exit_code == 1
    first = told["findings"][0]
    assert (first["code"], first["severity"]) == ("box-empty", "error")
    assert first["fix"] == "left out"
    assert told["statistics"]["objects"] == 3  # a pixel wide by VOC's letter
    assert set(told["anchors"]) == {"cat"}


def test_fix_writes_a_new_dataset_and_what_it_did(source, tmp_path):
    spoil(source, 1, (2, 3, 20, 20), (5, 5, 5, 5))
    before = (source / "Annotations/1.xml").read_text("utf-8")

    run = dh(source, "--fix", tmp_path / "out")

    assert run.exit_code == 1  # of what was checked
    log = (tmp_path / "out/changes.log").read_text("utf-8")
    assert log.startswith("error box-empty Annotations/1.xml:2: `cat`")
    assert len(read_dataset(tmp_path / "out").boxes) == 2
    assert dh(tmp_path / "out").exit_code == 0
    assert (source / "Annotations/1.xml").read_text("utf-8") == before


def test_a_destination_that_is_there_is_left_alone(source):
    run = dh(source, "--fix", source)

    assert run.exit_code == 1
    assert run.stderr.startswith(f"error: {source}: already exists")
    assert not run.stdout  # it is said before the work


def test_what_is_no_dataset_exits_3(tmp_path):
    run = dh(tmp_path)

    assert (run.exit_code, run.stdout) == (3, "")


def test_anchors_fit_into_80_columns_beside_the_classes(source):
    run = CliRunner().invoke(
        app, ["check", str(source), "--preset", "small"], env={"COLUMNS": "80"}
    )

    assert re.search(r"^  cat( +–){4} +2 +2 +0\.\d+ +\d+ *$", run.stdout, re.MULTILINE), run.stdout


def test_anchors_are_compared_with_the_classes_to_learn_alone(source):
    run = dh(source, "--json", "--preset", "small", "--set", "data.classes=[cat]")

    assert list(json.loads(run.stdout)["anchors"]) == ["cat"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("bccd", 1, "error box-empty (2)"),
        ("voc2007_real14", 0, "is the same image as JPEGImages/000000.jpg"),
        ("kitti_tiny", 0, "class Person_sitting: none of its 5 boxes is in `train`"),
        ("coco_tiny_val80", 0, "no errors, no warnings"),
    ],
)
def test_the_oddities_of_real_data(realdata, name, code, said):
    run = dh(realdata / name, "--decode")

    assert run.exit_code == code
    assert said in run.stdout

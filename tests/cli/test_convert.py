"""`dh convert` as people and programs see it."""

import json
from typing import get_args

import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app
from dhcli.cli.convert import FormatName
from dhcli.data.formats import FORMATS


@pytest.fixture
def source(tmp_path):
    """A KITTI folder with a car and a region of no class."""
    for name in ("image_2", "label_2"):
        (tmp_path / "in/training" / name).mkdir(parents=True)
    Image.new("RGB", (40, 30)).save(tmp_path / "in/training/image_2/7.png")
    unknown = "-1 -1 -1 -1000 -1000 -1000 -10"
    rows = f"Car 0 0 -10 1 2 30 20 {unknown}\nDontCare -1 -1 -10 5 5 9 9 {unknown}\n"
    (tmp_path / "in/training/label_2/7.txt").write_text(rows)
    return tmp_path / "in"


def test_convert_says_what_it_read_wrote_and_lost(source, tmp_path):
    run = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), "--to", "yolo"])

    assert run.exit_code == 0
    assert run.stdout == f"{tmp_path / 'out'}\n"
    assert "KITTI, 1 images, 2 boxes, 1 classes (Car 1), 1 of no class" in run.stderr
    assert "1 regions to ignore (crowd, ignored, of no class): left out" in run.stderr
    assert (tmp_path / "out/labels/7.txt").read_text().startswith("0 0.3875 ")


def test_json_is_one_document(source, tmp_path):
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "coco", "--json"]

    told = json.loads(CliRunner().invoke(app, command).stdout)

    assert (told["from"], told["to"], told["images"], told["boxes"]) == ("kitti", "coco", 1, 2)
    assert told["lost"] == []


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--to", "kitti", "--voc-offset", "1"], 2, "voc_offset is for Pascal VOC"),
        (["--to", "tfrecord"], 2, "tfrecord"),
        (["--to", "voc", "--from", "coco"], 3, "holds no COCO file"),
        ([], 2, "--to"),
    ],
)
def test_what_cannot_be_done_is_said(source, tmp_path, options, code, said):
    run = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "out"), *options])

    assert (run.exit_code, run.stdout) == (code, "")
    assert said in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_destination_that_is_there_is_left_alone(source, tmp_path):
    run = CliRunner().invoke(app, ["convert", str(source), str(source), "--to", "voc"])

    assert run.exit_code == 1
    assert "is there already" in run.stderr


def test_the_formats_of_the_options_are_all_there_are():
    assert list(get_args(FormatName)) == list(FORMATS)

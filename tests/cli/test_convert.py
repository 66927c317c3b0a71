"""`dh convert` as people and programs see it."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from dhcli.cli import app


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
    assert "KITTI, 1 image, 2 boxes, 1 class (Car 1); boxes: 1 of no class" in run.stderr
    assert "1 region to ignore (crowd, ignored, of no class): left out" in run.stderr
    assert (tmp_path / "out/labels/7.txt").read_text().startswith("0 0.3875 ")


def test_masks_of_images_that_were_scaled_are_counted(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (80, 60)).save(tmp_path / "a/a.jpg")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20]}
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}],
        "annotations": [box | {"segmentation": [[1, 2, 31, 2, 31, 22]]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / "a/all.json").write_text(json.dumps(document), "utf-8")

    run = convert(tmp_path / "a", tmp_path / "b", "--to", "coco")

    said = "1 box of turned or scaled images: masks and other fields of their own left out"
    assert said in run.stderr


def test_json_is_one_document(source, tmp_path):
    command = ["convert", str(source), str(tmp_path / "out"), "--to", "coco", "--json"]

    told = json.loads(CliRunner().invoke(app, command).stdout)

    assert (told["from"], told["to"], told["images"], told["boxes"]) == (["kitti"], "coco", 1, 2)
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
    assert "already exists" in run.stderr


def convert(*words):
    return CliRunner().invoke(app, ["convert", *map(str, words)])


@pytest.fixture
def video(tmp_path, draw_frames):
    return draw_frames(tmp_path / "video", videos=6, frames=5)


@pytest.fixture
def draw_frames():
    """A function that writes a YOLO folder: frames of videos, `v3_01.png`, a box in each."""

    def write(root, videos, frames, names=("car", "van")):
        for folder in ("images", "labels"):
            (root / folder).mkdir(parents=True)
        for video in range(videos):
            for frame in range(frames):
                stem = f"v{video}_{frame:02}"
                Image.new("RGB", (40, 30), (video * 20, frame * 20, 9)).save(
                    root / f"images/{stem}.png"
                )
                row = f"{video % len(names)} 0.5 0.5 0.5 0.2\n"
                (root / f"labels/{stem}.txt").write_text(row, "utf-8")
        (root / "data.yaml").write_text(f"train: images\nnames: {list(names)}\n", "utf-8")
        return root

    return write


def test_frames_of_a_video_stay_in_one_split(video, tmp_path):
    run = convert(
        *(video, tmp_path / "out", "--to", "voc", "--split", "0.5/0.33/0.17"),
        *("--group-by", "(v[0-9]+)_", "--images", "none"),
    )

    assert run.exit_code == 0, run.output
    assert "divided by groups of images: train " in run.stderr
    lists = {
        name: (tmp_path / f"out/ImageSets/Main/{name}.txt").read_text("utf-8").split()
        for name in ("train", "val", "test")
    }
    videos = {name: {stem.split("_")[0] for stem in stems} for name, stems in lists.items()}
    assert {name: len(found) for name, found in videos.items()} == {"train": 3, "val": 2, "test": 1}
    assert sum(map(len, lists.values())) == 30
    assert not videos["train"] & videos["val"]


def test_classes_are_renamed_chosen_and_thinned_out(video, tmp_path):
    run = convert(
        *(video, tmp_path / "out", "--to", "coco", "--map", "van=Car", "--map", "car=Car"),
        *("--limit", 7, "--min-area", 100, "--json"),
    )

    told = json.loads(run.stdout)
    assert (told["images"], told["boxes"], told["classes"]) == (7, 7, ["Car"])
    assert told["changed"] == [
        "classes renamed: 1 class instead of 2",
        "first 7 images kept: 7 images instead of 30, 7 boxes instead of 30",
    ]


def test_a_class_is_dropped_and_counted(video, tmp_path):
    run = convert(video, tmp_path / "out", "--to", "coco", "--drop", "van")

    assert "classes left out: 15 boxes instead of 30, 1 class instead of 2" in run.stderr
    told = json.loads((tmp_path / "out/annotations/instances_train.json").read_text("utf-8"))
    assert [each["name"] for each in told["categories"]] == ["car"]


def test_several_sources_become_one(video, tmp_path, draw_frames):
    other = draw_frames(tmp_path / "more", videos=2, frames=2, names=("bus", "car"))

    run = convert(video, other, tmp_path / "out", "--to", "coco")

    assert run.exit_code == 0, run.output
    assert "2 datasets merged" in run.stderr
    told = json.loads((tmp_path / "out/annotations/instances_train.json").read_text("utf-8"))
    names = {each["id"]: each["name"] for each in told["categories"]}
    counted = sorted(names[row["category_id"]] for row in told["annotations"])
    assert counted == ["bus"] * 2 + ["car"] * 17 + ["van"] * 15
    assert len({row["id"] for row in told["annotations"]}) == 34
    assert len(list((tmp_path / "out/images").iterdir())) == 34


def test_tiles_are_cut_boxes_along(tmp_path):
    root = tmp_path / "in"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    Image.new("RGB", (100, 40), "red").save(root / "images/a.png")
    (root / "labels/a.txt").write_text("0 0.25 0.5 0.1 0.5\n0 7 0.5 0.1 0.5\n", "utf-8")
    (root / "data.yaml").write_text("train: images\nnames: [ship]\n", "utf-8")

    run = convert(root, tmp_path / "out", "--to", "coco", "--tile", 40, "--overlap", 0.25)

    assert run.exit_code == 0, run.output
    sizes = {}
    for path in (tmp_path / "out/images").iterdir():
        with Image.open(path) as tile:
            sizes[path.name] = tile.size
    assert sizes == {"a_0_0.png": (40, 40), "a_30_0.png": (40, 40), "a_60_0.png": (40, 40)}
    told = json.loads((tmp_path / "out/annotations/instances_train.json").read_text("utf-8"))
    assert [row["bbox"] for row in told["annotations"]] == [[20, 10, 10, 20]]
    assert "1 box outside the image, or without area: in no tile" in run.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_tiles_of_links_out_of_the_dataset_are_cut_if_asked(source, tmp_path):
    image = source / "training/image_2/7.png"
    image.rename(tmp_path / "private.png")
    image.symlink_to(tmp_path / "private.png")
    plan = ("--to", "coco", "--tile", 24, "--overlap", 0)

    run = convert(source, tmp_path / "out", *plan)
    followed = convert(source, tmp_path / "followed", *plan, "--follow-links")

    assert (run.exit_code, followed.exit_code) == (0, 0)
    assert "only copied with --follow-links: training/image_2/7.png" in run.stderr
    assert "missing" not in run.stderr
    assert not list((tmp_path / "out").rglob("*.png"))
    assert "--follow-links" not in followed.stderr
    assert len(list((tmp_path / "followed").rglob("*.png"))) == 4


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--split", "0.8"], 2, "shares in `0.8` are one only: nothing is divided"),
        (["--split", "0.3/0.3/0.2/0.2"], 2, "are more than have a usual name (train, val, test)"),
        (["--split", "1.5/-0.5"], 2, "shares in `1.5/-0.5` must be above 0"),
        (["--split", "0.8/0.3"], 2, "shares in `0.8/0.3` must add up to 1"),
        (["--split", "a/b"], 2, "shares in `a/b` are not numbers between slashes"),
        (["--split", "x=0.5/x=0.5"], 2, "in `x=0.5/x=0.5` name a split twice, or not at all"),
        (["--map", "car"], 2, "expected OLD=NEW"),
        (["--map", "cra=Car"], 3, "did you mean `car`?"),
        (["--drop", "cars"], 3, "did you mean `car`?"),
        (["--classes", "boat"], 3, "its classes are: car, van"),
        (["--group-by", "("], 2, "--group-by: needs --split"),
        (["--group-by", "(", "--split", "0.5/0.5"], 2, "is not a pattern"),
        (["--group-by", "patient", "--split", "0.5/0.5"], 3, "`patient` is not a column"),
        (["--tile", "32", "--images", "link"], 2, "tiles are new images"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(video, tmp_path, options, code, said):
    run = convert(video, tmp_path / "out", "--to", "coco", *options)

    assert (run.exit_code, run.stdout) == (code, "")
    assert said in run.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.realdata
def test_what_tiles_cannot_hold_is_counted(realdata, tmp_path):
    run = convert(
        *(realdata / "kitti_tiny", tmp_path / "out", "--to", "kitti", "--images", "none"),
        *("--limit", 3, "--tile", 512),
    )

    assert run.exit_code == 0, run.output
    assert "in tiles, degrees of truncation or occlusion of" in run.stderr


@pytest.mark.realdata
def test_kitti_of_the_tutorial_with_its_classes(realdata, tmp_path):
    run = convert(
        *(realdata / "kitti_tiny", tmp_path / "out", "--to", "kitti", "--limit", 60),
        *("--classes", "Car,Pedestrian,Cyclist", "--split", "0.7/0.3"),
    )

    assert run.exit_code == 0, run.output
    assert "first 60 images kept: 60 images instead of 75" in run.stderr
    assert len((tmp_path / "out/train.txt").read_text("utf-8").split()) == 42

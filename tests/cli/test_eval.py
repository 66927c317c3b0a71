"""`dh eval` as people and programs see it."""

import contextlib
import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from dhcli.cli import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO file of two images and two classes, and results that find the first object."""
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 90, "height": 90} for i in (5, 9)]
    boxes = {5: [0, 0, 50, 50], 9: [10, 10, 40, 40]}
    annotations = [
        {"id": i, "image_id": i, "category_id": 7, "bbox": box, "area": 1600, "iscrowd": 0}
        for i, box in boxes.items()
    ]
    categories = [{"id": 7, "name": "cat"}, {"id": 42, "name": "dog"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "data.json").write_text(json.dumps(document), "utf-8")
    results = [{"image_id": 5, "category_id": 7, "bbox": boxes[5], "score": 0.5}]
    (tmp_path / "results.json").write_text(json.dumps(results), "utf-8")
    return tmp_path


@pytest.fixture
def run(folder):
    """`dh eval` on the results, with further options."""

    def invoke(*options: object, detections: str = "results.json"):
        command = ["eval", "--data", folder / "data.json", "--detections", folder / detections]
        return CliRunner().invoke(app, [str(word) for word in (*command, *options)])

    return invoke


def test_tables_go_to_stdout_and_words_to_stderr(run) -> None:
    result = run("--metric", "coco,voc07,voc12")

    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["AP", "AP50", "AP75", "APs", "APm", "APl"] in rows
    assert ["cat", "50.5", "50.5", "50.5", "50.0", "2", "1"] in rows
    assert ["dog", "n/a", "n/a", "n/a", "n/a", "0", "0"] in rows
    assert ["cat", "54.5", "50.0", "2", "1"] in rows
    assert "evaluating all images: 2 images, 2 boxes" in result.stderr
    assert "evaluating" not in result.stdout


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_json_is_one_document(run, engine) -> None:
    result = run("--json", "--engine", engine)

    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["metrics"]["coco"]["stats"]["AP"] == pytest.approx(51 / 101)
    assert document["metrics"]["coco"]["per_class"]["dog"]["AP"] is None
    assert document["split"] == "all"


def test_out_writes_metrics_and_predictions(run, folder) -> None:
    result = run("--out", folder / "out")

    assert result.exit_code == 0
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        "categories.json",
        "metrics.json",
        "per_class.csv",
        "pr_curves.png",
        "predictions.bbox.json",
        "reliability.png",
    ]
    saved = json.loads((folder / "out/predictions.bbox.json").read_text("utf-8"))
    assert saved == json.loads((folder / "results.json").read_text("utf-8"))


def test_per_class_csv_has_a_row_a_metric_and_class(run, folder) -> None:
    run("--out", folder / "out", "--metric", "coco,voc12")

    text = (folder / "out/per_class.csv").read_text("utf-8")
    rows = {(row["metric"], row["class"]): row for row in csv.DictReader(io.StringIO(text))}
    assert list(rows) == [(m, c) for m in ("coco", "voc12") for c in ("cat", "dog")]
    assert float(rows["coco", "cat"]["AP50"]) == pytest.approx(51 / 101)
    assert float(rows["voc12", "cat"]["AP"]) == pytest.approx(0.5)
    assert (rows["coco", "dog"]["AP"], rows["coco", "dog"]["objects"]) == ("", "0")
    assert rows["voc12", "cat"]["AP75"] == ""


@pytest.mark.parametrize(("limit", "code"), [("AP50=0.5", 0), ("AP50=0.6", 1), ("APl=0", 1)])
def test_fail_under(run, limit, code) -> None:
    result = run("--fail-under", limit)

    assert result.exit_code == code
    assert "cat" in result.stdout


def test_fail_under_states_the_value(run) -> None:
    result = run("--json", "--fail-under", "AP50=0.6", "--fail-under", "AP=0.1")

    assert "error: --fail-under: coco AP50 is 0.5050, below 0.6\n" in result.stderr
    assert json.loads(result.stdout)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--metric", "map"], 2, "unknown metric `map`"),
        (["--fail-under", "AP50"], 2, "is not a metric with a value between 0 and 1"),
        (["--weights", "model.safetensors"], 2, "give either --weights or --detections"),
        (["--engine", "torchmetrics"], 2, "torchmetrics"),
        (["--split", "val"], 3, "no split `val`"),
        (["--metric", "kitti"], 3, "Car, Pedestrian, Cyclist"),
        (["--device", "cuda"], 2, "--device is about a model, not about --detections"),
        (["--precision", "bf16"], 2, "--precision is about a model"),
        (["--workers", "0"], 2, "--workers is about a model"),
        (["--batch-size", "2"], 2, "--batch-size is about a model"),
    ],
)
def test_bad_options_are_one_clear_error(run, options, code, said) -> None:
    result = run(*options)

    assert result.exit_code == code
    assert said in result.stderr
    assert not result.stdout


@pytest.fixture
def run_on_val(folder):
    """`dh eval` on the results, with image 5 in the split train and 9 in val."""
    document = json.loads((folder / "data.json").read_text("utf-8"))
    (folder / "splits/annotations").mkdir(parents=True)
    for split, image in (("train", 5), ("val", 9)):
        part = document | {
            "images": [row for row in document["images"] if row["id"] == image],
            "annotations": [row for row in document["annotations"] if row["image_id"] == image],
        }
        (folder / f"splits/annotations/{split}.json").write_text(json.dumps(part), "utf-8")
    words = ["eval", "--data", folder / "splits", "--detections", folder / "results.json"]
    return lambda: CliRunner().invoke(app, [str(word) for word in words])


def test_detections_of_another_split_are_one_clear_error(run_on_val) -> None:
    result = run_on_val()

    assert result.exit_code == 3
    said = "results.json: everything it holds is on 1 image outside the split `val`: 1 detection\n"
    assert said in result.stderr
    assert "`--split train`" in result.stderr
    assert not result.stdout


def test_detections_partly_of_another_split_are_counted(run_on_val, folder) -> None:
    [row] = json.loads((folder / "results.json").read_text("utf-8"))
    rows = [row, row, row | {"image_id": 9}]
    (folder / "results.json").write_text(json.dumps(rows), "utf-8")

    result = run_on_val()

    assert result.exit_code == 0, result.stderr
    assert "2 detections on 1 image outside the split `val`: left out" in result.stderr


def test_neither_weights_nor_detections_is_an_error(folder) -> None:
    result = CliRunner().invoke(app, ["eval", "--data", str(folder / "data.json")])

    assert result.exit_code == 2
    assert "give either --weights or --detections" in result.stderr


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('[{"image_id": 4, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 1}]', 3),
        ('[{"image_id": 5, "category_id": 8, "bbox": [0, 0, 1, 1], "score": 1}]', 3),
        ('[{"image_id": 5, "category_id": 7, "bbox": [0, 0, 1, 1]}]', 3),
        ('[{"image_id": 5, "category_id": 7, "bbox": [0, 0, 1, 1], "score": NaN}]', 3),
        ("{}", 3),
        ("[", 3),
    ],
)
def test_broken_results_are_an_error_with_its_place(run, folder, text, code) -> None:
    (folder / "broken.json").write_text(text, "utf-8")

    result = run(detections="broken.json")

    assert result.exit_code == code
    assert "error: " in result.stderr
    assert "broken.json" in result.stderr


def draw_results(file: Path, rng: np.random.Generator) -> list[dict[str, object]]:
    """Moved copies of the objects in a COCO file, some twice, and noise."""
    dataset = json.loads(file.read_text("utf-8"))
    rows = []
    for a in dataset["annotations"]:
        x, y, w, h = a["bbox"]
        for _ in range(rng.integers(0, 3)):
            box = [
                *rng.normal([x, y], [0.05 * w, 0.05 * h]),
                *np.array([w, h]) * rng.uniform(0.8, 1.2, 2),
            ]
            rows.append((a["image_id"], a["category_id"], box, rng.beta(4, 2)))
    for image in dataset["images"] * 5:
        category = rng.choice([c["id"] for c in dataset["categories"]])
        box = [*rng.uniform(0, 300, 2), *np.exp(rng.uniform(1, 5, 2))]
        rows.append((image["id"], category, box, rng.beta(2, 4)))
    return [
        {
            "image_id": image,
            "category_id": int(category),
            "bbox": [round(float(value), 2) for value in box],
            "score": round(float(score), 3),
        }
        for image, category, box, score in rows
    ]


@pytest.mark.realdata
@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_real_images_with_11_crowds_equal_pycocotools(realdata, tmp_path, rng, engine) -> None:
    file = next((realdata / "coco_tiny_val80/annotations").glob("*.json"))
    results = tmp_path / "results.json"
    results.write_text(json.dumps(draw_results(file, rng)), "utf-8")
    words = ["eval", "--data", str(file), "--detections", str(results), "--engine", engine]

    ours = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)["metrics"]["coco"]

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        judge = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert sum(a["iscrowd"] for a in truth.dataset["annotations"]) == 11
    assert list(ours["stats"].values()) == pytest.approx(judge.stats.tolist(), abs=1e-9)
    assert 0.1 < ours["stats"]["AP"] < 0.9


def test_missing_files_are_errors(run) -> None:
    result = run(detections="absent.json")

    assert result.exit_code == 3
    assert "absent.json" in result.stderr


def test_detections_are_scored_without_torch(folder) -> None:
    words = ["eval", "--data", str(folder / "data.json")]
    words += ["--detections", str(folder / "results.json"), "--json"]
    code = (
        "import sys; from dhcli.cli import app; app(sys.argv[1:], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, *words], check=True, capture_output=True, text=True
    )

    assert json.loads(done.stdout)["images"] == 2


def test_help_has_an_example() -> None:
    result = CliRunner().invoke(app, ["eval", "--help"])

    assert result.exit_code == 0
    assert "dh eval --weights model.safetensors" in result.stdout

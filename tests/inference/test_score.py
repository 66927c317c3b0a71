"""Splits, classes by name, results files, and what is written. Torch plays no part."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dhcli.data.table import ANY_CLASS, make_table
from dhcli.errors import ConfigError, DataError
from dhcli.inference.score import (
    Measures,
    choose_split,
    evaluate_results,
    save_evaluation,
    score,
)
from dhcli.metrics.names import parse_metrics

CAR, VAN = (0, 0, 50, 50), (100, 100, 150, 150)


def table_of(boxes, labels, classes, **columns):
    return make_table(
        Path("drawn"), ["a.jpg"], [(300, 300)], [len(boxes)], boxes, labels, classes, **columns
    )


@pytest.mark.parametrize(
    ("splits", "asked", "chosen"),
    [
        ("train val test", None, "val"),
        ("train test", None, "test"),
        ("train", None, "all"),
        ("", None, "all"),
        ("train val", "train", "train"),
        ("train val", "all", "all"),
    ],
)
def test_split_is_the_named_one_else_val_else_test_else_all(splits, asked, chosen) -> None:
    files = [f"{i}.jpg" for i in range(9)]
    numbers = {name: np.array([index]) for index, name in enumerate(splits.split())}
    table = make_table(Path("x"), files, [(1, 1)] * 9, [0] * 9, [], [], ("a",), splits=numbers)

    name, images = choose_split(table, asked)

    assert name == chosen
    expected = range(9) if chosen == "all" else numbers[chosen].tolist()
    assert images.tolist() == list(expected)


def test_an_empty_split_is_passed_over_or_an_error() -> None:
    none = np.array([], np.int64)
    splits = {"train": np.array([0]), "val": none}
    table = table_of([CAR], [0], ("a",), splits=splits)

    assert choose_split(table, None)[0] == "all"
    with pytest.raises(DataError, match="the split `val` holds no images"):
        choose_split(table, "val")


def test_an_unknown_split_is_an_error_that_names_those_there_are() -> None:
    table = table_of([CAR], [0], ("a",), splits={"train": np.array([0])})

    with pytest.raises(DataError, match="no split `val`; the dataset has: train"):
        choose_split(table, "val")


@pytest.mark.parametrize(("others", "precision"), [("drop", 0.5), ("ignore", 1)])
def test_classes_that_only_the_data_has(others, precision) -> None:
    truth = table_of([CAR, VAN], [1, 0], ("Van", "Car"))
    found = table_of([VAN, CAR], [0, 0], ("Car", "Tram"), scores=np.array([0.9, 0.8]))
    request = Measures(metrics=("coco", "voc07", "voc12", "kitti"))

    evaluation = score(truth, found, "all", request, others=others)

    results = evaluation.results
    assert results["coco"].stats["AP"] == pytest.approx(precision)
    assert results["voc12"].stats["mAP"] == pytest.approx(precision)
    assert results["kitti"].stats["easy"] == 1  # Van is Car's neighbour, whatever `others` is
    assert evaluation.scored == ("Car",)
    assert evaluation.unknown_to_model == ("Van",)
    assert evaluation.unknown_to_data == ("Tram",)
    assert ANY_CLASS not in evaluation.truth.labels


def test_document_holds_fractions_and_null_for_undefined() -> None:
    truth = table_of([CAR], [0], ("a", "b"))
    found = table_of([CAR], [0], ("a", "b"), scores=np.array([0.5]))

    document = score(truth, found, "val", Measures()).as_dict()

    coco = json.loads(json.dumps(document, allow_nan=False))["metrics"]["coco"]
    assert coco["stats"]["AP"] == pytest.approx(1)
    assert coco["stats"]["APl"] is None
    assert coco["per_class"]["b"]["AP"] is None
    assert coco["per_class"]["a"]["objects"] == 1
    assert document["split"] == "val"


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """COCO JSON with sparse ids: a val file of two images, one object each."""
    document = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 300, "height": 300} for i in (5, 9)],
        "annotations": [
            {"id": 0, "image_id": 5, "category_id": 42, "bbox": [0, 0, 50, 50]},
            {"id": 1, "image_id": 9, "category_id": 7, "bbox": [10, 10, 40, 0], "iscrowd": 0},
        ],
        "categories": [{"id": 42, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(document), "utf-8")
    return file


RESULT = {"image_id": 5, "category_id": 42, "bbox": [0, 0, 50, 50], "score": 0.5}


def write(path: Path, rows) -> Path:
    path.write_text(json.dumps(rows), "utf-8")
    return path


def test_results_of_another_tool_are_scored(dataset, tmp_path) -> None:
    said = []
    results = write(tmp_path / "results.json", [RESULT])

    evaluation = evaluate_results(results, dataset, Measures(), say=said.append)

    per_class = evaluation.results["coco"].per_class
    assert per_class["cat"]["AP"] == pytest.approx(1)
    assert per_class["dog"]["AP"] == 0
    assert any("evaluating all images: 2 images, 2 boxes" in line for line in said)
    assert any("boxes without area: 1;" in line for line in said)


@pytest.mark.parametrize(
    ("size", "orientation", "found"),
    [((20, 15), 1, [11, 8, 5, 4]), ((40, 30), 6, [6, 22, 8, 10])],
    ids=["resized", "turned"],
)
def test_objects_are_where_the_image_files_have_them(tmp_path, size, orientation, found) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size).save(tmp_path / "5.png", exif=exif)
    box = {"id": 1, "image_id": 5, "category_id": 42, "bbox": [22, 16, 10, 8]}
    truth = {
        "images": [{"id": 5, "file_name": "5.png", "width": 40, "height": 30}],
        "annotations": [box],
        "categories": [{"id": 42, "name": "cat"}],
    }
    results = write(tmp_path / "results.json", [{**RESULT, "bbox": found}])
    (tmp_path / "yolo").mkdir()
    scale = (30, 40) if orientation == 6 else size
    x, y, w, h = (value / scale[n % 2] for n, value in enumerate(found))
    (tmp_path / "yolo/5.txt").write_text(f"0 {x + w / 2} {y + h / 2} {w} {h} 0.5\n")
    (tmp_path / "yolo/classes.txt").write_text("cat\n")
    said = []

    for detections in (results, tmp_path / "yolo"):
        evaluation = evaluate_results(
            detections, write(tmp_path / "truth.json", truth), Measures(), say=said.append
        )
        assert evaluation.results["coco"].stats["AP"] == pytest.approx(1)
    assert sum(line.startswith("warning: image-") for line in said) == 2


def test_boxes_of_the_truth_that_are_none_are_put_right_or_left_out() -> None:
    nan, swapped = (np.nan, 0, 9, 9), (150, 150, 100, 100)
    boxes = np.array([CAR, swapped, nan, (0, 0, np.inf, 9)])
    truth = table_of(boxes, [0] * 4, ("Car",))
    found = table_of([CAR, VAN], [0, 0], ("Car",), scores=np.array([0.9, 0.8]))
    said: list[str] = []

    measures = Measures(metrics=("coco", "voc07"))
    evaluation = evaluate_results(found, truth, measures, say=said.append)

    stats = [one.stats for one in evaluation.results.values()]
    assert (stats[0]["AP50"], stats[1]["mAP"]) == pytest.approx((1, 1))
    assert "warning: 2 boxes not finite: left out (`dh check` names them)" in said
    assert "warning: 1 box with corners in the wrong order: put in order" in said


def test_the_best_of_each_image_are_kept(dataset, tmp_path) -> None:
    wrong = {**RESULT, "bbox": [200, 200, 50, 50]}
    rows = [{**wrong, "score": 0.4}, RESULT, {**RESULT, "image_id": 9, "score": 0.1}]
    results = write(tmp_path / "results.json", rows)

    evaluation = evaluate_results(results, dataset, Measures(), say=lambda _: None, top_k=1)

    assert evaluation.found.scores.tolist() == [0.5, 0.1]


def test_rows_of_detections_that_cannot_be_read_are_a_warning(dataset, tmp_path) -> None:
    said = []
    rows, head = tmp_path / "found.csv", "image,class,score,x1,y1,x2,y2\n"
    rows.write_text(f"{head}5.jpg,cat,0.5,0,0,50,50\n5.jpg,cat,high,0,0,50,50\n", "utf-8")

    evaluation = evaluate_results(rows, dataset, Measures(), say=said.append)

    assert evaluation.results["coco"].per_class["cat"]["AP"] == pytest.approx(1)
    [warning] = [line for line in said if line.startswith("warning: ")]
    assert warning == (
        "warning: of the detections, 1 row that cannot be read, left out: "
        "found.csv:3: has a value that cannot be used: `high`"
    )


def test_how_detections_were_read_is_said(dataset, tmp_path) -> None:
    said = []
    Image.new("RGB", (300, 300)).save(tmp_path / "5.jpg")
    in_fractions = RESULT | {"bbox": [0, 0, 50 / 300, 50 / 300]}
    rows, head = tmp_path / "found.csv", "image,class,score,x1,y1,x2,y2\n"
    rows.write_text(f"{head}5.jpg,cat,0.5,0,0,{50 / 300},{50 / 300}\n", "utf-8")

    for found in (write(tmp_path / "results.json", [in_fractions]), rows):
        evaluation = evaluate_results(found, dataset, Measures(), say=said.append)

    assert evaluation.results["coco"].per_class["cat"]["AP"] == pytest.approx(1)
    note = "of the detections: boxes lie within 0…1: read as fractions of their images"
    assert said.count(note) == 2


def test_an_empty_list_of_results_is_zero(dataset, tmp_path) -> None:
    results = write(tmp_path / "results.json", [])

    evaluation = evaluate_results(results, dataset, Measures(), say=lambda _: None)

    assert evaluation.results["coco"].stats["AP"] == 0


def test_saved_predictions_have_the_datasets_ids_and_score_the_same(dataset, tmp_path) -> None:
    results = write(tmp_path / "results.json", [RESULT, {**RESULT, "image_id": 9, "score": 0.25}])
    first = evaluate_results(results, dataset, Measures(), say=lambda _: None)

    metrics, *_, predictions = save_evaluation(first, tmp_path / "out/deep")

    assert json.loads(predictions.read_text("utf-8")) == json.loads(results.read_text("utf-8"))
    again = evaluate_results(predictions, dataset, Measures(), say=lambda _: None)
    document = json.loads(metrics.read_text("utf-8"))
    assert (
        document
        == json.loads(json.dumps(again.as_dict()))
        == json.loads(json.dumps(first.as_dict()))
    )


def test_saved_predictions_on_files_named_by_numbers_are_found_again(tmp_path) -> None:
    files = ["0.jpg", "1.jpg", "2.jpg"]
    table = make_table(tmp_path, files, [(9, 9)] * 3, [0] * 3, [], [], ("a",), format="kitti")
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 0.5}]
    first = evaluate_results(write(tmp_path / "r.json", found), table, Measures(), say=print)

    *_, predictions = save_evaluation(first, tmp_path / "out")

    again = evaluate_results(predictions, table, Measures(), say=print)
    assert again.found.offsets.tolist() == first.found.offsets.tolist() == [0, 0, 1, 1]


def test_saving_no_detections_writes_an_empty_list(dataset, tmp_path) -> None:
    results = write(tmp_path / "results.json", [])
    said: list[str] = []
    evaluation = evaluate_results(results, dataset, Measures(), say=said.append)

    *_, predictions = save_evaluation(evaluation, tmp_path / "out")

    assert json.loads(predictions.read_text("utf-8")) == []
    assert f"warning: {results} holds no detections" in said


def test_metrics_are_words_between_commas() -> None:
    assert parse_metrics(["kitti, coco", "coco"]) == ("kitti", "coco")


@pytest.mark.parametrize(
    ("names", "said"), [(["coco,ap"], "unknown metric `ap`"), ([","], "no metric")]
)
def test_unknown_metrics_are_errors(names, said) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        parse_metrics(names)

    assert error.value.hint == "there are: coco, voc07, voc12, kitti"


def test_scoring_imports_no_torch() -> None:
    code = (
        "import sys, dhcli.inference.score, dhcli.metrics.bars; assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", code], check=True)

"""COCO results: detections on a dataset's images."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from dhcli.data.formats import (
    read_dataset,
    read_detections,
    read_results,
    results_of,
    write_dataset,
)
from dhcli.data.io.json_stream import NotPlain
from dhcli.data.strings import Strings
from dhcli.data.table import TEXT_ID, make_table
from dhcli.errors import DataError
from dhcli.inference import writers
from dhcli.inference.writers import Place, Prediction

ROW = {"image_id": 42, "category_id": 17, "bbox": [1, 2, 3.5, 4], "score": 0.5}


@pytest.fixture
def put(tmp_path):
    """A function that writes results, and names of categories if given."""

    def lay(rows, categories=None):
        path = tmp_path / "r.json"
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), "utf-8")
        if categories is not None:
            (tmp_path / "categories.json").write_text(json.dumps({"categories": categories}))
        return path

    return lay


def test_rows_are_put_to_their_images_in_order(put, sample):
    rows = [ROW | {"image_id": 11, "score": 0.1}, ROW, ROW | {"image_id": 11, "category_id": 3}]

    table = read_results(put(rows), sample)

    assert table.offsets.tolist() == [0, 0, 1, 3]
    assert table.scores.tolist() == [0.5, 0.1, 0.5]
    assert table.labels.tolist() == [1, 1, 0]
    assert table.boxes[0].tolist() == [1, 2, 4.5, 6]
    assert (table.classes, table.category_ids.tolist()) == (sample.classes, [3, 17])
    assert table.image_ids.tolist() == [7, 42, 11]


def test_an_empty_list_is_no_detections(put, sample):
    table = read_results(put(" [ ] \n"), sample)

    assert (len(table), len(table.boxes), len(table.scores)) == (3, 0, 0)


def test_boxes_that_are_all_told_in_fractions_are_read_as_such(put, sample):
    rows = [ROW | {"bbox": [0.1, 0.25, 0.5, 0.5]}, ROW | {"image_id": 11, "bbox": [0, 0, 0.25, 1]}]

    table = read_results(put(rows), sample)

    assert table.boxes.tolist() == [[3, 10, 18, 30], [0, 0, 16, 48]]
    assert table.notes == ("boxes lie within 0…1: read as fractions of their images",)


def test_corners_in_place_of_sides_are_noticed(put, sample):
    table = read_results(put([ROW | {"bbox": [20, 10, 30, 40]}]), sample)

    [note] = table.notes
    assert "would not if they were corners" in note


def test_an_image_without_id_is_known_by_its_file(put, sample):
    table = read_results(put([ROW | {"image_id": None, "file_name": "b.png"}]), sample)

    assert table.offsets.tolist() == [0, 0, 1, 1]


def test_ids_of_images_may_be_named_beside_as_convert_does(sample, tmp_path):
    found = replace(sample, scores=np.full(5, 0.5), image_ids=np.array([11, 7, 42]))
    write_dataset(found, tmp_path / "found", "coco", images="none")

    table = read_results(tmp_path / "found/predictions.bbox.json", sample)

    assert table.offsets.tolist() == [0, 3, 3, 4]


def test_a_folder_of_what_convert_or_predict_writes_is_its_results(sample, tmp_path):
    found = replace(sample, scores=np.full(5, 0.5))
    write_dataset(found, tmp_path / "found", "coco", images="none")

    on_truth = read_detections(tmp_path / "found", sample)
    alone = read_dataset(tmp_path / "found", predictions=True)

    assert np.diff(on_truth.offsets).tolist() == np.diff(alone.offsets).tolist()
    assert on_truth.scores.tolist() == alone.scores.tolist() == [0.5] * 4


HINTS = {
    "ids from 0": (ROW | {"category_id": 0}, r'put categories\.json .*\[{"id": 0, "name": "…"}'),
    "a null id": (ROW | {"image_id": None}, "the id of an image in the dataset, or its file's"),
    "no such image": (ROW | {"image_id": "x"}, "the id of an image in the dataset, or its file's"),
}


@pytest.mark.parametrize("name", HINTS)
def test_a_strange_row_is_an_error_that_says_the_way_out(put, sample, name):
    row, hint = HINTS[name]

    with pytest.raises(DataError) as error:
        read_results(put([row]), sample)

    assert re.search(hint, error.value.hint)


def test_an_object_is_an_error_that_names_its_list(put, sample):
    with pytest.raises(DataError, match="is not a list of detections") as error:
        read_results(put(json.dumps({"info": {}, "annotations": [ROW]})), sample)

    assert "write what its `annotations` holds" in error.value.hint


def test_detections_are_read_from_every_kind_of_file_that_predict_writes(draw, tmp_path):
    names, size = ("a.jpg", "b.jpg"), (90, 80)
    for name in names:
        draw(tmp_path / "data" / name, size)
    table = make_table(
        tmp_path / "data",
        names,
        [size] * 2,
        [0, 0],
        [],
        [],
        ("dog", "cat"),
        image_ids=np.array([9, 5]),
    )
    place = Place(tmp_path, ("cat",), (1,))
    for kind in writers.FORMATS.values():
        with kind(place) as write:
            for name, count in zip(names, (0, 1), strict=True):
                columns = np.array([[1, 2, 31, 42.0]])[:count], np.full(count, 0.5)
                write(Prediction(name, size, *columns, np.zeros(count, np.int64), None))

    for file in ("predictions.bbox.json", "predictions.csv", "yolo", "voc", "kitti"):
        found = read_detections(tmp_path / file, table)

        assert (found.offsets.tolist(), found.scores.tolist()) == ([0, 0, 1], [0.5])
        np.testing.assert_allclose(found.boxes, [[1, 2, 31, 42]], atol=1e-4)
        lists_classes = file in ("predictions.bbox.json", "yolo")
        assert found.classes == (("cat",) if lists_classes else ("cat", "dog"))


def test_detections_in_strange_images_or_without_scores_are_errors(sample, tmp_path):
    scored = replace(sample, scores=np.full(5, 0.5))
    write_dataset(sample, tmp_path / "plain", "labelme")
    write_dataset(scored, tmp_path / "scored", "labelme")

    with pytest.raises(DataError, match="holds boxes without scores"):
        read_detections(tmp_path / "plain", sample)
    with pytest.raises(DataError, match=r"names the image train/a\.jpg, which is not in"):
        read_detections(tmp_path / "scored", sample.take_images(np.array([1, 2])))


@pytest.mark.parametrize("name", ["pictures/b.png", "b.png", "b", "42"])
def test_an_image_is_known_by_path_name_stem_or_id(put, sample, name):
    table = read_results(put([ROW | {"image_id": name}]), sample)

    assert table.offsets.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["A/b.png", "x/A/b.png", "in/x/A/b.png"])
def test_an_image_is_known_by_the_longest_end_of_its_path(put, sample, name):
    twins = replace(sample, files=Strings.pack(["x/A/b.png", "x/B/b.png", "y/c.jpg"]))

    table = read_results(put([ROW | {"image_id": name}]), twins)

    assert table.offsets.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("own_ids", "numbers", "counts"),
    [
        (False, [0, 2], [1, 0, 1]),  # stems: there is no image 0
        (False, [1, 2], [0, 1, 1]),
        (False, [3], [0, 0, 1]),  # no stem is 3
        (True, [1, 2], [1, 1, 0]),
        (True, [0, 2], [1, 0, 1]),
    ],
)
def test_a_number_is_an_id_or_the_stem_of_a_file(put, own_ids, numbers, counts):
    files = ["images/000000.png", "images/000001.png", "images/000002.png"]
    truth = make_table(".", files, [(9, 9)] * 3, [0] * 3, [], [], ("a",))
    rows = [ROW | {"image_id": number, "category_id": 1} for number in numbers]

    table = read_results(put(rows), truth, own_ids=own_ids)

    assert np.diff(table.offsets).tolist() == counts


def test_a_name_that_two_images_have_is_not_taken(put, sample):
    twins = replace(sample, files=Strings.pack(["x/b.png", "y/b.png", "c.jpg"]))

    with pytest.raises(DataError, match=r"image id 'b\.png' is not in the dataset"):
        read_results(put([ROW | {"image_id": "b.png"}]), twins)


def test_categories_beside_the_file_name_its_ids(put, sample):
    path = put([ROW], [{"id": 17, "name": "cat"}, {"id": 2, "name": "bird"}])

    table = read_results(path, sample)

    assert (table.classes, table.category_ids.tolist()) == (("cat", "bird"), [17, 2])
    assert table.labels.tolist() == [0]


def in_coco(lay, images, categories):
    """A dataset of the images a.jpg, b.jpg … and classes A, B … with these ids."""
    files = [f"{letter}.jpg" for letter in "abcd"[: len(images)]]
    told = {
        "images": [{"id": i, "file_name": f} for i, f in zip(images, files, strict=True)],
        "annotations": [
            {"image_id": images[0], "category_id": categories[0], "bbox": [1, 2, 3, 4]}
        ],
        "categories": [{"id": i, "name": n} for i, n in zip(categories, "ABCD", strict=False)],
    }
    return read_dataset(lay({"a.json": json.dumps(told)}, *files))


IDS = {
    "text": (["x1", "x2"], ["car", "7"], "x2", "7"),
    "digits in text": (["2", "1"], ["9", "7"], "1", "7"),
    "text that is another's name": (["b", "a"], [9, 7], "a", 7),
    "text beside numbers": (["x1", 1], [9, "c"], 1, "c"),
    "digits for numbers": ([2, 1], [9, 7], "1", "7"),
    "decimals": ([2, 1], [9, 7], 1.0, 7.0),
    "numbers for digits": (["2", "1"], ["9", "7"], 1, 7),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_as_the_dataset_tells_them_are_known(put, lay, name):
    images, categories, image, category = IDS[name]
    truth = in_coco(lay, images, categories)

    table = read_results(put([ROW | {"image_id": image, "category_id": category}]), truth)

    assert table.offsets.tolist() == [0, 0, 1]
    assert [table.classes[label] for label in table.labels] == ["B"]


@pytest.mark.parametrize("image", ["x3", "2", 2.5, [1], True])
def test_an_id_that_is_none_is_an_error(put, lay, image):
    truth = in_coco(lay, ["x1", "7"], [3])

    with pytest.raises(DataError, match="is not in the dataset"):
        read_results(put([ROW | {"image_id": image, "category_id": 3}]), truth)


def test_an_id_that_two_merged_images_have_is_not_taken(put, lay):
    truth = in_coco(lay, ["x1", "x2"], [3])
    twins = replace(truth, image_extras={TEXT_ID: Strings.pack(["x1", "x1"])})

    with pytest.raises(DataError, match="image id 'x1' is not in the dataset"):
        read_results(put([ROW | {"image_id": "x1", "category_id": 3}]), twins)


def test_results_carry_the_datasets_own_ids(sample):
    scored = replace(sample, scores=np.arange(5) / 4)

    rows = list(results_of(scored))

    assert len(rows) == 4  # not the one of no class
    assert rows[2] == {"image_id": 7, "category_id": 17, "bbox": [1, 2, 2, 2], "score": 0.5}
    assert json.loads(json.dumps(rows)) == rows


def test_written_and_read_again_results_are_the_same(put, sample, rng):
    boxes = np.sort(rng.uniform(0, 60, (5, 2, 2)), axis=1).reshape(5, 4)
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    scored = replace(sample, boxes=boxes, labels=labels, scores=rng.uniform(size=5))

    again = read_results(put(list(results_of(scored))), sample)

    np.testing.assert_allclose(again.boxes, boxes, atol=1e-9)
    np.testing.assert_array_equal(again.scores, scored.scores)
    np.testing.assert_array_equal(again.labels, labels)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"images": []}, "is not a list of detections"),
        ("[", r"r\.json:1: is not JSON"),
        ("[{}, ]", "needs image_id"),
        (json.dumps([ROW])[:-1] + ",]", "is not JSON: a comma before the end"),
        ([[]], "needs image_id, category_id"),
        ([ROW | {"bbox": [1, 2, 3]}], "bbox of four numbers"),
        ([ROW | {"score": "high"}], "bbox of four numbers, and score"),
        ([ROW | {"score": float("nan")}], "not finite"),
        ([ROW | {"image_id": 43}], "image id 43 is not in the dataset"),
        ([ROW | {"category_id": 2}], "category id 2 is not known; there are: 3, 17"),
        ([ROW | {"category_id": "cat"}], "category id 'cat' is not known"),
    ],
)
def test_bad_results_are_errors(put, sample, rows, said):
    with pytest.raises(DataError, match=said):
        read_results(put(rows), sample)


@pytest.mark.parametrize(
    "categories", [[{"id": 1}], [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], 3]
)
def test_bad_categories_are_errors(put, sample, categories):
    with pytest.raises(DataError, match=r"categories\.json"):
        read_results(put([ROW], categories), sample)


def test_usual_detections_take_the_fast_way(sample, tmp_path, monkeypatch):
    from dhcli.data.formats import coco_results

    scored = replace(sample, scores=np.array([0.5, 0.25, 1 / 3, 0.75, 1]))
    path = tmp_path / "found.json"
    path.write_text(json.dumps(list(coco_results.results_of(scored))))
    careful = coco_results.JsonText
    monkeypatch.delattr(coco_results, "JsonText")
    fast = read_results(path, sample)
    monkeypatch.setattr(coco_results, "JsonText", careful, raising=False)
    monkeypatch.setattr(coco_results.JsonStream, "read_array", _step_aside)

    slow = read_results(path, sample)

    for name in ("boxes", "labels", "scores", "offsets"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))


def _step_aside(*_):
    raise NotPlain

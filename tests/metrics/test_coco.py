"""COCO AP: hand-computed cases, and agreement with pycocotools run on the files themselves."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dhcli.data.table import Flag, make_table
from dhcli.errors import DataError
from dhcli.metrics.coco import COCO_STATS, coco_ap

ENGINES = ("hotcoco", "pycocotools")
BOX = (0, 0, 10, 10)
FAR = (200, 200, 210, 210)


def draw_coco(rng, images=40, crowds=11):
    """A COCO dataset with sparse ids, sizes of every range, empty images; and tied detections."""
    ids = rng.choice(9000, images, replace=False) + 1
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 7, 42, 90)]
    annotations = []
    for image in ids[: images * 4 // 5]:
        for _ in range(rng.integers(1, 12)):
            x, y = rng.uniform(0, 400, 2)
            w, h = np.exp(rng.uniform(1.5, 5.3, 2))
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": int(image),
                    "category_id": int(rng.choice([1, 7, 42])),
                    "bbox": [round(float(v), 2) for v in (x, y, w, h)],
                    "area": float(w * h * rng.uniform(0.5, 1)),
                    "iscrowd": 0,
                }
            )
    for index in rng.choice(len(annotations), crowds, replace=False):
        annotations[index]["iscrowd"] = 1
    dataset = {
        "images": [{"id": int(i), "file_name": f"{i}.jpg"} for i in ids],
        "annotations": annotations,
        "categories": categories,
    }
    return dataset, draw_results(rng, dataset)


def draw_results(rng, dataset):
    """Moved copies of most objects, some twice or of a wrong class, and noise; tied scores."""
    ids = [category["id"] for category in dataset["categories"]]
    results = []
    for a in dataset["annotations"]:
        for _ in range(rng.integers(0, 3)):
            x, y, w, h = a["bbox"]
            moved = rng.normal([x, y], 0.06 * np.array([w, h]))
            sides = np.array([w, h]) * np.exp(rng.normal(0, 0.1, 2))
            wrong = rng.random() < 0.1
            results.append(
                {
                    "image_id": a["image_id"],
                    "category_id": int(rng.choice(ids)) if wrong else a["category_id"],
                    "bbox": [round(float(v), 3) for v in (*moved, *sides)],
                    "score": round(float(rng.beta(4, 2)), 2),
                }
            )
    for image in dataset["images"]:
        for _ in range(rng.integers(0, 6)):
            box = (*rng.uniform(0, 400, 2), *np.exp(rng.uniform(1, 5, 2)))
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": int(rng.choice(ids)),
                    "bbox": [round(float(v), 3) for v in box],
                    "score": round(float(rng.beta(2, 4)), 2),
                }
            )
    return results


def tables_of(dataset, results):
    """The truth and detection tables of COCO JSON, by hand: what a reader would make of it."""
    images = [image["id"] for image in dataset["images"]]
    ids = [category["id"] for category in dataset["categories"]]

    def table(rows, **columns):
        rows = sorted(rows, key=lambda row: images.index(row["image_id"]))
        xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
        return make_table(
            Path("drawn"),
            [f"{i}.jpg" for i in images],
            np.full((len(images), 2), 600),
            [sum(row["image_id"] == i for row in rows) for i in images],
            np.hstack([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]]),
            [ids.index(row["category_id"]) for row in rows],
            [f"c{i}" for i in ids],
            image_ids=np.array(images),
            category_ids=np.array(ids),
            **{name: np.array([row[key] for row in rows], t) for name, key, t in columns.values()},
        )

    truth = table(
        dataset["annotations"],
        a=("areas", "area", np.float64),
        b=("flags", "iscrowd", np.uint8),
        c=("box_ids", "id", np.int64),
    )
    return truth, table(results, a=("scores", "score", np.float64))


def pycocotools_stats(dataset, results):
    """The twelve numbers of pycocotools itself. Its annotation ids must not be 0."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = json.loads(json.dumps(dataset))
        for annotation in truth.dataset["annotations"]:
            annotation["id"] += 1
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(4))
def test_twelve_numbers_with_11_crowds_equal_pycocotools(engine, seed) -> None:
    dataset, results = draw_coco(np.random.default_rng(seed))
    truth, found = tables_of(dataset, results)
    assert int(truth.has(Flag.CROWD).sum()) == 11

    result = coco_ap(truth, found, engine=engine)

    expected = pycocotools_stats(dataset, results)
    assert tuple(result.stats) == COCO_STATS
    assert list(result.stats.values()) == pytest.approx(expected.tolist(), abs=1e-9)
    assert 0.2 < result.stats["AP"] < 0.8


@pytest.mark.parametrize("max_detections", [1, 5, 100, 300])
def test_engines_agree_with_flags_and_any_number_of_detections(rng, max_detections) -> None:
    truth, found = tables_of(*draw_coco(rng))
    flags = rng.choice(
        [0, Flag.CROWD, Flag.DIFFICULT, Flag.IGNORE], len(truth.boxes), p=[0.7, *[0.1] * 3]
    )
    truth = replace(truth, flags=flags.astype(np.uint8))

    one, other = (
        coco_ap(truth, found, engine=engine, max_detections=max_detections) for engine in ENGINES
    )

    assert one.stats == pytest.approx(other.stats, abs=1e-9, nan_ok=True)
    for name, columns in one.per_class.items():
        assert columns == pytest.approx(other.per_class[name], abs=1e-9, nan_ok=True)
    assert np.isnan(one.per_class["c90"]["AP"])


@pytest.mark.realdata
@pytest.mark.parametrize("engine", ENGINES)
def test_twelve_numbers_on_real_images_equal_pycocotools(realdata, rng, engine) -> None:
    file = next((realdata / "coco_tiny_val80/annotations").glob("*.json"))
    dataset = json.loads(file.read_text("utf-8"))
    dataset["annotations"] = [
        {key: a[key] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")}
        for a in dataset["annotations"]
    ]
    results = draw_results(rng, dataset)
    truth, found = tables_of(dataset, results)

    result = coco_ap(truth, found, engine=engine)

    expected = pycocotools_stats(dataset, results)
    assert list(result.stats.values()) == pytest.approx(expected.tolist(), abs=1e-9)


@pytest.mark.parametrize("engine", ENGINES)
class TestByHand:
    def test_average_precision_over_101_recalls(self, engine, truth_of, found_of) -> None:
        truth = truth_of([[("a", *BOX, 0)], [("a", *BOX, 0)]])
        found = found_of([[("a", *BOX, 0.9), ("a", *FAR, 0.8)], [("a", *BOX, 0.7)]])

        result = coco_ap(truth, found, engine=engine)

        # Precision is 1 at the 51 recalls 0 … .5, and 2/3 at the 50 above.
        assert result.stats["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)
        assert result.stats["AR1"] == 1
        assert result.per_class["a"]["objects"] == 2
        assert result.per_class["a"]["detections"] == 3

    def test_iou_thresholds(self, engine, truth_of, found_of) -> None:
        # IoU is 0.8: seven of the ten thresholds.
        truth, found = truth_of([[("a", *BOX, 0)]]), found_of([[("a", 0, 0, 10, 8, 0.9)]])

        stats = coco_ap(truth, found, engine=engine).stats

        assert stats["AP50"] == stats["AP75"] == pytest.approx(1)
        assert stats["AP"] == pytest.approx(0.7)

    def test_annotation_id_0_is_found(self, engine, truth_of, found_of) -> None:
        truth = truth_of([[("a", *BOX, 0)]], box_ids=np.array([0]))

        stats = coco_ap(truth, found_of([[("a", *BOX, 0.9)]]), engine=engine).stats

        assert stats["AP"] == pytest.approx(1)

    def test_no_detections_are_zero(self, engine, truth_of, found_of) -> None:
        result = coco_ap(truth_of([[("a", *BOX, 0)]]), found_of([[]]), engine=engine)

        assert result.stats["AP"] == result.stats["AR100"] == 0
        assert np.isnan(result.stats["APl"])

    def test_no_objects_are_undefined(self, engine, truth_of, found_of) -> None:
        result = coco_ap(truth_of([[]]), found_of([[("a", *BOX, 0.9)]]), engine=engine)

        assert np.isnan(list(result.stats.values())).all()
        assert np.isnan(result.per_class["a"]["AP"])
        assert result.per_class["a"]["detections"] == 1

    def test_nothing_at_all_is_undefined(self, engine, truth_of, found_of) -> None:
        assert np.isnan(coco_ap(truth_of([]), found_of([]), engine=engine).stats["AP"])

    def test_size_is_the_annotated_area_else_the_boxs(self, engine, truth_of, found_of) -> None:
        box = (0, 0, 40, 40)
        truth = truth_of([[("a", *box, 0)], [("a", *box, 0)]], areas=np.array([np.nan, 1000.0]))
        found = found_of([[("a", *box, 0.9)], []])

        stats = coco_ap(truth, found, engine=engine).stats

        assert stats["ARm"] == 1
        assert stats["ARs"] == 0

    def test_300_detections_an_image(self, engine, truth_of, found_of) -> None:
        wrong = [("a", *FAR, 0.9)] * 150
        truth, found = truth_of([[("a", *BOX, 0)]]), found_of([[*wrong, ("a", *BOX, 0.1)]])

        assert coco_ap(truth, found, engine=engine).stats["AR100"] == 0
        stats = coco_ap(truth, found, engine=engine, max_detections=300).stats
        assert stats["AR300"] == 1
        assert stats["AP"] == pytest.approx(1 / 151)

    @pytest.mark.parametrize(
        ("region", "classes_forgiven"),
        [
            (None, ""),
            (("a", *FAR, Flag.CROWD), "a"),
            (("a", *FAR, Flag.DIFFICULT), "a"),
            (("a", *FAR, Flag.IGNORE), "ab"),
            ((None, *FAR, 0), "ab"),
        ],
    )
    def test_regions_forgive(self, engine, truth_of, found_of, region, classes_forgiven) -> None:
        objects = [(name, *BOX, 0) for name in "ab"]
        truth = truth_of([[*objects, *([region] if region else [])]], "ab")
        inside = (202, 202, 206, 206)  # a share of 1 of the detection, of .16 of the union
        found = found_of(
            [[(name, *box, score) for name in "ab" for box, score in ((inside, 0.9), (BOX, 0.8))]],
            "ab",
        )

        result = coco_ap(truth, found, engine=engine)

        for name in "ab":
            expected = 1 if name in classes_forgiven else 0.5
            assert result.per_class[name]["AP"] == pytest.approx(expected)
            assert result.per_class[name]["objects"] == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_precision_at_each_recall_is_what_ap_is_the_mean_of(rng, engine) -> None:
    truth, found = tables_of(*draw_coco(rng))

    result = coco_ap(truth, found, engine=engine)

    assert result.precision is not None
    assert result.precision.shape == (10, 101, 4)
    assert np.nanmean(result.precision) == pytest.approx(result.stats["AP"])
    assert np.nanmean(result.precision[0]) == pytest.approx(result.stats["AP50"])
    for k, values in enumerate(result.per_class.values()):
        ap = result.precision[:, :, k].mean()
        assert ap == pytest.approx(values["AP"], nan_ok=True)
    assert np.isnan(result.precision[:, :, 3]).all()  # c90 has no objects


def test_pycocotools_says_nothing(truth_of, found_of, capfd) -> None:
    coco_ap(truth_of([[("a", *BOX, 0)]]), found_of([[]]), engine="pycocotools")
    coco_ap(truth_of([[("a", *BOX, 0)]]), found_of([[]]), engine="hotcoco")

    assert capfd.readouterr() == ("", "")


def test_tables_stay_as_they_were(rng) -> None:
    truth, found = tables_of(*draw_coco(rng))
    before = truth.boxes.copy(), found.boxes.copy(), found.scores.copy()

    coco_ap(truth, found)

    for old, new in zip(before, (truth.boxes, found.boxes, found.scores), strict=True):
        assert np.array_equal(old, new)


def test_other_classes_are_an_error(truth_of, found_of) -> None:
    with pytest.raises(DataError, match="match_classes"):
        coco_ap(truth_of([[]], "ab"), found_of([[]], "ba"))


def test_a_size_on_the_border_survives_xyxy(truth_of, found_of) -> None:
    box = (0.3, 0.3, 0.3 + 32, 0.3 + 32)
    assert box[2] - box[0] < 32

    stats = coco_ap(truth_of([[("a", *box, 0)]]), found_of([[("a", *box, 0.9)]])).stats

    assert stats["ARs"] == stats["ARm"] == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("far", [1e300, 1.7e308])
def test_boxes_too_large_for_an_area_are_judged_quietly(truth_of, found_of, engine, far) -> None:
    huge = (-far, -far, far, far)
    truth = truth_of([[("a", *BOX, 0), ("a", *huge, 0)]])
    found = found_of([[("a", *BOX, 0.9), ("a", *huge, 0.8)]])

    assert coco_ap(truth, found, engine=engine).stats["AP"] > 0.5

"""COCO AP of 5,000 images × 100 detections, 80 classes, beside pycocotools.

    .venv/bin/python benchmarks/evaluate.py

Both start from the same tables in memory and end with the twelve numbers, each in a process of its
own and in turn. Ours counts the way into the engine, per-class numbers and curves; pycocotools'
counts indexing, `evaluate`, `accumulate` and `summarize`. The file round of `dh eval --detections`
(reading a results JSON, 500,000 rows) is a row of its own, beside `COCO.loadRes`.
Medians and ratios are added to `benchmarks/results/evaluate.csv`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import RESULTS, about, add_row

from dhcli.data.formats import read_results, results_of
from dhcli.data.table import DetectionTable, make_table
from dhcli.metrics.coco import COCO_STATS, coco_ap

CLASSES, OBJECTS = 80, 7
Job = Callable[[], list[float]]


def draw(images: int, detections: int, seed: int = 0) -> tuple[DetectionTable, DetectionTable]:
    """Objects, and detections of which about half lie near one."""
    dice = np.random.default_rng(seed)
    count = images * OBJECTS
    corners = dice.random((count, 2)) * [540, 380]
    boxes = np.round(np.hstack([corners, corners + dice.random((count, 2)) ** 2 * 200 + 4]), 2)
    labels = dice.integers(0, CLASSES, count)
    names = [str(k) for k in range(CLASSES)]
    files = [f"{i}.jpg" for i in range(images)]
    sizes = np.tile([640, 480], (images, 1))
    per_image = np.full(images, OBJECTS)
    truth = make_table(Path(), files, sizes, per_image, boxes, labels, names)
    owner = np.repeat(np.arange(images), detections)
    near = owner * OBJECTS + dice.integers(0, OBJECTS, len(owner))
    shift = dice.normal(0, 1, (len(owner), 4)) * dice.choice([2, 8, 80], (len(owner), 1))
    found_boxes = boxes[near] + shift
    found_boxes[:, 2:] = np.maximum(found_boxes[:, 2:], found_boxes[:, :2] + 1)
    wrong = dice.random(len(owner)) < 0.4
    found_labels = np.where(wrong, dice.integers(0, CLASSES, len(owner)), labels[near])
    found = make_table(
        Path(),
        files,
        sizes,
        np.full(images, detections),
        np.round(found_boxes, 2),
        found_labels,
        names,
        scores=np.round(dice.random(len(owner)), 4),
    )
    return truth, found


def ours(truth: DetectionTable, found: DetectionTable) -> Job:
    coco_ap(*draw(2, 2))  # imports

    def run() -> list[float]:
        stats = coco_ap(truth, found).stats
        return [stats[name] for name in COCO_STATS]

    return run


def pycocotools(truth: DetectionTable, found: DetectionTable) -> Job:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    documents = [_document(table) for table in (truth, found)]

    def run() -> list[float]:
        sides = [COCO(), COCO()]
        for side, document in zip(sides, documents, strict=True):
            side.dataset = document
            side.createIndex()
        judge = COCOeval(*sides, "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        return judge.stats.tolist()

    return run


def read_ours(truth: DetectionTable, found: DetectionTable) -> Job:
    path = _write(found)
    return lambda: [len(read_results(path, truth).boxes)]


def read_pycocotools(truth: DetectionTable, found: DetectionTable) -> Job:
    from pycocotools.coco import COCO

    index, path = COCO(), _write(found)
    index.dataset = _document(truth)
    index.createIndex()
    return lambda: [len(index.loadRes(str(path)).anns)]


JOBS = {
    "AP": {"ours": ours, "pycocotools": pycocotools},
    "read detections": {"ours": read_ours, "pycocotools": read_pycocotools},
}


def _document(table: DetectionTable) -> dict[str, Any]:
    rows = list(results_of(table))
    for number, row in enumerate(rows, 1):
        row |= {"id": number, "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
    images = [{"id": number} for number in table.image_ids.tolist()]
    categories = [{"id": number} for number in table.category_ids.tolist()]
    return {"images": images, "categories": categories, "annotations": rows}


def _write(found: DetectionTable) -> Path:
    path = Path(tempfile.gettempdir()) / "dh-benchmark.bbox.json"
    path.write_text(json.dumps(list(results_of(found))))
    return path


def do_job(work: str, who: str, images: int, detections: int) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        run = JOBS[work][who](*draw(images, detections))
        begun = time.perf_counter()
        told = run()
    return {"seconds": time.perf_counter() - begun, "told": told}


def in_turn(work: str, options: argparse.Namespace) -> dict[str, Any]:
    """A row: medians of `options.rounds` fresh processes each, which must tell the same."""
    seconds: dict[str, list[float]] = {who: [] for who in JOBS[work]}
    told = {}
    for _ in range(options.rounds):
        for who, times in seconds.items():
            job = ["--job", work, who, str(options.images), str(options.detections)]
            command = [sys.executable, __file__, *job]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            report = json.loads(done.stdout.splitlines()[-1])
            times.append(report["seconds"])
            told[who] = report["told"]
    np.testing.assert_allclose(told["ours"], told["pycocotools"], atol=1e-12, rtol=0)
    medians = {who: statistics.median(times) for who, times in seconds.items()}
    return {
        "work": work,
        "images": options.images,
        "detections": options.images * options.detections,
        "rounds": options.rounds,
        "seconds": round(medians["ours"], 3),
        "peer": "pycocotools",
        "peer_seconds": round(medians["pycocotools"], 2),
        "ratio": round(medians["ours"] / medians["pycocotools"], 4),
        "largest_difference": float(np.max(np.abs(np.subtract(told["ours"], told["pycocotools"])))),
    }


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        work, who, images, detections = sys.argv[2:]
        print(json.dumps(do_job(work, who, int(images), int(detections))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "evaluate.csv")
    options = parser.parse_args()
    where = about("numpy", "hotcoco", "pycocotools")
    for work in JOBS:
        add_row(options.out, in_turn(work, options) | where)


if __name__ == "__main__":
    main()

"""What detections are worth on a dataset: any metrics, what was compared, and its files. No torch.

`dh eval --detections` lives on this alone; `evaluate.py` adds the detector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.atomic import atomic_write
from dhcli.config.heads import ReadOut, choose_read_out
from dhcli.data.formats import (
    CATEGORIES,
    RESULTS,
    describe,
    named_ids,
    place_on,
    read_dataset,
    read_detections,
    results_of,
    unread_rows,
)
from dhcli.data.table import DetectionTable
from dhcli.data.tools.mend import fit_to_files, with_sound_boxes
from dhcli.errors import DataError
from dhcli.metrics.calibration import Calibration, calibration
from dhcli.metrics.coco import Engine, coco_ap
from dhcli.metrics.judge import Judged, judge
from dhcli.metrics.kitti import kitti_ap
from dhcli.metrics.names import Metric
from dhcli.metrics.operating import (
    IOU,
    KEY,
    OperatingPoint,
    OperatingPoints,
    best_f1,
    find_points,
    measure_at,
    reach_precision,
)
from dhcli.metrics.pair import check_common, match_classes, quote_names
from dhcli.metrics.result import ApResult
from dhcli.metrics.voc import voc_ap
from dhcli.ops.arrays import box_areas
from dhcli.report.plain import csv_text
from dhcli.report.sheet import Column, Sheet, unit_of
from dhcli.runtime.runner import Runner
from dhcli.words import counted

Say = Callable[[str], None]
"""Takes a line for people."""


@dataclass(frozen=True)
class Measures:
    """What to measure.

    split    name of the split, `all` for every image; None: val, else test, else every image
    metrics  which averages
    engine   what computes COCO's
    scores   the branch of a model, or the fusion, that scores; None: as it is configured
    boxes    the branch of a model that places the boxes; None: as it is configured
    every    every read-out of a model instead
    most     detections per image that COCO's metrics look at, where more than their 100
    target   precision that the score threshold is to reach; None: the threshold of best F1
    """

    split: str | None = None
    metrics: tuple[Metric, ...] = ("coco",)
    engine: Engine = "hotcoco"
    scores: str | None = None
    boxes: str | None = None
    every: bool = False
    most: int = 100
    target: float | None = None

    def choose(self, runner: Runner) -> list[ReadOut]:
        """The read-outs to measure. Raises ConfigError where `runner` has none like it."""
        if self.every:
            return runner.read_outs()
        return [choose_read_out(runner.config.model, self.scores, self.boxes)]


@dataclass(frozen=True)
class Evaluation:
    """Detections with the ground truth, and their metrics.

    truth             the images that were evaluated, with all their boxes
    found             the detections, classes and category ids those of `truth`
    split             name of the split, `all` for every image
    scored            classes that both sides know: the ones that count
    unknown_to_model  classes of the data that are not scored
    unknown_to_data   classes of the detections that are not scored
    others            what boxes of classes that are not scored become, see `with_classes`
    results           what each metric found
    points            score thresholds of best F1, or that reach `target`
    target            the precision that was to be reached, if one was
    stored            what the thresholds that the model stores are worth here; None without any
    calibration       how far scores are from the precision
    """

    truth: DetectionTable = field(repr=False)
    found: DetectionTable = field(repr=False)
    split: str
    scored: tuple[str, ...]
    unknown_to_model: tuple[str, ...]
    unknown_to_data: tuple[str, ...]
    others: str
    results: dict[Metric, ApResult]
    points: OperatingPoints
    target: float | None
    stored: OperatingPoint | None
    calibration: Calibration

    @property
    def stats(self) -> dict[str, float]:
        """The overall numbers of the first metric by name, such as `AP50`: fractions in [0, 1]."""
        return next(iter(self.results.values())).stats

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """The numbers of the first metric by class and name; NaN where undefined."""
        return next(iter(self.results.values())).per_class

    def compared(self) -> tuple[DetectionTable, DetectionTable]:
        """Ground truth and detections of the classes that are scored, as COCO's metric has them."""
        truth = self.truth.with_classes(self.scored, others=self.others)
        return truth, match_classes(self.found, truth)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: fractions in [0, 1], null for what is undefined."""
        return {
            "data": str(self.truth.root),
            "split": self.split,
            "images": len(self.truth),
            "detections": len(self.found.boxes),
            "classes": {
                "scored": self.scored,
                "unknown_to_model": self.unknown_to_model,
                "unknown_to_data": self.unknown_to_data,
            },
            "metrics": {
                metric: {
                    "stats": _without_nan(result.stats),
                    "per_class": {k: _without_nan(v) for k, v in result.per_class.items()},
                }
                for metric, result in self.results.items()
            },
            KEY: {
                "target_precision": self.target,
                **self.points.as_dict(),
                "stored": self.stored and _without_nan(asdict(self.stored)),
            },
            "calibration": self.calibration.as_dict(),
        }


def evaluate_results(
    detections: Path | DetectionTable,
    data: Path | DetectionTable,
    measures: Measures,
    *,
    say: Say,
    top_k: int | None = None,
) -> Evaluation:
    """Score the detections of any tool, COCO results or any format, on the dataset `data`.

    The objects are where the image files have them, as for a model. `top_k`: of each image only
    the best of its detections.

    Raises DataError where either cannot be read, or the file is not about these images.
    """
    table = sound_truth(read_truth(data), say)
    split, images = choose_split(table, measures.split)
    truth = table.take_images(images)
    if isinstance(detections, DetectionTable):
        where = detections.root
        every = replace(place_on(detections, table, where), notes=())  # they were said before
    else:
        where = detections
        every = read_detections(where, table)
    introduce(table, truth, split, every.classes, say)
    if not len(every.boxes):
        say(f"warning: {where} holds no detections")
    for line in every.notes:
        say(f"of the detections: {line}")
    for line in unread_rows(every):
        say(f"warning: of the detections, {line}")
    found = every.take_images(images)
    if top_k is not None:
        found = _best_of_each_image(found, top_k)
    _check_overlap(every.image_of_box, table, images, split, where, say)
    return score(truth, found, split, measures)


def _best_of_each_image(found: DetectionTable, most: int) -> DetectionTable:
    assert found.scores is not None
    order = np.lexsort((-found.scores, found.image_of_box))
    keep = np.zeros(len(order), bool)
    keep[order] = np.arange(len(order)) - found.offsets[found.image_of_box] < most
    return found.keep_boxes(keep)


def read_truth(data: Path | DetectionTable) -> DetectionTable:
    """The dataset at a path, or the one that was read before. Raises DataError."""
    return data if isinstance(data, DetectionTable) else read_dataset(data)


def sound_truth(table: DetectionTable, say: Say) -> DetectionTable:
    """The table with boxes where its image files have them, all of them boxes; says what was done.

    So it is what training sees, but for boxes beyond the image or without area.
    """
    fitted, lines = fit_to_files(table)
    sound, more = with_sound_boxes(fitted)
    for line in (*lines, *more):
        say(f"warning: {line}")
    return sound


def _check_overlap(
    detected: NDArray[np.int64],
    table: DetectionTable,
    images: NDArray[np.int64],
    split: str,
    path: Path,
    say: Say,
) -> None:
    """Say how many detections are on other images than those of the split.

    `detected` (D,) has the image number of each detection in the file `path`, `images` those of
    the split. Raises DataError where every one is on another.
    """
    elsewhere = ~np.isin(detected, images)
    if not elsewhere.any():
        return
    others = np.unique(detected[elsewhere])
    where = f"on {counted(len(others), 'image')} outside the split `{split}`"
    count = counted(int(elsewhere.sum()), "detection")
    if elsewhere.all():
        homes = {name: int(np.isin(rows, others).sum()) for name, rows in table.splits.items()}
        home = max(homes, key=lambda name: homes[name]) if any(homes.values()) else "all"
        hint = f"evaluate on the images it was made for: `--split {home}`"
        raise DataError(f"everything it holds is {where}: {count}", where=path, hint=hint)
    say(f"{count} {where}: left out")


def choose_split(table: DetectionTable, name: str | None) -> tuple[str, NDArray[np.int64]]:
    """The split to evaluate and its image numbers: `name`, else val, else test, else all.

    Raises DataError where the dataset has no such split, or nothing in it.
    """
    if name is None:
        name = next((split for split in ("val", "test") if len(table.splits.get(split, ()))), "all")
    if name == "all" and name not in table.splits:
        return name, np.arange(len(table), dtype=np.int64)
    if not len(table.split(name)):  # raises where there is none of this name
        raise DataError(f"the split `{name}` holds no images", where=table.root)
    return name, table.splits[name]


def introduce(
    table: DetectionTable, truth: DetectionTable, split: str, known: Sequence[str], say: Say
) -> None:
    """Say what was recognised, which images are evaluated, and what cannot be scored.

    `known` are the classes of the model or the detections.
    Raises DataError where none of them is in the data.
    """
    say(describe(table))
    which = "all images" if split == "all" else f"the split `{split}`"
    say(f"evaluating {which}: {counted(len(truth), 'image')}, {counted(len(truth.boxes), 'box')}")
    flat = int(np.sum((box_areas(truth.boxes) == 0) & ~truth.regions(crowds=False)))
    if flat:
        say(f"boxes without area: {flat}; no detection can match them, so they count as missed")
    check_common(known, truth)
    if strangers := _without(truth.classes, known):
        say(f"not scored, because the model does not know these classes: {quote_names(strangers)}")
    if absent := _without(known, truth.classes):
        say(f"not scored, because the data does not have these classes: {quote_names(absent)}")


def score(
    truth: DetectionTable,
    found: DetectionTable,
    split: str,
    measures: Measures,
    *,
    others: str = "drop",
    stored: OperatingPoints | None = None,
) -> Evaluation:
    """Measure `found` on the same images of `truth`. Classes are matched by name.

    Boxes of classes that `found` does not know are left out of the truth (`others` "drop") or
    become regions to ignore ("ignore"). KITTI's AP has its own rule for them and sees them all.
    `stored` are the operating points of the model, to be measured too.
    Raises DataError where no class is in common.
    """
    matched = match_classes(found, truth)
    unknown_to_model = _without(truth.classes, found.classes)
    scored = _without(truth.classes, unknown_to_model)
    narrow = truth.with_classes(scored, others=others)
    narrow_found = match_classes(found, narrow)

    judged = judge(narrow, narrow_found, IOU)
    target = measures.target
    pick = best_f1 if target is None else partial(reach_precision, target=target)
    return Evaluation(
        truth=truth,
        found=matched,
        split=split,
        scored=scored,
        unknown_to_model=unknown_to_model,
        unknown_to_data=_without(found.classes, scored),
        others=others,
        results={
            metric: kitti_ap(truth, found)
            if metric == "kitti"
            else _measure(metric, narrow, narrow_found, measures)
            for metric in measures.metrics
        },
        points=find_points(judged, pick),
        target=target,
        stored=None if stored is None else measure_at(judged, stored),
        calibration=calibration(Judged.together(judged.values())),
    )


def _measure(
    metric: Literal["coco", "voc07", "voc12"],
    truth: DetectionTable,
    found: DetectionTable,
    measures: Measures,
) -> ApResult:
    """What a metric that only looks at the classes of both sides finds."""
    if metric == "coco":
        most = max(100, measures.most)
        return coco_ap(truth, found, engine=measures.engine, max_detections=most)
    return voc_ap(truth, found, rule=metric)


def save_evaluation(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the evaluation into `folder`; the files, all written whole.

    metrics.json           what `as_dict` says
    per_class.csv          a row per metric and class, empty what is undefined or not of that metric
    categories.json        the images and classes that the ids of the detections stand for
    predictions.bbox.json  the detections as COCO results
    """
    names = ("metrics.json", "per_class.csv", CATEGORIES, RESULTS)
    metrics, per_class, named, predictions = files = [folder / name for name in names]
    with atomic_write(predictions) as file:
        for index, row in enumerate(results_of(evaluation.found)):
            file.write(b",\n" if index else b"[\n")
            file.write(json.dumps(row).encode("utf-8"))
        file.write(b"\n]\n" if len(evaluation.found.boxes) else b"[]\n")
    with atomic_write(named) as file:
        file.write(json.dumps(named_ids(evaluation.found), indent=1).encode())
    with atomic_write(metrics) as file:
        text = json.dumps(evaluation.as_dict(), indent=2, ensure_ascii=False)
        file.write(f"{text}\n".encode())
    with atomic_write(per_class) as file:
        text = csv_text(_per_class(evaluation.results))
        file.write(text.encode("utf-8", "surrogateescape"))
    return files


def _per_class(results: Mapping[Metric, ApResult]) -> Sheet:
    """The numbers of every class by every metric; None where a metric has no such number."""
    classes = [
        (metric, name, values)
        for metric, result in results.items()
        for name, values in result.per_class.items()
    ]
    units = {name: unit_of(value) for _, _, values in classes for name, value in values.items()}
    return Sheet(
        "Every class",
        (Column("metric"), Column("class"), *(Column(name, unit) for name, unit in units.items())),
        tuple((metric, name, *map(values.get, units)) for metric, name, values in classes),
    )


def _without(names: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """The names that are not among `others`, in their order."""
    return tuple(name for name in names if name not in others)


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in values.items()}

"""Which of two detectors is better, and how sure: a paired bootstrap over images.

    .venv/bin/python benchmarks/bootstrap.py --data ../shared/data/bccd --split test \
        --ours runs/ext-0 runs/ext-1 --other runs/fc-0 runs/fc-1

Both sides are evaluated on the same images. These are drawn with replacement 2,000 times, and each
time the numbers of both sides are computed on the same draw; the interval holds the middle 95 % of
the differences (Efron and Tibshirani 1993, chapter 13). Of the models of a side (seeds), each draw
picks as many with replacement, and takes their mean: so the interval holds what seeds do, too.
Who matched whom comes from pycocotools; it does not depend on the other images, so a draw only
counts again. A row is added to `benchmarks/results/bootstrap.csv`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import RESULTS, about, add_row

from dhcli.inference.evaluate import evaluate_model
from dhcli.inference.score import Evaluation, Measures
from dhcli.metrics.coco import judge_by_pycocotools
from dhcli.metrics.pair import match_classes
from dhcli.weights.locate_model import locate_model

Floats = NDArray[np.float64]
NUMBERS = {"AP": slice(0, 10), "AP50": slice(0, 1), "AP75": slice(5, 6)}
"""Rows of the IoU thresholds .5, .55 … .95 that each is the mean of."""
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Matches:
    """Detections of one class, best first, and how many objects each image has.

    image    (D,) int64
    right    (10, D) bool by IoU threshold
    counted  (10, D) bool, False for what lies on a region to ignore
    objects  (I,) float64
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: Floats

    def average_precision(self, times: Floats) -> Floats:
        """AP (10,) by threshold where image i comes times[i] times; NaN without objects."""
        objects = times @ self.objects
        if not objects:
            return np.full(10, np.nan)
        weight = times[self.image] * self.counted
        right = np.cumsum(weight * self.right, axis=1)
        precision = right / np.maximum(np.cumsum(weight, axis=1), 1e-12)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.zeros((10, len(RECALLS)))
        for k, recall in enumerate(right / objects):
            place = np.searchsorted(recall, RECALLS - 1e-12)
            inside = place < len(recall)
            found[k, inside] = precision[k, place[inside]]
        mean: Floats = found.mean(1)
        return mean


def matches_of(evaluation: Evaluation) -> list[Matches]:
    """Those of every class that is scored."""
    truth = evaluation.truth.with_classes(evaluation.scored, others="drop")
    judge = judge_by_pycocotools(truth, match_classes(evaluation.found, truth))
    images, every = len(truth), len(judge.params.areaRng) * len(truth)
    return [
        _of_class(judge.evalImgs[k * every : k * every + images], images)
        for k in range(len(truth.classes))
    ]


def _of_class(judged: list[dict[str, Any] | None], images: int) -> Matches:
    """From what COCOeval says of each image, at all sizes."""
    objects = np.zeros(images)
    parts: list[tuple[Floats, NDArray[np.int64], Any, Any]] = []
    for image, of_image in enumerate(judged):
        if of_image is None:
            continue
        objects[image] = np.sum(np.asarray(of_image["gtIgnore"]) == 0)
        scores = np.asarray(of_image["dtScores"], np.float64)
        where = np.full(len(scores), image)
        parts.append((scores, where, of_image["dtMatches"] > 0, of_image["dtIgnore"] == 0))
    if not parts:
        none = np.zeros((10, 0), bool)
        return Matches(np.zeros(0, np.int64), none, none, objects)
    scores, where, right, counted = (
        np.concatenate([np.asarray(part[n]) for part in parts], axis=-1) for n in range(4)
    )
    order = np.argsort(-scores, kind="mergesort")  # as COCOeval
    return Matches(where[order], right[:, order], counted[:, order], objects)


def numbers(classes: list[Matches], times: Floats) -> Floats:
    """AP, AP50 and AP75 where image i comes times[i] times."""
    by_class = np.array([one.average_precision(times) for one in classes])
    return np.array([np.nanmean(by_class[:, rows]) for rows in NUMBERS.values()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default=None)
    parser.add_argument("--ours", type=Path, nargs="+", required=True)
    parser.add_argument("--other", type=Path, nargs="+", required=True)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    sides = [[judge(path, options) for path in side] for side in (options.ours, options.other)]
    whole = np.ones(len(sides[0][0][0].objects))
    means = [np.mean([numbers(model, whole) for model in side], axis=0) for side in sides]
    rng = np.random.default_rng(0)
    differences = np.array([one_draw(sides, rng) for _ in range(options.draws)])
    low, high = np.percentile(differences, (2.5, 97.5), axis=0)
    for n, name in enumerate(NUMBERS):
        row = {
            "data": options.data.name,
            "split": options.split or "default",
            "number": name,
            "ours": f"{means[0][n]:.4f}",
            "other": f"{means[1][n]:.4f}",
            "difference": f"{means[0][n] - means[1][n]:+.4f}",
            "low": f"{low[n]:+.4f}",
            "high": f"{high[n]:+.4f}",
        }
        add_row(RESULTS / "bootstrap.csv", row | about("torch", "pycocotools"))


def judge(path: Path, options: argparse.Namespace) -> list[Matches]:
    """The matches of the model at `path`, whose AP is held against the engine's."""
    weights = locate_model(path)[0] if path.is_dir() else path
    [found] = evaluate_model(weights, options.data, Measures(options.split), say=print).values()
    matches = matches_of(found)
    again = numbers(matches, np.ones(len(found.truth)))
    assert np.allclose(again, [found.stats[name] for name in NUMBERS], atol=1e-9), again
    return matches


def one_draw(sides: list[list[list[Matches]]], rng: np.random.Generator) -> Floats:
    """The difference of the sides' means on images, and models, drawn with replacement."""
    images = len(sides[0][0][0].objects)
    times = np.bincount(rng.integers(images, size=images), minlength=images).astype(np.float64)
    means = []
    for side in sides:
        chosen = rng.integers(len(side), size=len(side))
        values = {k: numbers(side[k], times) for k in set(chosen.tolist())}
        means.append(np.mean([values[k] for k in chosen.tolist()], axis=0))
    difference: Floats = means[0] - means[1]
    return difference


if __name__ == "__main__":
    main()

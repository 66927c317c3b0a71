"""Which of two detectors is better, and how sure: a paired bootstrap over images.

    .venv/bin/python benchmarks/bootstrap.py --data ../shared/data/bccd --split test \
        --ours runs/ext-0 runs/ext-1 --other runs/fc-0 runs/fc-1

Both sides are evaluated on the same images. These are drawn with replacement 2,000 times, and each
time the numbers of both sides are computed on the same draw; the interval holds the middle 95 % of
the differences (Efron and Tibshirani 1993, chapter 13). Of the models of a side (seeds), each draw
picks as many with replacement, and takes their mean: so the interval holds what seeds do, too.
What is general lives in `dhcli/metrics/bootstrap.py`. A row is added to
`benchmarks/results/bootstrap.csv`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from record import RESULTS, about, add_row

from dhcli.inference.evaluate import evaluate_model
from dhcli.inference.score import Measures
from dhcli.metrics.bootstrap import (
    MIDDLE,
    NUMBERS,
    Floats,
    Matches,
    averages,
    draw_times,
    matches_of,
)
from dhcli.weights.locate_model import locate_model


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
    means = [np.mean([averages(model, whole) for model in side], axis=0) for side in sides]
    rng = np.random.default_rng(0)
    differences = np.array([one_draw(sides, rng) for _ in range(options.draws)])
    low, high = np.percentile(differences, MIDDLE, axis=0)
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
    matches = matches_of(*found.compared())
    again = averages(matches, np.ones(len(found.truth)))
    assert np.allclose(again, [found.stats[name] for name in NUMBERS], atol=1e-9), again
    return matches


def one_draw(sides: list[list[list[Matches]]], rng: np.random.Generator) -> Floats:
    """The difference of the sides' means on images, and models, drawn with replacement."""
    images = len(sides[0][0][0].objects)
    times = draw_times(images, rng)
    means = []
    for side in sides:
        chosen = rng.integers(len(side), size=len(side))
        values = {k: averages(side[k], times) for k in set(chosen.tolist())}
        means.append(np.mean([values[k] for k in chosen.tolist()], axis=0))
    difference: Floats = means[0] - means[1]
    return difference


if __name__ == "__main__":
    main()

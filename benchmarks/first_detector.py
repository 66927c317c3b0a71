"""From a folder of photos to an evaluated detector, in a given number of minutes.

    .venv/bin/python benchmarks/first_detector.py --data ../shared/data/bccd --split test \
        --minutes 6 --out /tmp/first [--detectors light fc cascade] [--seeds 0 1 2]

The detectors get the same images and the same minutes of training:

light        the preset `light`: Double-Head-Ext on EfficientNet-Lite0 with ImageNet weights
double       Double-Head on the same backbone
fc           one fc branch on the same backbone, everything else alike
cascade      the preset `light-cascade`: one fc branch in three stages on the same backbone
torchvision  torchvision's Faster R-CNN MobileNetV3-Large-320, made for CPUs; its weights cannot be
             had without a network, so it starts from random ones

How many iterations fit into the minutes is measured first, for each detector alone: a run of
`--probe` iterations, whose log says images per second. `--rates fc=9.1` takes a rate that was
measured before, so that trainings beside other work get the iterations of a free machine. Then each
trains by `dh train` and is measured by `dh eval`, each in a process of its own. Rows are added to
`benchmarks/results/first-detector.csv`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from record import RESULTS, about, add_row, dh

READ = ("model.head.scores=auto", "model.head.boxes=auto")
DETECTORS: dict[str, list[str]] = {
    "light": [],
    "double": ["model.head.branches.fc.lambda=1", "model.head.branches.conv.lambda=1", *READ],
    "fc": ["model.head.branches=[{kind: fc, width: 512, omega: 2, lambda: 0.5}]", *READ],
    "cascade": [],
    "torchvision": [
        *("model.kind=torchvision", "model.name=fasterrcnn_mobilenet_v3_large_320_fpn"),
        *("model.backbone.weights=none", "model.backbone.norm=bn"),
        "model.backbone.frozen_stages=0",
    ],
}
OWN_PRESETS = {"cascade": "light-cascade"}
"""Detectors that are not settings of `--preset`."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val", help="to measure on")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="light")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=["light", "fc"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--probe", type=int, default=25, help="iterations")
    parser.add_argument("--rates", nargs="*", default=[], metavar="DETECTOR=IMAGES_PER_SECOND")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    rates = {name: float(rate) for name, _, rate in (text.partition("=") for text in options.rates)}
    for seed in options.seeds:  # seed by seed, so that a run that is cut short still compares
        for name in options.detectors:
            if name not in rates:
                rates[name] = probe(name, options)
            row = one_run(name, seed, rates[name], options)
            add_row(RESULTS / "first-detector.csv", row | about("torch", "torchvision", "timm"))


def probe(name: str, options: argparse.Namespace) -> float:
    """Images per second of a short training, after its first iterations."""
    out = options.out / f"{name}-probe"
    train(name, 0, options.probe, out, options, "train.schedule.warmup=0")
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    rates = [event["images_per_second"] for event in events if "images_per_second" in event]
    return float(rates[-1])


def one_run(name: str, seed: int, rate: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train for the planned minutes, evaluate, and say what came out."""
    out = options.out / f"{name}-{seed}"
    batch = recipe(name, options)["batch_size"]
    iterations = round(60 * options.minutes * rate / batch)
    begun = time.perf_counter()
    train(name, seed, iterations, out, options)
    trained = time.perf_counter() - begun
    stats = evaluate(out, options)
    whole = time.perf_counter() - begun
    return {
        "data": options.data.name,
        "split": options.split,
        "detector": name,
        "preset": preset_of(name, options),
        "seed": seed,
        "minutes": options.minutes,
        "images_per_second": f"{rate:.2f}",
        "iterations": iterations,
        "batch": batch,
        **{key: f"{stats[key]:.4f}" for key in ("AP", "AP50", "AP75")},
        "training_s": f"{trained:.0f}",
        "whole_s": f"{whole:.0f}",
    }


def recipe(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """The settings of training."""
    shown = dh("presets", "show", preset_of(name, options), *settings(name, options), "--json")
    train: dict[str, Any] = json.loads(shown)["config"]["train"]
    return train


def train(
    name: str, seed: int, iterations: int, out: Path, options: argparse.Namespace, *more: str
) -> None:
    """`dh train` for so many iterations, without validation: the test comes after it."""
    planned = recipe(name, options)["schedule"]
    steps = [max(1, round(step * iterations / planned["length"])) for step in planned["steps"]]
    length = f"train.schedule={{unit: iteration, length: {iterations}, steps: {steps}}}"
    quiet = ("train.eval_every=0", "train.save_every=0", length, *more)
    words = ["--preset", preset_of(name, options), "--data", str(options.data), "--out", str(out)]
    words += ["--seed", str(seed), "--overwrite", *settings(name, options)]
    dh("train", *words, *(word for one in quiet for word in ("--set", one)))


def preset_of(name: str, options: argparse.Namespace) -> str:
    """The preset that the detector `name` starts from."""
    return OWN_PRESETS.get(name, options.preset)


def settings(name: str, options: argparse.Namespace) -> list[str]:
    """What makes the preset the detector `name`."""
    return [word for one in (*DETECTORS[name], *options.set) for word in ("--set", one)]


def evaluate(run: Path, options: argparse.Namespace) -> dict[str, float]:
    """COCO's numbers of the last model of `run`."""
    words = ("--weights", str(run), "--data", str(options.data), "--split", options.split)
    stats: dict[str, float] = json.loads(dh("eval", *words, "--json"))["metrics"]["coco"]["stats"]
    return stats


if __name__ == "__main__":
    main()

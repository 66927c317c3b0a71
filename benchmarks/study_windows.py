"""What `dh study windows` costs beside the branches alone, on drawn shapes: RoIs a second, memory.

    .venv/bin/python benchmarks/study_windows.py
    .venv/bin/python benchmarks/study_windows.py --preset demo --side 320 --objects 20

A model of random weights: what a branch costs does not depend on them. `share` is the part of the
study's time that goes into RoIAlign and the branches; `ratio` is the study's RoIs per second beside
those of RoIAlign and the branches alone, run on the windows of one object again and again in the
same process, before and after the study. Rows are added to `benchmarks/results/study-windows.csv`.
The paper's 14,000 windows an object take hours on a CPU, and are more of the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, about, add_row, peak_mb

from dhcli.config.detecting import DetectOptions
from dhcli.data.shapes import CLASSES, shapes_table
from dhcli.runtime.eager import EagerRunner
from dhcli.studies.groups import group_objects
from dhcli.studies.objects import Objects, read_objects, views
from dhcli.studies.subjects import Subject
from dhcli.studies.windows import lay_windows, study_windows
from dhcli.weights.configure import configure


def subjects_of(preset: str, side: int | None, device: str) -> list[Subject]:
    """The branches of an untrained detector that knows the drawn classes."""
    sets = ["model.backbone.weights=none", "model.anchors.sizes=[32,64,128,256,512]"]
    if side:
        sets += [f"input.min_size={side}", f"input.max_size={side * 5 // 3}"]
    config = configure(preset, overrides=sets).config
    runner = EagerRunner.untrained(config, len(CLASSES), DetectOptions(device=device))
    runner = replace(runner, classes=tuple(CLASSES))
    branches = [branch.name for branch in config.model.head.branches]
    return [Subject(name, preset, runner, name) for name in branches]


def cut(objects: Objects, most: int) -> Objects:
    """The first objects."""
    columns = ("images", "boxes", "labels", "sizes")
    return replace(objects, **{name: getattr(objects, name)[:most] for name in columns})


def bare_rate(subjects: Sequence[Subject], objects: Objects, windows: int, repeats: int) -> float:
    """RoIs a second of RoIAlign and the branches alone: the best of `repeats`."""
    view = next(iter(views(objects, subjects[0].runner)))
    levels = subjects[0].levels(view.batch)
    height, width = view.batch.sizes[0].tolist()
    laid = lay_windows(view.boxes[0], (width, height), windows, (0, 0))
    boxes = torch.from_numpy(laid).float().to(view.batch.pixels.device)
    images = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    seconds = []
    for _ in range(repeats):
        begun = _now(boxes.device)
        with torch.inference_mode():
            for subject in subjects:
                subject.head.run_in_groups(subject.branch, levels, boxes, images)
        seconds.append(_now(boxes.device) - begun)
    return len(boxes) * len(subjects) / min(seconds)


@contextmanager
def timing(subjects: Sequence[Subject], spent: list[float]) -> Iterator[None]:
    """While it lasts, the seconds in RoIAlign and in the branches are added to `spent`."""
    parts = [subjects[0].detector.head.pool, *(subject.module for subject in subjects)]
    device = subjects[0].runner.device
    begun: list[float] = []
    hooks = [
        hook
        for part in parts
        for hook in (
            part.register_forward_pre_hook(lambda *_: begun.append(_now(device))),
            part.register_forward_hook(lambda *_: spent.append(_now(device) - begun.pop())),
        )
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    subjects = subjects_of(options.preset, options.side, options.device)
    with tempfile.TemporaryDirectory() as folder:
        table = shapes_table(Path(folder), images=1 + options.objects // 3, seed=0, size=(640, 480))
        objects = cut(read_objects(table, "all", subjects, say=lambda _: None), options.objects)
        alone = [bare_rate(subjects, objects, options.windows, options.repeats)]
        spent: list[float] = []
        with timing(subjects, spent):
            begun = time.perf_counter()
            study = study_windows(subjects, objects, group_objects(objects), count=options.windows)
            seconds = time.perf_counter() - begun
        alone.append(bare_rate(subjects, objects, options.windows, options.repeats))
    rois = study.facts["windows"] * len(subjects)
    bare = sum(alone) / len(alone)
    return {
        "preset": options.preset,
        "side": subjects[0].runner.config.input.min_size,
        "objects": len(objects),
        "windows": study.facts["windows"],
        "seconds": round(seconds, 1),
        "rois_a_second": round(rois / seconds, 1),
        "bare_rois_a_second": round(bare, 1),
        "ratio": round(rois / seconds / bare, 3),
        "share": round(sum(spent) / seconds, 3),
        "peak_mb": round(peak_mb()),
        "device": subjects[0].runner.place,
        "threads": torch.get_num_threads(),
    }


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--preset", default="coco-r50-ext")
    parser.add_argument("--side", type=int, help="shortest side (default: the preset's, 800)")
    parser.add_argument("--objects", type=int, default=500)
    parser.add_argument("--windows", type=int, default=400, help="per object")
    parser.add_argument("--repeats", type=int, default=3, help="of the branches alone")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "study-windows.csv")
    options = parser.parse_args()
    add_row(options.out, measure(options) | about("torch", "torchvision"))


if __name__ == "__main__":
    main()

"""A detector on a dataset: run it over every image, then score what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dhcli.config.schema import Input
from dhcli.data.formats import read_dataset
from dhcli.data.loader import EvalLoader
from dhcli.data.table import DetectionTable, make_table
from dhcli.engine.load import choose_device, load_detector
from dhcli.engine.score import Evaluation, Request, Say, choose_split, introduce, score
from dhcli.model.detector import Detector
from dhcli.ops.batch import Detections

Progress = Callable[[int, int], None]
"""Takes the number of images done and of all images."""


def evaluate_model(
    weights: Path,
    data: Path,
    request: Request,
    *,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int = -1,
    say: Say,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the model file `weights` on the dataset `data`.

    `batch_size` is the training's where None. Boxes of classes that the model does not know are
    regions to ignore if they were in training (`data.others: ignore`), else left out.
    Raises ModelError or DataError where either cannot be read, or they share no class.
    """
    place = choose_device(device)
    detector, model = load_detector(weights, place)
    table = read_dataset(data)
    split, images = choose_split(table, request.split)
    truth = table.take_images(images)
    introduce(table, truth, split, model.classes, say)
    found = detect_table(
        detector,
        truth,
        model.config.input,
        device=place,
        batch_size=batch_size or model.config.train.batch_size,
        workers=workers,
        progress=progress,
        classes=model.classes,
    )
    others = "ignore" if model.config.data.others == "ignore" else "drop"
    return score(truth, found, split, request, others=others)


def detect_table(
    detector: Detector,
    table: DetectionTable,
    input: Input,
    *,
    device: torch.device,
    batch_size: int,
    workers: int,
    progress: Progress | None = None,
    classes: Sequence[str] | None = None,
) -> DetectionTable:
    """What `detector` finds in the images of `table`: the same images, scored boxes, best first.

    The detector is on `device` already, and is left in the mode it was in. `classes` names its
    labels; left out, they are those of `table`. `progress` is called after every batch.
    Raises DataError naming an image that cannot be read.
    """
    loader = EvalLoader(table, input, batch_size=batch_size, workers=workers)
    found: list[Detections | None] = [None] * len(table)
    was_training, done = detector.training, 0
    detector.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                detections = detector.detect(batch.images.to(device))
                for image, one in zip(batch.indices, detections, strict=True):
                    found[image] = Detections(one.boxes.cpu(), one.scores.cpu(), one.labels.cpu())
                done += len(batch.indices)
                if progress is not None:
                    progress(done, len(table))
    finally:
        detector.train(was_training)
    return _as_table(found, table, classes)


def _as_table(
    found: Sequence[Detections | None], table: DetectionTable, classes: Sequence[str] | None
) -> DetectionTable:
    """The detections of every image of `table` in its order."""
    every = [one for one in found if one is not None]
    if len(every) < len(table):
        raise RuntimeError("the loader left out images")
    columns: dict[str, Any] = {"image_ids": table.image_ids}
    if classes is None:
        columns["category_ids"] = table.category_ids
    return make_table(
        table.root,
        table.files,
        table.sizes,
        [len(one) for one in every],
        np.concatenate([np.zeros((0, 4)), *(one.boxes.double().numpy() for one in every)]),
        np.concatenate([np.zeros(0, np.int32), *(one.labels.int().numpy() for one in every)]),
        table.classes if classes is None else classes,
        scores=np.concatenate([np.zeros(0), *(one.scores.double().numpy() for one in every)]),
        **columns,
    )

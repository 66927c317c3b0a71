"""A detector on a dataset: run it over every image, then score what it found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from dhcli.config.heads import ReadOut
from dhcli.data.formats import read_dataset
from dhcli.data.io.progress import Count
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable, make_table
from dhcli.errors import DataError
from dhcli.inference.score import Evaluation, Request, Say, choose_split, introduce, score
from dhcli.models.detector import Detector
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.runtime.eager import EXACT, Runtime, choose_device, load_detector, origin_lines


def evaluate_model(
    weights: Path,
    data: Path,
    request: Request,
    *,
    runtime: Runtime = EXACT,
    batch_size: int | None = None,
    workers: int = -1,
    say: Say,
    progress: Count | None = None,
) -> dict[ReadOut, Evaluation]:
    """Score the model file `weights` on the dataset `data`, by the read-outs of `request`.

    `batch_size` is the training's where None. Boxes of classes that the model does not know are
    regions to ignore if they were in training (`data.others: ignore`), else left out.
    Raises ModelError or DataError where either cannot be read, or they share no class, and
    ConfigError where the model has no such read-out.
    """
    place = choose_device(runtime.device)
    detector, model = load_detector(weights, runtime)
    for line in origin_lines(weights, model):
        say(line)
    read_outs = request.choose(model.config.model)
    table = read_dataset(data)
    split, images = choose_split(table, request.split)
    truth = table.take_images(images)
    introduce(table, truth, split, model.classes, say)
    size = batch_size or model.config.train.batch_size
    loader = EvalLoader(truth, model.config.input, batch_size=size, workers=workers)
    try:
        tables = detect_tables(
            detector,
            read_outs,
            truth,
            loader,
            device=place,
            progress=progress,
            classes=model.classes,
        )
    except DataError as error:  # of fewer images the average would be another
        hint = "every image counts: `dh check --decode` names all such, --fix leaves them out"
        raise DataError(error.what, where=error.where, hint=error.hint or hint) from error
    others = "ignore" if model.config.data.others == "ignore" else "drop"
    return {
        read_out: score(truth, found, split, request, others=others)
        for read_out, found in zip(read_outs, tables, strict=True)
    }


def detect_table(
    detector: Detector,
    table: DetectionTable,
    loader: EvalLoader,
    *,
    device: torch.device,
    progress: Count | None = None,
    classes: Sequence[str] | None = None,
) -> DetectionTable:
    """What `detector` finds in the images of `table`: the same images, scored boxes, best first.

    `loader` gives the images of `table`. The detector is on `device` already, and is left in the
    mode it was in. `classes` names its labels; left out, they are those of `table`. `progress` is
    called after every batch.
    Raises DataError naming an image that cannot be read.
    """
    found = _detect(
        lambda images: [detector.detect(images)], detector, loader, device, len(table), progress
    )
    return _as_table([one[0] for one in found], table, classes)


def detect_tables(
    detector: Detector,
    read_outs: Sequence[ReadOut],
    table: DetectionTable,
    loader: EvalLoader,
    *,
    device: torch.device,
    progress: Count | None = None,
    classes: Sequence[str] | None = None,
) -> list[DetectionTable]:
    """As `detect_table`, for each of `read_outs`."""
    every = partial(detector.detect_each, read_outs=read_outs)
    found = _detect(every, detector, loader, device, len(table), progress)
    return [_as_table([one[k] for one in found], table, classes) for k in range(len(read_outs))]


def _detect(
    detect: Callable[[ImageBatch], list[list[Detections]]],
    detector: nn.Module,
    loader: EvalLoader,
    device: torch.device,
    images: int,
    progress: Count | None,
) -> list[list[Detections]]:
    """What `detect` finds in each image by each read-out, `detector` being in eval mode."""
    found: dict[int, list[Detections]] = {}
    was_training = detector.training
    detector.eval()
    try:
        with torch.no_grad():
            for batch in loader:
                every = detect(batch.images.to(device))
                for place, image in enumerate(batch.indices):
                    found[image] = [_on_cpu(detections[place]) for detections in every]
                if progress is not None:
                    progress(len(found), images)
    finally:
        detector.train(was_training)
    return [found[image] for image in sorted(found)]


def _on_cpu(found: Detections) -> Detections:
    return Detections(found.boxes.cpu(), found.scores.cpu(), found.labels.cpu())


def _as_table(
    every: Sequence[Detections], table: DetectionTable, classes: Sequence[str] | None
) -> DetectionTable:
    """The detections of every image of `table` in its order."""
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

"""What several models find in the same images, drawn beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dhcli.atomic import atomic_folder, require_free
from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.data.io.files import fold
from dhcli.data.io.image import read_image
from dhcli.data.io.progress import Count
from dhcli.errors import DataError
from dhcli.inference.locate_images import ImageList, find_images
from dhcli.inference.predict import (
    DEFAULT_FOLDER,
    Outcome,
    Request,
    asked,
    choose_labels,
    choose_thresholds,
    free_folder,
)
from dhcli.inference.stream import (
    Kept,
    Seen,
    Source,
    Summary,
    detect_each,
    drawing_pool,
    drawn_path,
    finish_image,
)
from dhcli.inference.thresholds import Threshold
from dhcli.inference.writers import Prediction
from dhcli.runtime.runner import Runner, open_runner
from dhcli.weights.locate_model import name_models
from dhcli.words import counted

PanelDrawer = Callable[[Sequence[tuple[str, Prediction]], Sequence[str], Path], None]
"""Draws what each model found in an image, titled, with the classes' names, to a file."""


@dataclass(frozen=True)
class Side:
    """One model: what it is called, what runs it, and what of its detections is drawn.

    shared  (K,) int64, the number of each of its classes among those of all models
    most    detections that it gives at most
    """

    name: str
    runner: Runner
    options: DetectOptions
    kept: Kept
    threshold: Threshold
    shared: NDArray[np.int64]
    most: int
    summary: Summary

    def see(self, seen: Seen) -> Prediction | None:
        """What is drawn of an image, in the classes of all models; None where it is unreadable."""
        seen, full = finish_image(self.kept, self.most, None, seen)
        self.summary.add(seen, self.kept.shown, full=full)
        if isinstance(seen.found, DataError):
            return None
        return replace(seen.found, labels=self.shared[seen.found.labels])


def predict_side_by_side(
    request: Request,
    weights: Sequence[Path],
    draw: PanelDrawer,
    *,
    options: DetectOptions = AS_CONFIGURED,
    batch_size: int | None = None,
    say: Callable[[str], None],
    progress: Count | None = None,
) -> dict[str, Outcome]:
    """Draw one picture per image, with what each of `weights` finds; the outcome of each by name.

    Classes of one name are one class, of one colour. Raises as `predict`.
    """
    folder = request.out or free_folder(DEFAULT_FOLDER)
    inputs = [*weights, *map(Path, request.images)]
    require_free(folder, overwrite=request.overwrite, inputs=inputs)
    images = find_images(request.images, skip=folder)
    runners = [open_runner(path, options) for path in weights]
    classes = tuple(dict.fromkeys(name for one in runners for name in one.classes))
    wanted = choose_labels(request.classes, classes)
    sides = [
        _side(name, replace(request, weights=path), options, runner, classes, wanted)
        for name, path, runner in zip(name_models(weights), weights, runners, strict=True)
    ]
    for side in sides:
        say(f"{side.name}: drawn from score {side.threshold}, on {side.runner.place}")
    say(f"{counted(len(images), 'image')} below {images.root}, {counted(len(sides), 'model')}")
    begun, taken = time.perf_counter(), frozenset(map(fold, images.names))
    with atomic_folder(folder, overwrite=request.overwrite) as place, drawing_pool() as submit:
        for number, every in enumerate(_seen(sides, images, batch_size), 1):
            found = [(side.name, side.see(one)) for side, one in zip(sides, every, strict=True)]
            panels = [(name, one) for name, one in found if one is not None]
            if panels:
                submit(draw, panels, classes, drawn_path(place, every[0].name, taken))
            if progress is not None:
                progress(number, len(images))
        sides[0].summary.require_some(images)
    outcomes = {}
    for side in sides:
        side.summary.seconds = time.perf_counter() - begun
        known = side.runner.classes, folder, side.runner.place
        outcomes[side.name] = Outcome(side.summary, *known, side.threshold, side.threshold)
    return outcomes


def _side(
    name: str,
    request: Request,
    options: DetectOptions,
    runner: Runner,
    classes: Sequence[str],
    wanted: Sequence[int] | None,
) -> Side:
    asked_for = asked(request, options, runner)
    _, drawn = choose_thresholds(request, asked_for, runner)
    shared = np.array([classes.index(one) for one in runner.classes], np.int64)
    kept = np.arange(len(shared)) if wanted is None else np.flatnonzero(np.isin(shared, wanted))
    limits = Kept(request.top, tuple(kept.tolist()), drawn.least, drawn.least)
    most = asked_for.over(runner.config.model.detect).max_detections
    return Side(name, runner, asked_for, limits, drawn, shared, most, Summary())


def _seen(
    sides: Sequence[Side], images: ImageList, batch_size: int | None
) -> Iterator[tuple[Seen, ...]]:
    """Of each image what every model found."""
    files = [Source(name, partial(read_image, images.root / name)) for name in images.names]
    each = (
        detect_each(side.runner, files, side.options, batch_size or side.runner.usual_batch)
        for side in sides
    )
    return zip(*each, strict=True)

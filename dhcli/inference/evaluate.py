"""A detector on a dataset: run it over every image, then score what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions, check_gate
from dhcli.config.heads import ReadOut
from dhcli.data.io.progress import Count
from dhcli.data.loading.loader import Batch, EvalLoader, as_pictures
from dhcli.data.table import DetectionTable, make_table
from dhcli.errors import DataError
from dhcli.inference.score import (
    Evaluation,
    Measures,
    Say,
    choose_split,
    introduce,
    read_truth,
    score,
    sound_truth,
)
from dhcli.inference.thresholds import stored_points
from dhcli.runtime.runner import Found, Runner, open_runner
from dhcli.runtime.team import ALONE, Team
from dhcli.words import counted

NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def evaluate_model(  # noqa: PLR0913  (as below)
    weights: Path,
    data: Path,
    measures: Measures,
    *,
    options: DetectOptions = AS_CONFIGURED,
    batch_size: int | None = None,
    workers: int = -1,
    say: Say,
    progress: Count | None = None,
    team: Team = ALONE,
) -> dict[ReadOut, Evaluation]:
    """Score the model file `weights` on the dataset `data`: see `evaluate_runner`.

    Raises ModelError too, where it cannot be read.
    """
    runner = team.each(lambda: open_runner(weights, options))
    for line in runner.lines:
        say(line)
    return evaluate_runner(
        runner,
        data,
        measures,
        options=options,
        batch_size=batch_size,
        workers=workers,
        say=say,
        progress=progress,
        team=team,
    )


def evaluate_runner(  # noqa: PLR0913  (what, how, by whom and who is told)
    runner: Runner,
    data: Path | DetectionTable,
    measures: Measures,
    *,
    options: DetectOptions = AS_CONFIGURED,
    batch_size: int | None = None,
    workers: int = -1,
    say: Say,
    progress: Count | None = None,
    team: Team = ALONE,
) -> dict[ReadOut, Evaluation]:
    """Score a detector on a dataset, by the read-outs of `measures`.

    `batch_size` is the training's where None. Boxes of classes that the model does not know are
    regions to ignore if they were in training (`data.others: ignore`), else left out.
    The processes of `team` share the images; the first scores what all have found, and the others
    get {}.
    Raises DataError where the data cannot be read, or they share no class, and ConfigError where
    the model has no such read-out.
    """
    read_outs = measures.choose(runner)
    check_gate(runner.config.model, options.gate, read_outs)
    split, truth = team.from_first(lambda: _read(data, measures.split, runner.classes, say))
    trained = runner.config.train.batch_size
    size = batch_size or (runner.usual_batch if trained == "auto" else trained)
    input = runner.config.input.model_copy(update={"divisor": runner.divisor})
    loader = EvalLoader(truth, input, batch_size=size, workers=workers, share=team.share)
    for line in loader.lines:
        say(line)
    options = options.reading(*read_outs)
    try:
        tables = detect_tables(runner, truth, loader, options=options, progress=progress, team=team)
    except DataError as error:  # of fewer images the average would be another
        hint = "every image counts: `dh check --decode` lists all bad ones, --fix leaves them out"
        raise DataError(error.what, where=error.where, hint=error.hint or hint) from error
    if not team.first:
        return {}
    limit = options.over(runner.config.model.detect).max_detections
    full = int(np.sum(np.bincount(tables[0].image_of_box, minlength=1) >= limit))
    if full:
        say(f"{counted(full, 'image')} reached the limit of {limit} detections: --top-k")
    others = "ignore" if runner.config.data.others == "ignore" else "drop"
    return {
        read_out: score(
            truth,
            found,
            split,
            measures,
            others=others,
            stored=stored_points(runner, read_out),
        )
        for read_out, found in zip(read_outs, tables, strict=True)
    }


def _read(
    data: Path | DetectionTable, split: str | None, classes: tuple[str, ...], say: Say
) -> tuple[str, DetectionTable]:
    """The split to evaluate, and its images as their files are; says what a user should know."""
    table = read_truth(data)
    name, images = choose_split(table, split)
    truth = sound_truth(table.take_images(images), say)
    introduce(table, truth, name, classes, say)
    return name, truth


def detect_tables(
    runner: Runner,
    table: DetectionTable,
    loader: EvalLoader,
    *,
    options: DetectOptions = AS_CONFIGURED,
    progress: Count | None = None,
    team: Team = ALONE,
) -> list[DetectionTable]:
    """What `runner` finds in the images of `table`: one table of the same images per read-out.

    Boxes have scores and come best first; classes are the runner's. `loader` gives this process's
    share of the images of `table`; every process of `team` gets the tables of all.
    `progress` is called after every batch, about this process's share.
    Raises DataError naming an image that cannot be read, in every process.
    """

    def tick(done: int) -> None:
        if progress is not None:
            progress(done, len(loader.images))

    own = detect_all(runner, Shared(loader, team), options=options, tick=tick)
    found = dict(team.gather(list(own.items())))
    return [
        as_table({image: every[k] for image, every in found.items()}, table, runner.classes)
        for k in range(len(options.read_outs or [None]))
    ]


class Shared:
    """The batches of this process. An image that one process cannot read ends the loop in all."""

    def __init__(self, loader: EvalLoader, team: Team) -> None:
        self.loader, self.team = loader, team

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        for _ in range(self.loader.longest):
            batch = self.team.each(lambda: next(batches, None))
            if batch is not None:
                yield batch


def detect_all(
    runner: Runner,
    loader: Iterable[Batch],
    *,
    options: DetectOptions = AS_CONFIGURED,
    tick: Callable[[int], None],
) -> dict[int, list[Found]]:
    """What `runner` finds by each read-out in the images that `loader` gives, by their numbers.

    `tick` is called after every batch with the number of images done.
    Nothing is found in an image that the loader has left out. Raises DataError naming one that
    cannot be read.
    """
    found: dict[int, list[Found]] = {}
    read_outs = len(options.read_outs or [None])
    for batch in loader:
        found.update({image: [NOTHING] * read_outs for image, _ in batch.missing})
        if len(batch):
            every = runner.detect(as_pictures(batch.images), options)
            for place, image in enumerate(batch.indices):
                found[image] = [of_read_out[place] for of_read_out in every]
        tick(len(found))
    return found


def as_table(
    found: Mapping[int, Found], table: DetectionTable, classes: tuple[str, ...]
) -> DetectionTable:
    """The detections of every image of `table`, by its number, in the table's order."""
    if sorted(found) != list(range(len(table))):
        raise RuntimeError("the loader left out images")
    every = [found[image] for image in range(len(table))]
    columns: dict[str, Any] = {"image_ids": table.image_ids}
    if classes == table.classes:
        columns["category_ids"] = table.category_ids
    return make_table(
        table.root,
        table.files,
        table.sizes,
        [len(one.scores) for one in every],
        np.concatenate([np.zeros((0, 4)), *(one.boxes.astype(np.float64) for one in every)]),
        np.concatenate([np.zeros(0, np.int32), *(one.labels.astype(np.int32) for one in every)]),
        classes,
        scores=np.concatenate([np.zeros(0), *(one.scores.astype(np.float64) for one in every)]),
        **columns,
    )

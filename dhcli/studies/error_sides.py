"""Two ways to detect run over the same images, and where their duplicates come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.heads import ReadOut, choose_read_out
from dhcli.data.io.progress import Count
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable
from dhcli.data.tools.statistics import MEDIUM, SMALL
from dhcli.errors import ConfigError
from dhcli.inference.evaluate import detect_tables
from dhcli.metrics.pair import match_classes
from dhcli.ops.arrays import box_areas
from dhcli.ops.batch import ImageBatch
from dhcli.report.draw import Box
from dhcli.runtime.eager import EagerRunner
from dhcli.studies.errors import (
    DUPLICATE,
    Case,
    Rule,
    Side,
    Verdict,
    best_threshold,
    find_cases,
    judge_side,
)
from dhcli.studies.subjects import Subject, by_model


class Origin(NamedTuple):
    """Where a duplicate comes from; xyxy in original pixels.

    proposal  the RPN's box that was refined to the duplicate
    other     what the other side makes of it for the same class; None if it has other proposals
    """

    proposal: Box
    other: Box | None


class Read(NamedTuple):
    """A way to read a model.

    name    as it is shown
    source  the branch whose boxes it gives
    """

    name: str
    source: Subject
    read_out: ReadOut


@dataclass(frozen=True)
class Compared:
    """Everything that is shown of two sides; `both` is a third way to detect, shown only."""

    truth: DetectionTable
    sides: tuple[Side, Side]
    both: Side | None
    verdicts: tuple[Verdict, Verdict]
    cases: Sequence[Case]
    origins: Mapping[Case, Origin]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(M,) into `objects.SIZES`, by the annotated area, else the box's."""
        areas = np.where(np.isnan(self.truth.areas), box_areas(self.truth.boxes), self.truth.areas)
        return np.digitize(areas, (SMALL, MEDIUM)).astype(np.int64)


def choose_sides(subjects: Sequence[Subject]) -> list[Read]:
    """The two sides, and perhaps a third way, of the branches of all models.

    One model: each branch alone, first the one whose boxes the model gives, then its own read-out
    as `both`. Of two models, each by its own read-out is a side; a third is the third way.
    Raises ConfigError where a model has no two branches to compare, or there are more models.
    """
    models = by_model(subjects)
    if len(models) > 3:
        what = "compares two sides: the branches of a model, or two models (and shows a third)"
        raise ConfigError(what, where="--weights")
    own = [_own(of_model) for of_model in models]
    if len(models) > 1:
        return own
    [of_model], [both] = models, own
    alone = [subject for subject in of_model if subject.can_score and subject.can_refine]
    if len(alone) != 2:
        count = f"{len(alone)} of its {len(of_model)}" if alone else "none of them"
        what = f"two branches are compared that both score and refine, and {count} does"
        hint = "give a Double-Head-Ext (λ between 0.5 and 1), or two models: --weights twice"
        raise ConfigError(what, where=both.source.model, hint=hint)
    alone.sort(key=lambda subject: subject.branch != both.read_out.boxes)
    sides = [Read(s.branch, s, ReadOut(s.branch, s.branch)) for s in alone]
    return [*sides, both._replace(name="both")]


def compare(
    reads: Sequence[Read],
    truth: DetectionTable,
    *,
    rule: Rule,
    threshold: float | None,
    options: DetectOptions = AS_CONFIGURED,
    progress: Count | None = None,
) -> Compared:
    """Run each model once over the images of `truth`, and find what the first two reads differ in.

    The models know all classes of `truth`. Scores count from `threshold`, or where it is None from
    the score of best F1 of each side on these images.
    Raises ConfigError where a side finds nothing; DataError naming an image that cannot be read.
    """
    found: dict[str, DetectionTable] = {}
    for of_model in by_model([read.source for read in reads]):
        runner = of_model[0].runner
        mine = [read for read in reads if read.source.runner is runner]
        reading = options.reading(*(read.read_out for read in mine))
        loader = _loader(truth, runner, runner.usual_batch)
        tables = detect_tables(runner, truth, loader, options=reading, progress=progress)
        for read, table in zip(mine, tables, strict=True):
            found[read.name] = match_classes(table, truth)
    first, second, *third = (
        _as_side(truth, read.name, found[read.name], rule, threshold) for read in reads
    )
    sides = (first, second)
    verdicts = (judge_side(truth, first, rule), judge_side(truth, second, rule))
    cases = find_cases(truth, sides, verdicts)
    origins = find_origins((reads[0].source, reads[1].source), truth, cases, sides)
    return Compared(truth, sides, third[0] if third else None, verdicts, cases, origins)


@torch.inference_mode()
def find_origins(
    sources: tuple[Subject, Subject],
    truth: DetectionTable,
    cases: Sequence[Case],
    sides: Sequence[Side],
) -> dict[Case, Origin]:
    """The origins of the duplicates among `cases`; each image with one is seen a second time.

    A detection comes from the proposal that the branch of its boxes refines to it.
    """
    origins = {}
    for number, source in enumerate(sources):
        mine = [case for case in cases if (case.kind, case.side) == (DUPLICATE, number)]
        images = np.unique(np.array([case.image for case in mine], np.int64))
        other = sources[1 - number]
        asked = [source, other] if other.runner is source.runner else [source]
        for batch in _loader(truth.take_images(images), source.runner, 1):
            on_device = batch.images.to(source.runner.device)
            levels = source.levels(on_device)
            [proposals] = source.propose(levels, on_device)
            for case in mine:
                if case.image == images[batch.indices[0]]:
                    found = sides[number].found
                    name = found.classes[int(found.labels[case.row])]
                    label = source.runner.classes.index(name)
                    refined = [_refine(one, levels, proposals, on_device, label) for one in asked]
                    apart = np.abs(refined[0] - found.boxes[case.row]).max(axis=1)
                    row = int(apart.argmin())
                    seen = _original(source, proposals, on_device)[row]
                    theirs = _box(refined[1][row]) if len(refined) > 1 else None
                    origins[case] = Origin(_box(seen), theirs)
    return origins


def _own(of_model: Sequence[Subject]) -> Read:
    """The read-out that a model is configured for."""
    first = of_model[0]
    read_out = choose_read_out(first.runner.config.model, None, None)
    source = next(subject for subject in of_model if subject.branch == read_out.boxes)
    return Read(first.model, source, read_out)


def _as_side(
    truth: DetectionTable, name: str, found: DetectionTable, rule: Rule, threshold: float | None
) -> Side:
    least = best_threshold(truth, found, rule.iou) if threshold is None else threshold
    if least is None:
        what = f"`{name}` finds no object, so that none of its scores is the best threshold"
        raise ConfigError(what, hint="name one: --score-threshold")
    return Side(name, found, least)


def _loader(table: DetectionTable, runner: EagerRunner, batch_size: int) -> EvalLoader:
    input = runner.config.input.model_copy(update={"divisor": runner.divisor})
    return EvalLoader(table, input, batch_size=batch_size, workers=0)


def _refine(
    subject: Subject, levels: Sequence[Tensor], proposals: Tensor, image: ImageBatch, label: int
) -> NDArray[np.float64]:
    """What the branch makes of each proposal for a class: (N, 4) in original pixels."""
    owner = torch.zeros_like(proposals[:, 0]).long()
    refined = subject.judge(levels, proposals, owner, torch.full_like(owner, label)).boxes
    assert refined is not None  # it gives the side's boxes
    return _original(subject, refined, image)


def _original(subject: Subject, boxes: Tensor, image: ImageBatch) -> NDArray[np.float64]:
    """Boxes (N, 4) in network pixels as detections have them: clipped, in original pixels."""
    rules, size = subject.detector.select.rules, image.sizes[0]
    scale = (image.originals[0] / size).flip(0).to(boxes.dtype)
    return np.asarray(rules.rescale(rules.clip(boxes, size), scale).double().cpu().numpy())


def _box(values: NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = values.tolist()
    return x1, y1, x2, y2

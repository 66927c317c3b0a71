"""How well a branch's scores follow the IoU of boxes: Pearson's r (§3.2, Fig. 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.config.detecting import DetectOptions
from dhcli.data.io.progress import Count
from dhcli.ops.arrays import iou
from dhcli.ops.boxes import iou_matrix
from dhcli.report.sheet import Column, Row, Sheet
from dhcli.report.study_correlation import Bar, draw_correlations
from dhcli.studies.groups import Group
from dhcli.studies.objects import Objects, View, views
from dhcli.studies.study import Study
from dhcli.studies.subjects import Subject, by_model
from dhcli.studies.windows import WINDOWS, as_array, judge_windows

SOURCES = ("windows", "proposals", "detections")
"""Boxes to look at: those laid around objects, the RPN's, and a branch's own after NMS."""
HARD = DetectOptions(nms="hard")
"""Soft-NMS keeps the boxes that it suppresses, with scores that no longer are the branch's."""
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap that the interval lies between: 95 %."""
_ROUND = 100

Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """Scores of N boxes in one image, beside their IoU with an object.

    source    number in `SOURCES`
    subject   number of the subject
    image     number of the image
    rows      (N,) int64, the object of each, in `Objects`
    overlaps  (N,) float64
    scores    (N,) float64 of the object's class
    """

    source: int
    subject: int
    image: int
    rows: NDArray[np.int64]
    overlaps: Floats
    scores: Floats


class Estimate(NamedTuple):
    """Pearson's r of so many boxes, and the ends of its interval; NaN where undefined."""

    boxes: int
    r: float
    low: float
    high: float


def study_correlation(
    subjects: Sequence[Subject],
    objects: Objects,
    groups: Sequence[Group],
    *,
    count: int = WINDOWS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Count | None = None,
) -> Study:
    """Pearson's r between score and IoU by source, subject and group (Fig. 3).

    `count` windows around an object, 0: none; `progress` counts the images of every model.
    """
    shape = (len(SOURCES), len(subjects), len(groups), len(objects.table), 6)
    sums = np.zeros(shape)
    members = np.stack([group.members for group in groups])
    for pairs in _all_pairs(subjects, objects, count, seed, progress):
        for g, of_group in enumerate(members):
            mine = of_group[pairs.rows]
            if mine.any():
                place = (pairs.source, pairs.subject, g, pairs.image)
                sums[place] += pair_sums(pairs.overlaps[mine], pairs.scores[mine])
    estimates = {
        (k, s, g): estimate(sums[k, s, g], resamples, seed)
        for k in range(len(SOURCES))
        for s in range(len(subjects))
        for g in range(len(groups))
        if sums[k, s, 0, :, 0].any()
    }
    facts = objects.facts(subjects) | {
        "seed": seed,
        "windows_per_object": count,
        "resamples": resamples,
        "interval": [end / 100 for end in INTERVAL],
        "groups": {group.title: int(group.members.sum()) for group in groups},
    }
    return _study(facts, subjects, groups, estimates)


def pair_sums(x: Floats, y: Floats) -> Floats:
    """(6,): n, Σx, Σy, Σx², Σy², Σxy, which add up over images; `pearson` reads them."""
    return np.array([len(x), x.sum(), y.sum(), x @ x, y @ y, x @ y])


def pearson(sums: Floats) -> Floats:
    """R = (n Σxy − Σx Σy) / √((n Σx² − (Σx)²) (n Σy² − (Σy)²)) of sums (..., 6), NaN if undefined.

    As means, so that large counts lose no digits: cov / √(var var). NaN too where one of the two
    varies by no more than rounding does.
    """
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_x, mean_y = x / n, y / n
        var_x, var_y = xx / n - mean_x**2, yy / n - mean_y**2
        varies = (var_x > 1e-13 * xx / n) & (var_y > 1e-13 * yy / n)
        r = (xy / n - mean_x * mean_y) / np.sqrt(np.where(varies, var_x * var_y, np.nan))
    clipped: Floats = np.clip(r, -1, 1)
    return clipped


def estimate(sums: Floats, resamples: int, seed: int) -> Estimate:
    """R of all images together, and its percentile bootstrap interval over images.

    The images are drawn with replacement, as many as there are, `resamples` times; the draws are
    the same for every subject. There is no interval where all boxes lie in one image.

    in   sums  (images, 6) of `pair_sums`
    """
    rng = np.random.default_rng(seed)
    images = len(sums)
    drawn = []
    for start in range(0, resamples, _ROUND):
        size = min(_ROUND, resamples - start)
        times = rng.multinomial(images, np.full(images, 1 / images), size)
        drawn.append(pearson(times @ sums))
    known = np.concatenate([np.zeros(0), *drawn])
    known = known[~np.isnan(known)]
    several = np.count_nonzero(sums[:, 0]) > 1 and len(known)
    low, high = np.percentile(known, INTERVAL) if several else (np.nan, np.nan)
    total = sums.sum(axis=0)
    return Estimate(int(total[0]), float(pearson(total)), float(low), float(high))


def _all_pairs(
    subjects: Sequence[Subject],
    objects: Objects,
    count: int,
    seed: int,
    progress: Count | None,
) -> Iterator[Pairs]:
    models = by_model(subjects)
    total = len(models) * len(np.unique(objects.images))
    done = first = 0
    for of_model in models:
        for view in views(objects, of_model[0].runner):
            for pairs in _view_pairs(of_model, view, objects, count, seed):
                yield pairs._replace(subject=first + pairs.subject)
            done += 1
            if progress is not None:
                progress(done, total)
        first += len(of_model)


def _view_pairs(
    subjects: Sequence[Subject], view: View, objects: Objects, count: int, seed: int
) -> Iterator[Pairs]:
    """The pairs of one image, by the subjects of one model."""
    levels = subjects[0].levels(view.batch)
    if count:
        yield from _window_pairs(subjects, view, levels, count, seed)
    proposals = subjects[0].propose(levels, view.batch)[0]
    for number, subject in enumerate(subjects):
        if subject.can_score:
            yield _proposal_pairs(subject, number, view, levels, proposals)
        if subject.can_score and subject.can_refine:
            yield _detection_pairs(subject, number, view, levels, objects)


def _window_pairs(
    subjects: Sequence[Subject], view: View, levels: Sequence[Tensor], count: int, seed: int
) -> Iterator[Pairs]:
    """Every window around every object: the score of the object's class."""
    for judged in judge_windows(subjects, view, levels, count, seed):
        if judged.scores is not None:
            rows = np.full(len(judged.overlaps), judged.row)
            yield Pairs(0, judged.subject, view.image, rows, judged.overlaps, judged.scores)


def _proposal_pairs(
    subject: Subject, number: int, view: View, levels: Sequence[Tensor], proposals: Tensor
) -> Pairs:
    """Proposals that touch an object: of the one overlapped most, the IoU and its class's score."""
    truth = torch.from_numpy(view.boxes).to(proposals.device)
    best = iou_matrix(proposals.double(), truth).max(dim=1)
    touching = torch.nonzero(best.values > 0).flatten()
    nearest = best.indices[touching]
    labels = torch.from_numpy(view.labels).to(proposals.device)[nearest]
    images = torch.zeros_like(labels)
    scores = subject.judge(levels, proposals[touching], images, labels).scores
    assert scores is not None  # it is asked of subjects that score
    of_class = scores.gather(1, labels[:, None] + 1)[:, 0]
    rows = view.rows[nearest.cpu().numpy()]
    overlaps = best.values[touching]
    return Pairs(1, number, view.image, rows, as_array(overlaps), as_array(of_class))


def _detection_pairs(
    subject: Subject, number: int, view: View, levels: Sequence[Tensor], objects: Objects
) -> Pairs:
    """What the branch alone detects, where it touches an object of its class: score and IoU."""
    [found] = subject.detect(levels, view.batch, HARD)
    boxes, labels = as_array(found.boxes), found.labels.cpu().numpy()
    same = labels[:, None] == view.labels[None]
    ious = np.where(same, iou(boxes, objects.boxes[view.rows]), 0)
    best, nearest = ious.max(axis=1), ious.argmax(axis=1)
    touching = best > 0
    rows = view.rows[nearest[touching]]
    return Pairs(2, number, view.image, rows, best[touching], as_array(found.scores)[touching])


def _study(
    facts: dict[str, object],
    subjects: Sequence[Subject],
    groups: Sequence[Group],
    estimates: dict[tuple[int, int, int], Estimate],
) -> Study:
    named = (Column("low", "score"), Column("high", "score"))
    columns = (
        *(Column("boxes"), Column("subject"), Column("by"), Column("group")),
        *(Column("objects", "count"), Column("count", "count"), Column("r", "score"), *named),
    )
    rows: list[Row] = []
    for (k, s, g), found in estimates.items():
        group = groups[g]
        about = (SOURCES[k], subjects[s].label, group.by, group.name, int(group.members.sum()))
        rows.append((*about, *found))
    panels = {
        SOURCES[k]: {
            subjects[s].label: {
                group.title: Bar(*estimates[k, s, g][1:]) for g, group in enumerate(groups)
            }
            for s in range(len(subjects))
            if (k, s, 0) in estimates
        }
        for k in sorted({k for k, _, _ in estimates})
    }
    return Study(
        "correlation",
        dict(facts),
        Sheet("Every number", columns, tuple(rows)),
        (_sheet(subjects, groups, estimates),),
        {"correlation.png": partial(draw_correlations, panels)},
    )


def _sheet(
    subjects: Sequence[Subject],
    groups: Sequence[Group],
    estimates: dict[tuple[int, int, int], Estimate],
) -> Sheet:
    """A section per source, a row per group, r and its interval by subject."""
    columns = (
        *(Column("group"), Column("objects", "count")),
        *(
            Column(f"{subject.label} {what}", "number", heading=f"{subject.label}\n{what}")
            for subject in subjects
            for what in ("r", "from", "to")
        ),
    )
    rows: list[Row] = []
    sections: dict[int, str] = {}
    for k in sorted({k for k, _, _ in estimates}):
        sections[len(rows)] = SOURCES[k]
        for g, group in enumerate(groups):
            cells: list[float | None] = []
            for s in range(len(subjects)):
                found = estimates.get((k, s, g))
                cells += [None] * 3 if found is None else found[1:]
            rows.append((group.title, int(group.members.sum()), *cells))
    caption = "Pearson's r between a box's score and its IoU; from – to: 95 % interval over images"
    return Sheet("Correlation", columns, tuple(rows), sections, caption)

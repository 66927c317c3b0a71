"""The windows around each object, and what branches make of them (§3.1, Fig. 2 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.data.io.progress import Count
from dhcli.ops.boxes import iou_matrix
from dhcli.report.sheet import Column, Row, Sheet
from dhcli.report.study_windows import Curve, draw_curves
from dhcli.studies.groups import Group
from dhcli.studies.objects import Objects, View, views
from dhcli.studies.study import Study
from dhcli.studies.subjects import Subject, by_model

BINS = 20
"""Equal bins of IoU between 0 and 1."""
WINDOWS = 14_000
"""Windows around an object, as in the paper."""
DIRECTIONS = np.array([d for d in product((-1.0, 0.0, 1.0), repeat=4) if any(d)])
"""(80, 4): x, y, width and height of a window are less than, equal to or more than the object's."""
MOST_SHIFT, MOST_SCALE = 1.0, 3.0
"""Of the farthest window: its centre's shift in sides of the object, and the factor of a side."""
NEARNESS = 1.5
"""Exponent that crowds the windows about the object: every bin of IoU gets about as many."""

Floats = NDArray[np.float64]


class Judged(NamedTuple):
    """What a subject makes of the N windows of one object.

    row       the object's, in `Objects`
    subject   number of the subject
    overlaps  (N,) float64 IoU of each window with the object
    scores    (N,) float64 score of the object's class; None: the branch does not score
    refined   (N,) float64 IoU of the refined box, cut at the image's border; None: it has none
    """

    row: int
    subject: int
    overlaps: Floats
    scores: Floats | None
    refined: Floats | None


def lay_windows(box: Floats, size: tuple[int, int], count: int, seed: Sequence[int]) -> Floats:
    """About `count` windows around `box`, whose IoU with it runs from 0 to 1: (N, 4) float64.

    A grid of 80 directions × R = ⌊count / 80⌉ distances. A direction says of x, y, width and height
    whether they are less, equal or more. At distance t = ((k + u) / R)^1.5 with k = 0 … R − 1 and
    its own u drawn from [0, 1), the centre is shifted by t sides of the box and a side is 3^t as
    long. Windows are cut at the image's border; those with a side below 1 pixel are dropped.

    in   box   (4,) xyxy;  size  width, height of the image;  seed  of u
    """
    rungs = max(1, round(count / len(DIRECTIONS)))
    dice = np.random.default_rng(list(seed)).random((rungs, len(DIRECTIONS)))
    distance = ((np.arange(rungs)[:, None] + dice) / rungs) ** NEARNESS
    offsets = (distance[..., None] * DIRECTIONS).reshape(-1, 4)
    sides = box[2:] - box[:2]
    centre = (box[:2] + box[2:]) / 2 + offsets[:, :2] * MOST_SHIFT * sides
    half = sides * MOST_SCALE ** offsets[:, 2:] / 2
    windows = np.clip(np.hstack([centre - half, centre + half]), 0, np.tile(size, 2))
    kept: Floats = windows[(windows[:, 2:] - windows[:, :2] >= 1).all(axis=1)]
    return kept


def bin_of(overlaps: Floats) -> NDArray[np.int64]:
    """The bin (N,) of each IoU (N,); 1 belongs to the last."""
    return np.minimum((overlaps * BINS).astype(np.int64), BINS - 1)


def judge_windows(
    subjects: Sequence[Subject], view: View, levels: Sequence[Tensor], count: int, seed: int
) -> Iterator[Judged]:
    """What the subjects of one model make of the windows of each object in an image.

    The windows of an object are the same for every model, up to the scale of the image.
    """
    height, width = view.batch.sizes[0].tolist()
    device = view.batch.sizes.device
    for row, box, label in zip(view.rows.tolist(), view.boxes, view.labels.tolist(), strict=True):
        laid = lay_windows(box, (width, height), count, (seed, row))
        windows = torch.from_numpy(laid).float().to(device)
        truth = torch.from_numpy(box[None]).to(device)
        images = torch.zeros(len(windows), dtype=torch.long, device=device)
        overlaps = _overlaps(windows, truth)
        for number, subject in enumerate(subjects):
            said = subject.judge(levels, windows, images, torch.full_like(images, label))
            scores = None if said.scores is None else as_array(said.scores[:, label + 1])
            refined = None
            if said.boxes is not None:
                refined = _overlaps(subject.cut(said.boxes, view.batch), truth)
            yield Judged(row, number, overlaps, scores, refined)


def study_windows(
    subjects: Sequence[Subject],
    objects: Objects,
    groups: Sequence[Group],
    *,
    count: int = WINDOWS,
    seed: int = 0,
    progress: Count | None = None,
) -> Study:
    """Score and box over the IoU of a window, by subject and group (Fig. 2, and 7 of two models).

    `progress` counts the objects of every subject.
    """
    moments = np.zeros((len(subjects), len(groups), 2, 3, BINS))
    members = np.stack([group.members for group in groups])
    total = len(subjects) * len(objects)
    for done, judged in enumerate(judge_all(subjects, objects, count, seed), 1):
        bins = bin_of(judged.overlaps)
        mine = members[:, judged.row]
        for quantity, values in enumerate((judged.scores, judged.refined)):
            if values is not None:
                moments[judged.subject, mine, quantity] += _moments(bins, values)
        if progress is not None:
            progress(done, total)
    return _study(subjects, objects, groups, moments, count, seed)


def judge_all(
    subjects: Sequence[Subject], objects: Objects, count: int, seed: int
) -> Iterator[Judged]:
    """`judge_windows` of every model and image; an image's features are computed once a model."""
    first = 0
    for of_model in by_model(subjects):
        for view in views(objects, of_model[0].runner):
            levels = of_model[0].levels(view.batch)
            for judged in judge_windows(of_model, view, levels, count, seed):
                yield judged._replace(subject=first + judged.subject)
        first += len(of_model)


def _moments(bins: NDArray[np.int64], values: Floats) -> Floats:
    """Count, sum and sum of squares of the values in each bin: (3, BINS)."""
    sums = [np.bincount(bins, weights, BINS) for weights in (None, values, values**2)]
    return np.stack(sums).astype(np.float64)


def _mean_and_std(moments: Floats) -> tuple[Floats, Floats]:
    """Of moments (..., 3, BINS): (..., BINS) each, NaN where there is no window."""
    count, total, squares = np.moveaxis(moments, -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    return mean, std


def _study(
    subjects: Sequence[Subject],
    objects: Objects,
    groups: Sequence[Group],
    moments: Floats,
    count: int,
    seed: int,
) -> Study:
    means, stds = _mean_and_std(moments)
    counts = moments[..., 0, :].max(axis=(0, 2)).astype(np.int64)  # (groups, BINS)
    facts = objects.facts(subjects) | {
        "seed": seed,
        "windows_per_object": count,
        "windows": int(counts[0].sum()),
        "windows_per_bin": counts[0].tolist(),
        "groups": {group.title: int(group.members.sum()) for group in groups},
    }
    return Study(
        "windows",
        facts,
        _numbers(subjects, groups, counts, means, stds),
        (_group_sheet(groups, counts), _mean_sheet(subjects, counts[0], means[:, 0])),
        _figures(subjects, groups, means, stds),
    )


def _numbers(
    subjects: Sequence[Subject],
    groups: Sequence[Group],
    counts: NDArray[np.int64],
    means: Floats,
    stds: Floats,
) -> Sheet:
    """A row per subject, group and bin."""
    named = ("score mean", "score std", "box IoU mean", "box IoU std")
    columns = (
        *(Column("subject"), Column("by"), Column("group"), Column("objects", "count")),
        *(Column("IoU from", "score"), Column("IoU to", "score"), Column("windows", "count")),
        *(Column(name, "number") for name in named),
    )
    rows: list[Row] = []
    for s, g, b in product(range(len(subjects)), range(len(groups)), range(BINS)):
        pairs = zip(means[s, g, :, b].tolist(), stds[s, g, :, b].tolist(), strict=True)
        group = groups[g]
        about = (subjects[s].label, group.by, group.name, int(group.members.sum()))
        ends = (b / BINS, (b + 1) / BINS, int(counts[g, b]))
        rows.append((*about, *ends, *(value for pair in pairs for value in pair)))
    return Sheet("Every number", columns, tuple(rows))


def _group_sheet(groups: Sequence[Group], counts: NDArray[np.int64]) -> Sheet:
    columns = (
        Column("group"),
        Column("objects", "count"),
        Column("windows", "count"),
        Column("fewest in a bin", "count"),
    )
    rows = tuple(
        (group.title, int(group.members.sum()), int(of.sum()), int(of.min()))
        for group, of in zip(groups, counts, strict=True)
    )
    return Sheet("Windows", columns, rows, caption=f"{BINS} equal bins of IoU")


def _mean_sheet(subjects: Sequence[Subject], counts: NDArray[np.int64], means: Floats) -> Sheet:
    """Means of all objects by bin; `means` (subjects, 2, BINS)."""
    shown = [
        (f"{subject.label}\n{what}", s, q)
        for s, subject in enumerate(subjects)
        for q, what in enumerate(("score", "box IoU"))
        if (subject.can_score, subject.can_refine)[q]
    ]
    columns = (
        Column("IoU"),
        Column("windows", "count"),
        *(Column(name.replace("\n", " "), "number", heading=name) for name, _, _ in shown),
    )
    rows: tuple[Row, ...] = tuple(
        (
            f"{b / BINS:.2f}–{(b + 1) / BINS:.2f}",
            int(counts[b]),
            *means[[s for _, s, _ in shown], [q for _, _, q in shown], b].tolist(),
        )
        for b in range(BINS)
    )
    caption = "means over windows of this IoU: the true class's score, the refined box's IoU"
    return Sheet("All objects", columns, rows, caption=caption)


def _figures(
    subjects: Sequence[Subject], groups: Sequence[Group], means: Floats, stds: Floats
) -> dict[str, Callable[[Path], None]]:
    """The two rows of Fig. 2; not one that no subject has."""
    figures: dict[str, Callable[[Path], None]] = {}
    about = (("scores.png", "score of the true class"), ("boxes.png", "IoU of the refined box"))
    for quantity, (name, label) in enumerate(about):
        able = [s for s, one in enumerate(subjects) if (one.can_score, one.can_refine)[quantity]]
        panels = {
            group.title: {
                subjects[s].label: Curve(means[s, g, quantity], stds[s, g, quantity]) for s in able
            }
            for g, group in enumerate(groups)
        }
        if able:
            figures[name] = partial(draw_curves, panels, label)
    return figures


def _overlaps(boxes: Tensor, truth: Tensor) -> Floats:
    """IoU (N,) float64 of boxes (N, 4) with the box `truth` (1, 4) float64."""
    return as_array(iou_matrix(boxes.double(), truth)[:, 0])


def as_array(values: Tensor) -> Floats:
    """The values in float64, on the CPU."""
    return np.asarray(values.double().cpu().numpy())

"""Groups of objects that a study looks at apart: by size, and by how hard their class is."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dhcli.config.detecting import DetectOptions
from dhcli.data.io.progress import Count
from dhcli.errors import ConfigError
from dhcli.inference.evaluate import evaluate_runner
from dhcli.inference.score import Measures
from dhcli.runtime.runner import Runner, open_runner
from dhcli.studies.objects import SIZES, Objects
from dhcli.studies.subjects import Subject

DIFFICULTIES = ("easy", "medium", "hard")
"""Thirds of the classes, by a detector's AP."""


class Group(NamedTuple):
    """Some of the objects.

    by       all, size or difficulty
    name     such as `small` or `hard`
    members  (M,) bool
    """

    by: str
    name: str
    members: NDArray[np.bool_]

    @property
    def title(self) -> str:
        """Its name, unlike those of the other groups."""
        return {"all": "all objects", "size": self.name}.get(self.by, f"{self.name} classes")


def group_objects(objects: Objects, ranks: NDArray[np.int64] | None = None) -> list[Group]:
    """All objects, those of each size, and those of each difficulty; none that is empty.

    in   ranks  (classes,) int64 into `DIFFICULTIES` by class of `objects`, -1: none; see
                `rank_classes`
    """
    groups = [Group("all", "all", np.ones(len(objects), np.bool_))]
    groups += [Group("size", name, objects.sizes == k) for k, name in enumerate(SIZES)]
    if ranks is not None:
        rank = ranks[objects.labels]
        groups += [Group("difficulty", name, rank == k) for k, name in enumerate(DIFFICULTIES)]
    return [group for group in groups if group.members.any()]


def rank_classes(ap: NDArray[np.float64]) -> NDArray[np.int64]:
    """The third that each class belongs to, by its AP (K,): 0 for the best, NaN gets -1.

    Where the thirds are not equal, the first are larger. Raises ConfigError below three classes.
    """
    known = np.flatnonzero(~np.isnan(ap))
    if len(known) < len(DIFFICULTIES):
        what = f"thirds of the classes need at least 3 classes with objects, got {len(known)}"
        raise ConfigError(what, where="--difficulty", hint="leave out --difficulty and --baseline")
    best_first = known[np.argsort(-ap[known], kind="stable")]
    ranks = np.full(len(ap), -1, np.int64)
    for rank, third in enumerate(np.array_split(best_first, len(DIFFICULTIES))):
        ranks[third] = rank
    return ranks


def measure_difficulty(
    objects: Objects,
    subjects: list[Subject],
    baseline: Path | None,
    options: DetectOptions,
    progress: Count | None = None,
) -> NDArray[np.int64]:
    """`rank_classes` by the AP on these images of `baseline`, else of the first model."""
    runner: Runner = subjects[0].runner if baseline is None else open_runner(baseline, options)
    measures = Measures(split="all")
    [found] = evaluate_runner(
        runner, objects.table, measures, options=options, say=_silent, progress=progress
    ).values()
    numbers = found.per_class
    ap = [numbers.get(name, {}).get("AP", np.nan) for name in objects.classes]
    return rank_classes(np.array(ap, np.float64))


def _silent(_: str) -> None:
    """What is read was said before."""

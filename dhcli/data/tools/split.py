"""Dividing a dataset into splits that hold every class in the same proportion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import ANY_CLASS, HELD, DetectionTable
from dhcli.errors import ConfigError, DataError
from dhcli.words import counted

Counts = NDArray[np.int64]


def divide(
    table: DetectionTable,
    fraction: float,
    seed: int,
    names: tuple[str, str] = ("train", "val"),
) -> DetectionTable:
    """Add two splits to the table: `fraction` of the images in the second, the rest in the first.

    Each class comes as near as it can to `fraction` of the images that show it; rare classes are
    dealt out first, and the first split keeps an image of each where it can. Depends on the order
    of the table and `seed` alone. With two images and more, and 0 < fraction < 1, neither split is
    empty.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"the fraction must lie in [0, 1], not {fraction}")
    parts = divide_shares(table, {names[0]: 1 - fraction, names[1]: fraction}, seed).splits
    return replace(table, splits={**table.splits, **parts})


def divide_shares(
    table: DetectionTable,
    shares: Mapping[str, float],
    seed: int,
    groups: NDArray[np.int64] | None = None,
) -> DetectionTable:
    """The table with these splits in place of its own: name → share of the images.

    Classes are balanced as in `divide`, the last split being dealt out first. Images of the same
    number in `groups` (I,) stay together; without it each is its own group. Raises DataError where
    the groups are fewer than the splits.
    """
    groups = np.arange(len(table)) if groups is None else groups
    numbers, group_of = np.unique(groups, return_inverse=True)
    if len(numbers) < min(len(shares), len(table)):
        what = f"its images make {counted(len(numbers), 'group')}, too few for {len(shares)} splits"
        raise DataError(what, where=table.root)
    shown = _shown(table, group_of, len(numbers))
    sizes = np.bincount(group_of, minlength=len(numbers))
    rng = np.random.default_rng(seed)
    left = np.arange(len(numbers))
    names, whole = list(shares), sum(shares.values())
    splits = {}
    for name in reversed(names[1:]):
        taken = _take(shown[:, left], sizes[left], shares[name] / whole, rng)
        splits[name] = np.flatnonzero(np.isin(group_of, left[taken]))
        left, whole = left[~taken], whole - shares[name]
    splits[names[0]] = np.flatnonzero(np.isin(group_of, left))
    return replace(table, splits={name: splits[name] for name in names})


def group_images(table: DetectionTable, by: str) -> NDArray[np.int64]:
    """(I,) numbers, the same for images that belong together.

    `by` is a column of the images, one that a CSV has of its own or a field of COCO's images: equal
    values belong together. Else it is a regular expression that is looked for in the path; its
    first group counts, or all that it finds. An image without value or find is a group by itself.
    Raises DataError, which names the columns there are, where `by` is neither.
    """
    values = _column(table, by) or _found(table, by)
    if not any(values):
        there = ", ".join(_columns_of(table)) or "none"
        what = f"`{by}` is not a column of the images, and matches none of their paths"
        raise DataError(what, where=table.root, hint=f"the columns are {there}")
    known: dict[str, int] = {}
    alone = len(table)
    groups = (known.setdefault(v, len(known)) if v else alone + i for i, v in enumerate(values))
    return np.fromiter(groups, np.int64, len(table))


def _column(table: DetectionTable, name: str) -> list[str]:
    """The values of a column of the images, as text; [] where there is none."""
    own = table.own_columns().get(name)
    if own is not None:
        return [str(value) for value in own]
    return [str(fields.get(name, "")) for fields in table.source_fields()]


def _columns_of(table: DetectionTable) -> list[str]:
    first = next(table.source_fields(), {})
    return [*table.own_columns(), *(name for name in first if name not in HELD)]


def _found(table: DetectionTable, pattern: str) -> list[str]:
    """What a pattern finds in the path of each image, "" for nothing."""
    try:
        search = re.compile(pattern).search
    except re.error as error:
        raise ConfigError(f"`{pattern}` is not a pattern: {error}", where="--group-by") from None
    finds = map(search, table.files)
    return [(find[1] if find.re.groups and find[1] else find[0]) if find else "" for find in finds]


def _take(
    shown: Counts, sizes: Counts, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(G,) bool: groups that make up `fraction`; some, but not all, where there is a choice."""
    second = _deal(shown, sizes, fraction, rng)
    if len(second) > 1 and 0 < fraction < 1 and len(set(second.tolist())) == 1:
        second[0] = not second[0]
    return second


def _shown(table: DetectionTable, group_of: Counts, groups: int) -> Counts:
    """(K+1, G): how many images of a group show each class; the last row, those that show none."""
    shown = np.zeros((len(table.classes) + 1, len(table)), np.bool_)
    known = table.labels != ANY_CLASS
    shown[table.labels[known], table.image_of_box[known]] = True
    shown[-1] = ~shown[:-1].any(axis=0)
    return np.array([np.bincount(group_of[row], minlength=groups) for row in shown])


def _deal(
    shown: Counts, sizes: Counts, fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """(G,) bool: the groups of the second split, dealt out class by class from the rarest.

    in   shown  (K+1, G) images of each group that show a class;  sizes  (G,) images of each group
    """
    second = np.zeros(len(sizes), np.bool_)
    left = np.ones(len(sizes), np.bool_)
    order = rng.permutation(len(sizes))
    counts = shown.sum(axis=1)
    for row in np.argsort(counts, kind="stable"):
        shows = shown[row] > 0
        candidates = order[(shows & left)[order]]
        # What rounding has kept from earlier classes is made up for here.
        owed = fraction * sizes[~left].sum() - sizes[second].sum()
        wanted = fraction * counts[row] - shown[row, second].sum()
        in_first = (shows & ~left & ~second).any()
        most = len(candidates) - (not in_first and fraction < 1 and row < len(shown) - 1)
        images = np.cumsum(shown[row, candidates]) - shown[row, candidates] // 2
        take = min(int(np.searchsorted(images, round(wanted + max(owed, -0.5)), "right")), most)
        second[candidates[: max(0, take)]] = True
        left[candidates] = False
    return second

"""Dividing a dataset into two splits that hold every class in the same proportion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import ANY_CLASS, DetectionTable


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
        raise ValueError(f"fraction lies in [0, 1], not {fraction}")
    second = _deal(_shown(table), fraction, np.random.default_rng(seed))
    if len(table) > 1 and 0 < fraction < 1 and len(set(second.tolist())) == 1:
        second[0] = not second[0]
    parts = (np.flatnonzero(~second), np.flatnonzero(second))
    return replace(table, splits={**table.splits, **dict(zip(names, parts, strict=True))})


def _shown(table: DetectionTable) -> NDArray[np.bool_]:
    """(K+1, I): which images show each class; the last row, those that show none."""
    shown = np.zeros((len(table.classes) + 1, len(table)), np.bool_)
    known = table.labels != ANY_CLASS
    shown[table.labels[known], table.image_of_box[known]] = True
    shown[-1] = ~shown[:-1].any(axis=0)
    return shown


def _deal(shown: NDArray[np.bool_], fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(I,) bool: the images of the second split, dealt out class by class from the rarest."""
    total = shown.shape[1]
    second = np.zeros(total, np.bool_)
    left = np.ones(total, np.bool_)
    order = rng.permutation(total)
    counts = shown.sum(axis=1)
    for row in np.argsort(counts, kind="stable"):
        candidates = order[(shown[row] & left)[order]]
        # What rounding has kept from earlier classes is made up for here.
        owed = fraction * (total - left.sum()) - second.sum()
        wanted = fraction * counts[row] - (second & shown[row]).sum()
        in_first = (shown[row] & ~left & ~second).any()
        most = len(candidates) - (not in_first and fraction < 1 and row < len(shown) - 1)
        take = min(round(wanted + max(owed, -0.5)), most)
        second[candidates[: max(0, take)]] = True
        left[candidates] = False
    return second

"""Class-aware sampling: the images of rare classes come more often than once per epoch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable
from dhcli.words import counted

MOST_NAMED = 5
"""Rare classes that are named; more are counted."""


@dataclass(frozen=True)
class Repeats:
    """How often images come per epoch, on average ("LVIS", Gupta et al. 2019, §B).

    f_c  the share of the images with an object of class c
    r_c  = max(1, √(t / f_c)), t being `train.repeat_below`
    r_i  = the largest r_c of the classes in image i, 1 where it has none

    classes     K names
    images      (K,) int64 images with an object of each
    of_classes  (K,) float64 r_c, 1 where no image has the class
    factors     (I,) float64 r_i
    """

    classes: tuple[str, ...]
    images: NDArray[np.int64]
    of_classes: NDArray[np.float64]
    factors: NDArray[np.float64]

    def describe(self) -> str:
        """A line that says which classes come how often, the rarest first."""
        rare = [k for k in np.argsort(-self.of_classes, kind="stable") if self.of_classes[k] > 1]
        if not rare:
            return "rare classes: none (train.repeat_below), every image comes once per epoch"
        named = [
            f"{counted(int(self.images[k]), 'image')} of `{self.classes[k]}` "
            f"{'comes' if self.images[k] == 1 else 'come'} {self.of_classes[k]:.1f} times"
            for k in rare[:MOST_NAMED]
        ]
        more = f", and {len(rare) - MOST_NAMED} more" if len(rare) > MOST_NAMED else ""
        epoch = f"an epoch has {epoch_images(self.factors):,} images instead of"
        return f"rare classes: {', '.join(named)}{more}; {epoch} {len(self.factors):,}"


def repeats_of(table: DetectionTable, below: float, difficult: str) -> Repeats | None:
    """How often the images of `table` come; None where `below`, t of `Repeats`, is 0: once.

    Only objects that are learned count; see `DetectionTable.taught` for `difficult`.
    """
    if not below:
        return None
    taught = table.taught(difficult)
    image, label = table.image_of_box[taught], table.labels[taught].astype(np.int64)
    count = len(table.classes)
    pairs = np.unique(image * count + label)
    images = np.bincount(pairs % count, minlength=count).astype(np.int64)
    share = images / max(len(table), 1)
    of_classes = np.sqrt(np.maximum(below / np.where(images > 0, share, 1), 1))
    factors = np.ones(len(table))
    np.maximum.at(factors, image, of_classes[label])
    return Repeats(table.classes, images, of_classes, factors)


def epoch_images(factors: NDArray[np.float64]) -> int:
    """How many images each epoch has, whose images come as often as `factors` (I,) say."""
    return round(float(factors.sum()))


def repeated(
    order: NDArray[np.int64], factors: NDArray[np.float64], offset: float
) -> NDArray[np.int64]:
    """The images `order` (I,), each ⌊factor⌋ times, and once more where a systematic sample says.

    The fractions of the images lie end to end on a line, and the sample takes points of equal
    distance on it, from `offset` in [0, 1) of that distance on. What comes again has the number of
    the image + I, then + 2I, as in `Batches`.
    """
    whole = np.floor(factors).astype(np.int64)
    line = np.cumsum((factors - whole)[order])
    more = epoch_images(factors) - int(whole.sum())
    points = (np.arange(more) + offset) * (line[-1] / more if more else 0.0)
    taken = order[np.minimum(np.searchsorted(line, points, side="right"), len(order) - 1)]
    times = whole + np.bincount(taken, minlength=len(order))
    turns = range(int(times.max(initial=0)))
    return np.concatenate([order[times[order] > turn] + turn * len(order) for turn in turns])

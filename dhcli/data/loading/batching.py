"""Which images go into which batch: pure rules over image sizes, without reading a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from dhcli.config.schema import Input
from dhcli.data.io.image import read_size
from dhcli.data.loading.repeats import repeated
from dhcli.data.loading.transforms import padded_size
from dhcli.data.table import DetectionTable

Batches = list[NDArray[np.int64]]
"""Image numbers, one array per batch.

In training, of I images, image i that comes again in an epoch has the number i + I, then i + 2I.
"""


@dataclass(frozen=True)
class Share:
    """Which batches are this process's: numbers rank, rank + size, … of those of all `size`.

    rank   0 … size − 1
    size   processes; one alone has every batch
    """

    rank: int = 0
    size: int = 1

    def of(self, batches: Batches) -> Batches:
        """Of the `batches` of all, those of this process."""
        return batches[self.rank :: self.size]


WHOLE = Share()
"""The share of a process that is alone."""


def known_sizes(table: DetectionTable, *, upright: bool = True) -> NDArray[np.int64]:
    """(I, 2) width, height of every image, read from the files' headers where not stated.

    Raises DataError naming the first image that cannot be read.
    """
    sizes = table.sizes.astype(np.int64)
    for image in np.flatnonzero((sizes <= 0).any(axis=1)):
        sizes[image] = read_size(table.path(int(image)), upright=upright)
    return sizes


def training_batches(
    sizes: NDArray[np.int64],
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    shares: int = 1,
    factors: NDArray[np.float64] | None = None,
) -> Batches:
    """The batches of an epoch, of all processes; `Share.of` gives those of one.

    Images are shuffled, landscape apart from portrait so that batches need little padding (at most
    one mixes them), cut into batches, and the batches shuffled. Every image comes once, or as often
    as its factor (I,) says on average, so one batch may be short. Up to `shares` − 1 batches from
    the front are repeated at the end, so that every process has equally many. The same for the same
    (seed, epoch).
    """
    rng = np.random.default_rng((seed, epoch, 0))
    order = rng.permutation(len(sizes))
    if factors is not None:
        order = rng.permutation(repeated(order, factors, rng.random()))
    portrait = sizes[order % len(sizes), 0] < sizes[order % len(sizes), 1]
    order = np.concatenate([order[~portrait], order[portrait]])
    cut = _cut(order, batch_size)
    shuffled = [cut[number] for number in rng.permutation(len(cut))]
    missing = -len(shuffled) % shares
    return shuffled + list(islice(cycle(shuffled), missing))


def image_dice(seed: int, epoch: int, image: int) -> np.random.Generator:
    """The random numbers that augment one image in one epoch, and nothing else.

    `image` is its number in the batches: an image that comes again has others.
    """
    return np.random.default_rng((seed, epoch, image + 1))  # 0 shuffles the batches


def mixing_dice(seed: int, epoch: int, image: int) -> np.random.Generator:
    """As `image_dice`, those of mosaics and their like."""
    return np.random.default_rng((seed, epoch, image + 1, 0))


def step_side(sides: Sequence[int], every: int, *, seed: int, epoch: int, step: int) -> int:
    """Which of `sides` the images of a step have: the same for `every` steps of the epoch."""
    rng = np.random.default_rng((seed, epoch, 0, step // every))
    return sides[int(rng.integers(len(sides)))]


def evaluation_batches(sizes: NDArray[np.int64], batch_size: int, input: Input) -> Batches:
    """Every image once, in batches of one padded shape, the largest shape first.

    An image is so padded alike whatever the batch size, and its detections do not depend on it;
    and a batch too large for memory shows at once.
    """
    unique, shape_of = np.unique(sizes, axis=0, return_inverse=True)
    padded = np.array([padded_size(w, h, input) for w, h in unique.tolist()]).reshape(-1, 2)
    padded = padded[shape_of.reshape(-1)]
    order = np.lexsort((padded[:, 0], -padded.prod(axis=1)))
    changes = np.flatnonzero((np.diff(padded[order], axis=0) != 0).any(axis=1)) + 1
    return [batch for group in np.split(order, changes) for batch in _cut(group, batch_size)]


def _cut(order: NDArray[np.int64], length: int) -> Batches:
    return [order[start : start + length] for start in range(0, len(order), length)]

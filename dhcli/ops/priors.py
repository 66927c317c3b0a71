"""Priors: the boxes around every cell of every level that a dense detector starts from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from dhcli.config.schema import Priors as PriorsConfig
from dhcli.ops.anchors import cell_anchors, grid_anchors
from dhcli.ops.match import BACKGROUND, UNDECIDED


class Priors(NamedTuple):
    """Level after level, in the order row, column, prior.

    boxes    (N, 4) float32 xyxy
    strides  (N, 1) float32, pixels between the cells of its level
    levels   (N,) int64, 0 the finest
    """

    boxes: Tensor
    strides: Tensor
    levels: Tensor

    def centres(self) -> Tensor:
        """(N, 2) x, y."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    def at(self, rows: Tensor) -> Self:
        """Those of `rows`."""
        return type(self)(*(part[rows] for part in self))

    def moved(self, cells: float) -> Self:
        """Each so far to the right and below, in strides."""
        return self._replace(boxes=self.boxes + cells * self.strides)


def prior_cells(config: PriorsConfig, strides: Sequence[int]) -> list[Tensor]:
    """Of each level those of the cell at (0, 0): (A, 4) float32 xyxy, all sizes, ratio by ratio."""
    cells = []
    for stride in strides:
        sizes = [cell_anchors(s * stride, stride, config.ratios, "plain") for s in config.sizes]
        cells.append(torch.stack(sizes, dim=1).flatten(0, 1) + config.offset * stride)
    return cells


def lay_priors(
    cells: Sequence[Tensor], strides: Sequence[int], sides: Sequence[Sequence[int]]
) -> Priors:
    """Those of whole levels.

    in   sides  height, width of each level in cells
    """
    boxes = [
        grid_anchors(cell, height, width, stride)
        for cell, stride, (height, width) in zip(cells, strides, sides, strict=True)
    ]
    each = [torch.full_like(own[:, :1], stride) for own, stride in zip(boxes, strides, strict=True)]
    numbers = [torch.full_like(own[:, 0], i, dtype=torch.int64) for i, own in enumerate(boxes)]
    return Priors(torch.cat(boxes), torch.cat(each), torch.cat(numbers))


def padded_cells(
    priors: Priors, strides: Sequence[int], sides: Sequence[Sequence[int]], sizes: Tensor
) -> Tensor:
    """Which of the N priors have a cell that begins beyond each image: (B, N) bool.

    in   sides  height, width of each level in cells;  sizes  (B, 2) int64 height, width in pixels
    """
    levels = []
    for stride, (height, width) in zip(strides, sides, strict=True):
        rows, columns = (torch.arange(n, device=sizes.device) * stride for n in (height, width))
        down, across = rows >= sizes[:, :1], columns >= sizes[:, 1:]
        levels.append((down[:, :, None] | across[:, None]).flatten(1))
    beyond = torch.cat(levels, dim=1)
    return beyond.repeat_interleave(len(priors.boxes) // beyond.shape[1], dim=1)


class Seen(NamedTuple):
    """What an assigner looks at in one image, without gradients.

    priors   those of the batch
    boxes    (N, 4) float32 xyxy, as predicted
    logits   (N, K) float32 of the classes
    quality  (N,) float32 logits; None where none is predicted
    """

    priors: Priors
    boxes: Tensor
    logits: Tensor
    quality: Tensor | None

    def at(self, rows: Tensor) -> Self:
        """What there is of the priors `rows`."""
        quality = None if self.quality is None else self.quality[rows]
        return type(self)(self.priors.at(rows), self.boxes[rows], self.logits[rows], quality)


class Owned(NamedTuple):
    """Which object of its image each prior answers for.

    owners   (N,) int64 index of the object, BACKGROUND or UNDECIDED: what scores are taught
    rows     (P,) int64 the priors whose boxes are taught; with some assigners one stands twice
    objects  (P,) int64 the object of each
    """

    owners: Tensor
    rows: Tensor
    objects: Tensor


def scattered(found: Owned, rows: Tensor, others: Tensor) -> Owned:
    """What was found of the priors `rows`, as of all; the owners of the rest are `others` (N,)."""
    return Owned(others.index_copy(0, rows, found.owners), rows[found.rows], found.objects)


def owned(owners: Tensor) -> Owned:
    """Boxes are taught where scores are."""
    rows = torch.nonzero(owners >= 0).flatten()
    return Owned(owners, rows, owners[rows])


def spare_ignored(owners: Tensor, priors: Priors, ignore: Tensor) -> Tensor:
    """`owners` (N,) with UNDECIDED for background whose centre lies in a region of `ignore` (R, 4).

    A box that lies in a region by more than half has its centre there.
    """
    if not len(ignore):
        return owners
    hidden = (inside(priors.centres(), ignore) > 0).any(dim=1)
    return torch.where((owners == BACKGROUND) & hidden, UNDECIDED, owners)


def inside(points: Tensor, boxes: Tensor) -> Tensor:
    """How far each of `points` (N, 2) is in each of `boxes` (M, 4): (N, M), negative outside."""
    low = points[:, None] - boxes[None, :, :2]
    high = boxes[None, :, 2:] - points[:, None]
    return torch.minimum(low, high).amin(dim=-1)


def nothing(priors: Priors) -> Tensor:
    """Every prior BACKGROUND: (N,) int64."""
    return torch.full_like(priors.levels, BACKGROUND)

"""RoIAlign on the CPU, as a product with a sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dhcli.models.two_stage.pool import Pool


class SparsePool(Pool):
    """Pooling by `align_rois` on CPUs. Exact: the same weighted sums, added in another order."""

    def align(self, levels: Sequence[Tensor], level_of: Tensor, rois: Tensor) -> Tensor:
        if not rois.is_cpu or torch.compiler.is_exporting():
            return super().align(levels, level_of, rois)
        scales = [1 / stride for stride in self.strides]
        rule = (self.size, self.sampling_ratio, self.aligned)
        return align_rois(levels, level_of, rois, scales, *rule)


class Axis(NamedTuple):
    """How the cells of N RoIs read one axis of a feature map.

    first    (N, S) int64, the first of the map's cells that is read
    weights  (N, S, L) float32 of that cell and the L − 1 after it
    cells    (N,) int64, how many of the L a RoI needs, at least 1
    """

    first: Tensor
    weights: Tensor
    cells: Tensor


def align_rois(
    levels: Sequence[Tensor],
    level_of: Tensor,
    rois: Tensor,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign as torchvision's `roi_align` has it, ten times as fast on CPUs.

    A pooled cell is a weighted sum of the map's cells, the same for all channels, and the weights
    are products of one factor an axis. `embedding_bag` is that sum: it reads each cell's channels
    as one stretch of memory, and its gradient goes back the same way.

    in   levels    (B, C, h, w) float each, fastest in channels_last memory
         level_of  (N,) int64, which of them a RoI is pooled from
         rois      (N, 5) float32: image, xyxy in pixels
         scales    cells a pixel of each level;  sampling_ratio 0: a sample a cell
    out  (N, C, size, size) float of the levels' dtype, channels_last
    """
    channels = levels[0].shape[1]
    pooled, order = [levels[0].new_zeros(0, size, size, channels)], [level_of[:0]]
    for index, (features, scale) in enumerate(zip(levels, scales, strict=True)):
        rows = torch.nonzero(level_of == index).flatten()
        if not len(rows):
            continue
        ends = rois[rows, 1:] * scale
        x, y = (
            _read_axis(ends[:, axis::2], features.shape[3 - axis], size, sampling_ratio, aligned)
            for axis in (0, 1)
        )
        by_window, sums = _sum_cells(features, rois[rows, 0].long(), x, y)
        pooled.append(sums.view(-1, size, size, channels))
        order.append(rows[by_window])
    # Not written into a whole: that would keep what is written for the gradient, and not read it
    back = torch.argsort(torch.cat(order))
    return torch.cat(pooled).index_select(0, back).permute(0, 3, 1, 2)


def _sum_cells(features: Tensor, images: Tensor, x: Axis, y: Axis) -> tuple[Tensor, Tensor]:
    """The pooled cells of N RoIs in `images` (N,): (N·S·S, C), and the order that RoIs come in."""
    height, width = features.shape[-2:]
    first_row = images[:, None] * height + y.first  # (N, S), images below each other
    last_row = len(features) * height - 1
    by_window, bags = _sums(y._replace(first=first_row), last_row, x, width - 1)
    sums = F.embedding_bag(
        bags.cells,
        features.permute(0, 2, 3, 1).flatten(0, 2),
        bags.offsets,
        mode="sum",
        per_sample_weights=bags.weights.to(features.dtype),
    )
    return by_window, sums


class Bags(NamedTuple):
    """Sums over the cells of a map: `cells` and `weights` (M,), each sum from its offset on."""

    cells: Tensor
    weights: Tensor
    offsets: Tensor


def _sums(y: Axis, last_row: int, x: Axis, last_column: int) -> tuple[Tensor, Bags]:
    """The sum that each cell of each RoI is, RoIs in the order that is given too (N,).

    RoIs that read windows of one shape stand together: their products are one broadcast.
    """
    width = last_column + 1
    shape_of = y.cells * (int(x.cells.max()) + 1) + x.cells
    order = torch.argsort(shape_of)
    numbers = torch.unique_consecutive(shape_of[order], return_counts=True)[1].tolist()
    cells, weights, lengths = [], [], []
    for mine in torch.split(order, numbers):
        rows, columns = int(y.cells[mine[0]]), int(x.cells[mine[0]])
        # the last of a window may lie beyond the map, with weight 0
        row = (y.first[mine, :, None] + torch.arange(rows)).clamp_(max=last_row)  # (n, S, rows)
        column = (x.first[mine, :, None] + torch.arange(columns)).clamp_(max=last_column)
        cells.append((row[:, :, None, :, None] * width + column[:, None, :, None, :]).flatten())
        one, other = y.weights[mine, :, :rows], x.weights[mine, :, :columns]
        weights.append((one[:, :, None, :, None] * other[:, None, :, None, :]).flatten())
        lengths.append(torch.full((row.shape[1] * column.shape[1] * len(mine),), rows * columns))
    length = torch.cat(lengths)
    return order, Bags(torch.cat(cells), torch.cat(weights), length.cumsum(0) - length)


def _read_axis(ends: Tensor, cells: int, size: int, sampling_ratio: int, aligned: bool) -> Axis:
    """Which of `cells` cells the S = `size` parts of each stretch read; `ends` (N, 2), in cells.

    A part takes the mean of samples at equal distances, each interpolated between its two
    neighbours: a cell has weight max(0, 1 − distance). A sample more than a cell outside is 0.
    """
    start = ends[:, 0] - (0.5 if aligned else 0.0)
    extent = ends[:, 1] - ends[:, 0]
    part = (extent if aligned else extent.clamp(min=1)) / size
    most = torch.full_like(part, sampling_ratio) if sampling_ratio > 0 else part.ceil()
    samples = most.clamp(min=0)[:, None]  # (N, 1)
    divisor = samples.clamp(min=1)
    number = torch.arange(int(samples.max()) or 1)
    taken = number < samples  # (N, G)
    starts = start[:, None] + torch.arange(size) * part[:, None]  # (N, S)
    at = starts[:, :, None] + ((number + 0.5) * part[:, None] / divisor)[:, None]  # (N, S, G)
    taken = taken[:, None] & (at >= -1) & (at <= cells)
    at = at.clamp_(0, cells - 1)
    first = at[..., 0].floor()
    last = at.gather(2, (divisor.long() - 1)[:, None].expand(-1, size, -1))[..., 0].floor()
    count = (last - first).amax(1).long() + 2
    neighbours = first[..., None] + torch.arange(int(count.max()))  # (N, S, L)
    distance = (at[..., None, :] - neighbours[..., None]).abs_()  # (N, S, L, G)
    weights = ((1 - distance).clamp_(min=0) * taken[:, :, None]).sum(-1) / divisor[:, None]
    return Axis(first.long(), weights, count)

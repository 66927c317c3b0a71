"""An RPN whose gradient comes from its sampled anchors only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dhcli.models.two_stage.rpn import Rpn
from dhcli.ops.batch import Target


class RevisitingRpn(Rpn):
    """Looks at all anchors without a gradient, and again at those that carry a loss.

    Exact: the loss reads nothing else, and what is said of an anchor depends on 3 × 3 cells.
    """

    def learn(
        self, levels: Sequence[Tensor], sizes: Tensor, targets: Sequence[Target]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        with torch.no_grad():
            output = self(levels)
        # Autocast keeps weights as it cast them; in older torch, those without a gradient too
        torch.clear_autocast_cache()
        proposals = self.propose(output, sizes, training=True)
        sampled = self.sample(output, targets, sizes)
        again = self.revisit(levels, output.counts, sampled.images, sampled.anchors)
        return proposals, self.losses(*again, sampled)

    def revisit(
        self, levels: Sequence[Tensor], counts: Sequence[int], images: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `forward` says of some anchors: logits (n,), deltas (n, 4).

        Only sampled anchors carry a loss, and what is said of one depends on 3 × 3 cells. So these
        few are computed again with a gradient, instead of a gradient for every cell of the pyramid.

        in   levels   (B, C, h, w) float each;  counts  anchors of each
             images   (n,) int64;  anchors  (n,) int64, numbered level after level
        """
        per_cell, start = self.cells.shape[1], 0
        order, patches = [], []
        for level, count in zip(levels, counts, strict=True):
            mine = torch.nonzero((anchors >= start) & (anchors < start + count)).flatten()
            patches.append(_take_patches(level, images[mine], (anchors[mine] - start) // per_cell))
            order.append(mine)
            start += count
        back = torch.argsort(torch.cat(order))
        x = F.relu(F.conv2d(torch.cat(patches)[back], self.conv.weight, self.conv.bias))
        ratio = (anchors % per_cell)[:, None]  # a level has whole cells of anchors
        logits, deltas = self.cls(x).flatten(1), self.reg(x).flatten(1).unflatten(1, (-1, 4))
        return logits.gather(1, ratio)[:, 0], deltas.take_along_dim(ratio[:, :, None], 1)[:, 0]


def _take_patches(level: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """The 3 × 3 cells around some `cells` (n,) of a map (B, C, h, w), 0 outside: (n, C, 3, 3)."""
    height, width = level.shape[2:]
    near = torch.arange(-1, 2, device=cells.device)
    rows = (cells // width)[:, None, None] + near[:, None]  # (n, 3, 1)
    columns = (cells % width)[:, None, None] + near  # (n, 1, 3)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (n, 3, 3)
    rows = rows.clamp(0, height - 1) + images[:, None, None] * height
    index = rows * width + columns.clamp(0, width - 1)
    vectors = level.permute(0, 2, 3, 1).flatten(0, 2)  # (B·h·w, C), a view in channels_last
    patches = vectors.index_select(0, index.flatten()).view(*index.shape, level.shape[1])
    return (patches * inside[..., None]).permute(0, 3, 1, 2)

"""The largest of many numbers, in a graph for export too."""

from __future__ import annotations

import torch
from torch import Tensor


def largest(values: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The `limit` largest of `values` (B, N) and their places, or all where there are fewer.

    A graph for export cannot tell how many there are: there, −∞ fills up what is lacking.
    """
    if not torch.compiler.is_exporting():
        best = values.topk(min(limit, values.shape[1]), dim=1)
        return best.values, best.indices
    lacking = values.new_full((values.shape[0], limit), float("-inf"))
    best = torch.cat([values, lacking], 1).topk(limit, dim=1)
    return best.values, best.indices.clamp(max=values.shape[1] - 1)


def places_of_largest(values: Tensor, limit: int) -> Tensor:
    """Places of the `limit` largest of `values` (N,), which are finite: (n,) int64.

    All, in their order, where there are no more; else largest first.
    """
    if not torch.compiler.is_exporting():
        few = len(values) <= limit
        return torch.arange(len(values), device=values.device) if few else values.topk(limit)[1]
    best, places = largest(values[None], limit)
    return places[0][torch.nonzero(torch.isfinite(best[0])).flatten()]

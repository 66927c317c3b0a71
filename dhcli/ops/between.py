"""What a map has between its places: sums of its vectors by weight."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Axis(NamedTuple):
    """The places of rows, or of columns, that are read, and the share of each.

    places  (N, …, n) int64, within the map
    shares  (N, …, n) float of the map's dtype
    """

    places: Tensor
    shares: Tensor


def sum_between(features: Tensor, images: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """The sum of the vectors at every row and column, each by the product of their shares.

    A vector is not copied before it is summed, and gradients, to the map and to the shares, are as
    frugal.

    in   features  (B, C, h, w) float, fastest in channels_last memory
         images    (N,) int64, whose map each reads
    out  (N, …, C)
    """
    height, width = features.shape[-2:]
    first = (images * height).view(-1, *[1] * (rows.places.dim() - 1))  # images below each other
    places = (rows.places + first)[..., :, None] * width + columns.places[..., None, :]
    shares = rows.shares[..., :, None] * columns.shares[..., None, :]
    vectors = features.permute(0, 2, 3, 1).flatten(0, 2)  # (B·h·w, C), a view in channels_last
    bags = (-1, places.shape[-2] * places.shape[-1])
    sums = F.embedding_bag(
        places.view(bags), vectors, mode="sum", per_sample_weights=shares.view(bags)
    )
    return sums.view(*places.shape[:-2], -1)

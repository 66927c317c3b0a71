"""How alike the cells of feature maps are, before and after a branch (Fig. 8)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


class MeanCosine:
    """The mean over RoIs of the cosine between every two cells, in the memory of one.

    A cell that is zero in all channels has no direction; its pairs are left out of the mean.
    """

    def __init__(self, cells: int) -> None:
        self.total: Floats = np.zeros((cells, cells))
        self.count = np.zeros((cells, cells), np.int64)

    def add(self, maps: Tensor) -> None:
        """Take in the RoIs of `maps` (N, C, S, S)."""
        vectors = maps.float().flatten(2).transpose(1, 2)  # (N, cells, C)
        length = vectors.norm(dim=2, keepdim=True)
        known = (length > 0).double()
        unit = vectors / length.clamp(min=1e-30)
        self.total += (unit @ unit.transpose(1, 2)).double().sum(dim=0).cpu().numpy()
        self.count += (known @ known.transpose(1, 2)).sum(dim=0).long().cpu().numpy()

    def mean(self) -> Floats:
        """(cells, cells), NaN where no RoI has both."""
        with np.errstate(invalid="ignore"):
            mean: Floats = self.total / self.count
        return mean

"""How alike the cells of feature maps are, before and after a branch (appendix A, Fig. 8)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.errors import ConfigError
from dhcli.models.two_stage.head import GROUP, Head

Floats = NDArray[np.float64]


class MeanCosine:
    """The mean over RoIs of the cosine between every two cells of a map; holds only their sum.

    A cell that is zero in all channels has no direction: its pairs are left out of the mean.
    """

    def __init__(self) -> None:
        self.total: Floats = np.zeros((1, 1))
        self.count: Floats = np.zeros((1, 1))

    def add(self, maps: Tensor) -> None:
        """Take in the RoIs of `maps` (N, C, S, S)."""
        vectors = maps.float().flatten(2).transpose(1, 2)  # (N, S², C)
        length = vectors.norm(dim=2, keepdim=True)
        known = (length > 0).float()
        unit = vectors / length.clamp(min=torch.finfo(torch.float32).tiny)
        self.total = self.total + _summed_products(unit)
        self.count = self.count + _summed_products(known)

    def mean(self) -> Floats:
        """(S², S²), NaN where no RoI has both cells."""
        with np.errstate(invalid="ignore"):
            mean: Floats = self.total / self.count
        return mean


def _summed_products(vectors: Tensor) -> Floats:
    """Of every two cells of (N, S², C), summed over N: (S², S²)."""
    summed: Floats = (vectors @ vectors.transpose(1, 2)).double().sum(dim=0).cpu().numpy()
    return summed


class BranchMaps:
    """What a branch sees of RoIs, and its last map before a RoI becomes a vector.

    before, after  mean cosine of cells of the pooled RoI, and of `Trunk.output_map`
    """

    def __init__(self, head: Head, name: str) -> None:
        self.head = head
        self.name = name
        self.rois = 0
        self.before = MeanCosine()
        self.after = MeanCosine()

    def add(self, levels: Sequence[Tensor], boxes: Tensor, images: Tensor) -> None:
        """Take in the boxes (N, 4) float32 xyxy, in resized pixels, of images (N,) of a batch.

        Raises ConfigError where the branch has no map to show.
        """
        trunk = self.head.branch(self.name).trunk
        for group, owner in zip(torch.split(boxes, GROUP), torch.split(images, GROUP), strict=True):
            pooled = self.head.pooled(self.name, levels, group, owner)
            try:
                after = trunk.output_map(pooled)
            except NotImplementedError as error:
                what = f"the branch `{self.name}` has no map before its vector"
                raise ConfigError(what, hint="a trunk's `output_map` gives it") from error
            self.before.add(pooled)
            self.after.add(after)
            self.rois += len(group)

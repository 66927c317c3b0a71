"""`model.pool`: from a pyramid level to the cells of a RoI."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dhcli.config.schema.base import NonNegative, Section


class Pool(Section):
    """RoIAlign, from a pyramid level to size × size cells."""

    size: Annotated[int, Field(ge=1, le=128)] = 7
    """Cells per side."""
    sampling_ratio: Annotated[int, Field(ge=0, le=64)] = 0
    """Samples per side of a cell (0: as many as the cell has pixels)."""
    aligned: bool = True
    """Shift by half a pixel, so that cells are centred on the samples."""
    convention: Literal["plain", "mmdet1"] = "plain"
    """mmdet1: RoIs as MMDetection 1 pools them, for its weights. With `legacy_plus_one` they
    include their last pixel; without `aligned` they have no least side; and where a branch moves
    them (`roi.kind: disentangled`), their corners are rounded and samples beyond the map left out
    (docs/family.md)."""
    level_epsilon: NonNegative = 1e-6
    """Added to √area / 56 before its logarithm gives the level (maskrcnn-benchmark: 4e-6)."""

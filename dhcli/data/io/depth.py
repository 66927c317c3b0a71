"""Pixels of more than 8 bits, or of many bands, become 8-bit RGB by a stated rule."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Depth = Literal["auto", "full", "percentile"]

QUARTER = 16384
"""A quarter of 16 bits: images that stay below it are of sensors with fewer bits."""
SHARES = (0.5, 99.5)
"""Percentiles of an image's values that become 0 and 255."""


class DepthError(ValueError):
    """Values that have no stated range."""


def to_rgb(values: NDArray[Any], depth: Depth) -> tuple[NDArray[np.uint8], list[str]]:
    """`values` (H, W) or (H, W, C) as (H, W, 3) uint8, and what was done to them, in words.

    One band is grey, of three and more the first three are red, green and blue. 8 bits stay.
    full: 16 bits keep their high byte, fractions 0…1 become 0…255. percentile: the image's own
    0.5th to 99.5th percentile, over all its bands, become 0…255. auto: full for fractions within
    0…1 and for 16 bits that reach a quarter of their range, else percentile.
    Raises DepthError for `full` of other values.
    """
    said = []
    bands = 1 if values.ndim == 2 else values.shape[2]
    values = values.reshape(*values.shape[:2], bands)
    if bands not in (1, 3):
        used = "first is grey" if bands == 2 else "first three are red, green, blue"
        said.append(f"has {bands} bands, of which the {used}")
    values = values[..., : 3 if bands > 2 else 1]
    if values.dtype != np.uint8:
        values, how = _to_eight_bits(values, depth)
        said.append(how)
    return np.broadcast_to(values, (*values.shape[:2], 3)).copy(), said


def _to_eight_bits(values: NDArray[Any], depth: Depth) -> tuple[NDArray[np.uint8], str]:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0, 0)
    bits = values.dtype.itemsize * 8
    kind = "floating-point pixels" if values.dtype.kind == "f" else f"{bits} bits"
    used = f"has {kind}, of which {low:g}…{high:g} are used"
    whole = 1 if values.dtype.kind == "f" else 0xFFFF
    fits = low >= 0 and high <= whole
    if depth == "full" and not fits:
        raise DepthError(f"{used}, whose whole range is not known")
    if depth != "percentile" and fits and (whole == 1 or depth == "full" or high >= QUARTER):
        if whole == 1:
            return np.round(np.nan_to_num(values) * 255).astype(np.uint8), f"{used}: ×255"
        return (values.astype(np.uint16) >> 8).astype(np.uint8), f"{used}: the high byte is read"
    dark, bright = np.percentile(finite, SHARES) if finite.size else (0, 0)
    scale = 255 / (bright - dark) if bright > dark else 0
    scaled = np.clip((np.nan_to_num(values.astype(np.float64)) - dark) * scale, 0, 255)
    return np.round(scaled).astype(np.uint8), f"{used}: {dark:g}…{bright:g} become 0…255"

"""Masks as run lengths (COCO's): the boxes around them, without unpacking a mask.

Runs of 0 and 1 in turn go down the columns, first column first: a list of lengths, or these packed
into text, five bits a character, each length from the third on as the difference to the one before
the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.data.formats.boxes import Box
from dhcli.data.io.text_rows import number_of

_ZERO, _MORE, _NEGATIVE = ord("0"), 0x20, 0x10
_LONGEST = 10
"""Characters of the longest length that there can be."""


def box_of_rle(mask: Mapping[str, Any]) -> Box | None:
    """The box xyxy around the ones of a mask, pixels with an exclusive maximum; None for none.

    `mask` has its `size`, [height, width], and `counts`. Raises ValueError, TypeError or KeyError.
    """
    height, width = (int(number_of(side)) for side in mask["size"])
    counts = mask["counts"]
    lengths = _unpack(counts) if isinstance(counts, str) else list(map(int, counts))
    runs = np.array(lengths, np.int64)
    if min(height, width) <= 0 or (runs < 0).any() or runs.sum() > height * width:
        raise ValueError("whose mask is larger than its `size`")
    return _box(np.cumsum(runs), height)


def _box(ends: NDArray[np.int64], height: int) -> Box | None:
    stops = ends[1::2]  # of the runs of ones, which begin where those of zeros end
    starts = ends[::2][: len(stops)]
    starts, lasts = starts[stops > starts], stops[stops > starts] - 1
    if not len(starts):
        return None
    columns = starts // height, lasts // height
    over = columns[0] < columns[1]  # a run that goes on in the next column fills the height
    top = np.where(over, 0, starts % height).min()
    bottom = np.where(over, height - 1, lasts % height).max()
    return float(columns[0].min()), float(top), float(columns[1].max() + 1), float(bottom + 1)


def _unpack(text: str) -> list[int]:
    """The lengths that are packed into `text`. Raises ValueError where it is cut off."""
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - _ZERO
        if not 0 <= bits < 2 * _MORE or shift >= 5 * _LONGEST:
            raise ValueError("whose mask is not run lengths")
        value |= (bits & (_MORE - 1)) << shift
        shift += 5
        if bits & _MORE:
            continue
        if bits & _NEGATIVE:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("whose mask is cut off")
    return lengths

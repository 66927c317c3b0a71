"""The ids of annotations: which repeat, and sound ones in their place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable

Ids = NDArray[np.int64]


def sound_ids(ids: Ids) -> Ids:
    """`ids` with new ones, after the largest, for those that are not positive or come again."""
    bad = ~_is_first(ids) | (ids <= 0)
    sound = ids.copy()
    sound[bad] = int(ids.max(initial=0)) + 1 + np.arange(int(bad.sum()))
    return sound


def repeated_ids(table: DetectionTable) -> NDArray[np.bool_]:
    """(M,) bool: annotations with the id of an earlier one of the same annotation file."""
    repeated = ~_is_first(table.box_ids)
    if not repeated.any() or "annotation" not in table.image_extras:
        return repeated
    numbers: dict[str, int] = {}
    files = [numbers.setdefault(file, len(numbers)) for file in table.image_extras["annotation"]]
    pairs = np.column_stack([np.array(files, np.int64)[table.image_of_box], table.box_ids])
    return ~_is_first(pairs)


def _is_first(keys: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) bool: rows that no earlier one equals."""
    first = np.zeros(len(keys), np.bool_)
    first[np.unique(keys, axis=0, return_index=True)[1]] = True
    return first

"""Boxes around masks of run lengths, beside pycocotools'."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from dhcli.data.formats.rle import box_of_rle


def drawn(seed):
    """A mask of any size and density, at times empty or full."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 30, 2)
    return np.asfortranarray(rng.random((height, width)) < rng.choice([0, 0.02, 0.3, 1])), seed


def lengths_of(mask):
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat))
    return np.diff([0, *edges, mask.size]).tolist()


@pytest.mark.parametrize("seed", range(40))
def test_the_box_is_pycocotools(seed):
    mask, _ = drawn(seed)
    packed = coco_mask.encode(mask.astype(np.uint8))
    x, y, width, height = coco_mask.toBbox(packed).tolist()
    expected = (x, y, x + width, y + height) if mask.any() else None
    told = {"size": list(mask.shape)}

    assert box_of_rle(told | {"counts": packed["counts"].decode()}) == expected
    assert box_of_rle(told | {"counts": lengths_of(mask)}) == expected


@pytest.mark.parametrize(
    "mask",
    [
        {"size": [2, 2], "counts": [1, 9]},
        {"size": [0, 2], "counts": [0]},
        {"size": [2, 2], "counts": [1, -1]},
        {"size": [2, 2], "counts": [10**30]},
        {"size": [2, 2], "counts": "P"},
        {"size": [2, 2], "counts": "ä1"},
        {"size": [2, 2], "counts": "o" * 99},
        {"size": [2], "counts": "1"},
        {"size": [2, 2], "counts": None},
    ],
)
def test_what_is_no_mask_is_an_error(mask):
    with pytest.raises((ValueError, TypeError, OverflowError)):
        box_of_rle(mask)

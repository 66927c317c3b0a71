"""Anchors of the three conventions."""

from __future__ import annotations

import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from dhcli.ops.anchors import cell_anchors, grid_anchors
from tests.references.network import STRIDES

RATIOS = (0.5, 1.0, 2.0)


def test_plain_anchors_are_exact_and_centred_on_the_corner() -> None:
    anchors = cell_anchors(32, 4, RATIOS, "plain")

    wide = [-16 * 2**0.5, -8 * 2**0.5, 16 * 2**0.5, 8 * 2**0.5]  # h / w = 1 / 2, area 32²
    assert torch.allclose(anchors[0], torch.tensor(wide))
    assert anchors[1].tolist() == [-16, -16, 16, 16]


def test_legacy_anchors_are_those_of_faster_rcnn() -> None:
    """Base 16, scale 8: the published corners, their inclusive maximum made exclusive."""
    published = [[-84, -40, 99, 55], [-56, -56, 71, 71], [-36, -80, 51, 95]]

    anchors = cell_anchors(128, 16, RATIOS, "maskrcnn_benchmark")

    assert (anchors - torch.tensor([0, 0, 1, 1])).tolist() == published


def test_torchvision_anchors_are_torchvisions() -> None:
    sizes = (32, 64, 128, 256, 512)
    theirs = AnchorGenerator(tuple((s,) for s in sizes), (RATIOS,) * 5).cell_anchors

    for size, stride, expected in zip(sizes, STRIDES, theirs, strict=True):
        assert torch.equal(cell_anchors(size, stride, RATIOS, "torchvision"), expected)


def test_grid_runs_over_rows_columns_anchors() -> None:
    cell = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]])

    anchors = grid_anchors(cell, height=2, width=3, stride=4)

    assert anchors.shape == (2 * 3 * 2, 4)
    assert anchors[2].tolist() == [4, 0, 5, 1]  # second column
    assert anchors[7].tolist() == [0, 4, 2, 6]  # second row, second anchor


def test_torchvision_divides_the_padded_image_into_cells() -> None:
    """At 800 × 1216 the 13 × 19 cells of P6 are 61 and 64 pixels apart: 12.5 are not whole."""
    size, sides = (800, 1216), [(200, 304), (100, 152), (50, 76), (25, 38), (13, 19)]
    generator = AnchorGenerator(tuple((8.0 * stride,) for stride in STRIDES), (RATIOS,) * 5)
    images = ImageList(torch.zeros(1, 3, *size), [size])
    (theirs,) = generator(images, [torch.zeros(1, 1, *side) for side in sides])

    ours = [
        grid_anchors(cell_anchors(8 * stride, stride, RATIOS, "torchvision"), *side, stride, size)
        for stride, side in zip(STRIDES, sides, strict=True)
    ]

    assert torch.equal(torch.cat(ours), theirs)
    assert ours[-1][3 * 19, 1] - ours[-1][0, 1] == 61


def test_mmdetection_1_rounds_the_corners_of_inclusive_anchors() -> None:
    anchors = cell_anchors(32, 4, RATIOS, "mmdet1")

    half_w, half_h = (32 * 2**0.5 - 1) / 2, (32 / 2**0.5 - 1) / 2
    assert anchors[0].tolist() == [
        *(round(1.5 - half) for half in (half_w, half_h)),
        *(round(1.5 + half) + 1 for half in (half_w, half_h)),
    ]
    assert anchors[1].tolist() == [-14, -14, 18, 18]

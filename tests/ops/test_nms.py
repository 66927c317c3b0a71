"""Grouped NMS against a loop over the groups."""

from __future__ import annotations

import torch
from torchvision.ops import nms

from dhcli.ops.nms import grouped_nms


def test_equal_to_an_nms_a_group() -> None:
    torch.manual_seed(0)
    corner = torch.rand(400, 2) * 1300
    boxes = torch.cat([corner, corner + 20 + torch.rand(400, 2) * 300], dim=1)
    scores, groups = torch.rand(400), torch.randint(0, 80, (400,))
    expected = torch.zeros(400, dtype=torch.bool)
    for group in groups.unique():
        rows = torch.nonzero(groups == group).flatten()
        expected[rows[nms(boxes[rows], scores[rows], 0.5)]] = True

    keep = grouped_nms(boxes, scores, groups, 0.5)

    assert sorted(keep.tolist()) == torch.nonzero(expected).flatten().tolist()
    assert (scores[keep].diff() <= 0).all()


def test_boxes_outside_the_image_do_not_meet_other_groups() -> None:
    boxes = torch.tensor([[-50.0, -50.0, -10.0, -10.0], [-50.0, -50.0, -10.0, -10.0]])

    keep = grouped_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 0.5)

    assert keep.tolist() == [0, 1]


def test_nothing_in_nothing_out() -> None:
    empty = torch.zeros(0)

    assert grouped_nms(torch.zeros(0, 4), empty, empty.long(), 0.5).shape == (0,)

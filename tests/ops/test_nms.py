"""Grouped NMS against a loop over the groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.ops import batched_nms, nms

from dhcli.ops.nms import Limits, best_of_groups, grouped_nms


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
    of_each = Limits(10, per_group=5)
    assert not len(best_of_groups(torch.zeros(0, 4), empty, empty.long(), 0.5, of_each, count=3))


def random_boxes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 1000
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 300], 1)


def test_nms_in_others_arithmetic() -> None:
    boxes, scores = random_boxes(600), torch.rand(600)
    classes = torch.arange(600) % 80
    theirs = batched_nms(boxes, scores, classes, 0.5)

    assert torch.equal(grouped_nms(boxes, scores, classes, 0.5, "torchvision"), theirs)


def test_mmdets_nms_rounds_what_it_moves() -> None:
    """Two boxes of class 79 whose IoU is a hair above 1/2: moved by 79 · 1025, a hair below."""
    boxes = torch.tensor(
        [[0.0, 0.0, 30.0, 15.0], [10.001, 0.0, 40.001, 15.0], [0.0, 0.0, 1024.0, 1.0]]
    )
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([79, 79, 0])
    near = boxes.clone()
    near[1, [0, 2]] = torch.tensor([9.998, 39.998])  # exactly IoU > 1/2; rounded to 10 and 40

    assert grouped_nms(near, scores, classes, 0.5, "exact").tolist() == [0, 2]
    assert grouped_nms(near, scores, classes, 0.5, "mmdet").tolist() == [0, 1, 2]
    assert grouped_nms(boxes, scores, classes, 0.5, "exact").tolist() == [0, 1, 2]


@pytest.mark.parametrize("how", ["exact", "mmdet"])
def test_many_boxes_are_kept_as_one_nms_keeps_them(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, classes = random_boxes(1200), torch.arange(1200) % 7 * 3  # most classes have no box
    scores = (torch.rand(1200) * 20).round() / 20  # many are equal, and keep their order
    at_once = grouped_nms(boxes, scores, classes, 0.5, how)
    monkeypatch.setattr("dhcli.ops.nms.MANY_ON_CPU", 1000)
    monkeypatch.setattr("dhcli.ops.nms.MANY_IN_MMCV", 1000)
    counted = CountedNms()
    monkeypatch.setattr("dhcli.ops.nms.nms", counted)

    assert torch.equal(grouped_nms(boxes, scores, classes, 0.5, how), at_once)
    assert counted.calls == 7


class CountedNms:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *arguments: Any) -> torch.Tensor:
        self.calls += 1
        return torch.as_tensor(nms(*arguments))

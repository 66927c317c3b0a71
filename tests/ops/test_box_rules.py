"""The rules on boxes that other programs have, each against its own formula."""

from __future__ import annotations

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms

from dhcli.ops.box_rules import BoxRules

STD = (0.1, 0.1, 0.2, 0.2)


def random_boxes(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 1000
    return torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 300], 1)


def test_torchvision_lets_boxes_shrink_without_limit() -> None:
    anchors = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    deltas = torch.tensor([[0.0, 0.0, -30.0, 30.0]])  # e⁻⁶ and, clamped, 62.5 times as wide
    theirs = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode(deltas, [anchors])[:, 0]

    assert torch.allclose(BoxRules(clamp_shrinking=False).decode(deltas, anchors, STD), theirs)
    assert not torch.allclose(BoxRules().decode(deltas, anchors, STD), theirs)


def test_legacy_boxes_are_scaled_by_their_inclusive_maximum() -> None:
    inclusive = torch.tensor([[10.0, 20.0, 49.0, 79.0]])
    one, scale = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([0.5, 2.0])

    scaled = BoxRules(legacy_plus_one=True).rescale(inclusive + one, scale)

    assert scaled.tolist() == [[5.0, 40.0, 49 * 0.5 + 1, 79 * 2 + 1]]
    assert BoxRules().rescale(inclusive, scale).tolist() == [[5.0, 40.0, 24.5, 158.0]]


def test_boxes_without_area_stay_in_legacy_pixels_alone() -> None:
    boxes = torch.tensor([[5.0, 5.0, 5.0, 9.0], [5.0, 5.0, 5.5, 9.0], [5.0, 5.0, 9.0, 9.0]])

    assert BoxRules().has_area(boxes).tolist() == [False, True, True]
    assert BoxRules(legacy_plus_one=True).has_area(boxes).tolist() == [True, True, True]
    assert BoxRules().has_area(boxes, 1.0).tolist() == [False, False, True]


def test_nms_in_others_arithmetic() -> None:
    boxes, scores = random_boxes(600), torch.rand(600)
    classes = torch.arange(600) % 80
    theirs = batched_nms(boxes, scores, classes, 0.5)

    assert torch.equal(BoxRules(nms="torchvision").suppress(boxes, scores, classes, 0.5), theirs)


def test_mmdets_nms_rounds_what_it_moves() -> None:
    """Two boxes of class 79 whose IoU is a hair above 1/2: moved by 79 · 1025, a hair below."""
    boxes = torch.tensor(
        [[0.0, 0.0, 30.0, 15.0], [10.001, 0.0, 40.001, 15.0], [0.0, 0.0, 1024.0, 1.0]]
    )
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([79, 79, 0])
    near = boxes.clone()
    near[1, [0, 2]] = torch.tensor([9.998, 39.998])  # exactly IoU > 1/2; rounded to 10 and 40

    assert BoxRules(nms="exact").suppress(near, scores, classes, 0.5).tolist() == [0, 2]
    assert BoxRules(nms="mmdet").suppress(near, scores, classes, 0.5).tolist() == [0, 1, 2]
    assert BoxRules(nms="exact").suppress(boxes, scores, classes, 0.5).tolist() == [0, 1, 2]

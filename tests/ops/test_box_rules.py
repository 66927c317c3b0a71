"""The rules on boxes that other programs have, each against its own formula."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from dhcli.ops.box_rules import BoxRules

STD = (0.1, 0.1, 0.2, 0.2)


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


def test_one_factor_scales_both_axes_back() -> None:
    original, size = torch.tensor([333, 200]), torch.tensor([300, 180])  # 180.18 before rounding

    one = BoxRules(one_scale=(192, 300)).scale(size, original)
    other = BoxRules(one_scale=(800, 1333)).scale(size, original)

    assert one.tolist() == pytest.approx([333 / 300] * 2)
    assert other.tolist() == pytest.approx([200 / 180, 333 / 300])  # another size than configured

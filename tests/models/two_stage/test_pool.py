"""Pooling against torchvision's MultiScaleRoIAlign and the conventions' formulas."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, roi_align

from dhcli.models.two_stage.pool import Pool, choose_levels

STRIDES = (4, 8, 16, 32)


def levels() -> list[torch.Tensor]:
    return [torch.randn(2, 8, 256 // stride, 320 // stride) for stride in (4, 8, 16, 32)]


def boxes() -> tuple[torch.Tensor, torch.Tensor]:
    corner = torch.rand(60, 2) * 100
    size = 4 * torch.exp(torch.rand(60, 2) * 4)
    return torch.cat([corner, corner + size], dim=1), torch.randint(0, 2, (60,))


def test_same_as_torchvision() -> None:
    features, (rois, images) = levels(), boxes()
    pyramid = {str(i): level for i, level in enumerate(features)}
    theirs = MultiScaleRoIAlign(list(pyramid), output_size=7, sampling_ratio=2)
    order = torch.argsort(images, stable=True)  # theirs takes a list of boxes an image
    expected = theirs(pyramid, [rois[images == i] for i in (0, 1)], [(256, 320)] * 2)

    pooled = Pool(7, 2, False, STRIDES)(features, rois, images)

    assert torch.allclose(pooled[order], expected, atol=1e-5)


def test_levels_of_known_sides() -> None:
    sides = torch.tensor([10.0, 111.0, 112.0, 223.0, 224.0, 447.0, 448.0, 5000.0])
    rois = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)

    assert choose_levels(rois, STRIDES).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_level_is_chosen_before_the_box_is_enlarged() -> None:
    features = [torch.full((1, 1, 512 // s, 512 // s), float(s)) for s in (4, 8, 16, 32)]
    roi = torch.tensor([[100.0, 100.0, 200.0, 200.0]])  # enlarged 1.3 times it would be P3's

    pooled = Pool(7, 0, True, STRIDES)(features, roi, torch.tensor([0]), scale=1.3)

    assert torch.allclose(pooled, torch.tensor(4.0))


def test_enlarged_boxes_are_not_clipped() -> None:
    feature = torch.randn(1, 4, 64, 64)
    roi = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
    wide = torch.tensor([[0.0, -6.0, -6.0, 46.0, 46.0]])

    pooled = Pool(7, 2, True, STRIDES)([feature] * 4, roi, torch.tensor([0]), scale=1.3)

    assert torch.allclose(pooled, roi_align(feature, wide, 7, 0.25, 2, True), atol=1e-5)


def test_legacy_pixels_take_one_from_the_maximum() -> None:
    """maskrcnn-benchmark enlarges an inclusive box to c ∓ 1.3 w / 2, minus one at the maximum."""
    feature = torch.randn(1, 4, 64, 64)
    x1, x2 = 20.0, 59.0  # inclusive: 40 wide
    width, centre = x2 - x1 + 1, x1 + (x2 - x1 + 1) / 2
    low, high = centre - 1.3 * width / 2, centre + 1.3 * width / 2 - 1
    expected = roi_align(feature, torch.tensor([[0, low, low, high, high]]), 7, 0.25, 2, False)
    ours = torch.tensor([[x1, x1, x2 + 1, x2 + 1]])

    pooled = Pool(7, 2, False, STRIDES, legacy_plus_one=True)(
        [feature] * 4, ours, torch.tensor([0]), 1.3
    )

    assert torch.allclose(pooled, expected, atol=1e-5)


def test_no_boxes() -> None:
    pooled = Pool(7, 0, True, STRIDES)(
        levels(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    )

    assert pooled.shape == (0, 8, 7, 7)


def test_a_number_of_rois_that_only_the_data_tell_can_be_exported() -> None:
    class Chosen(nn.Module):
        def forward(self, level: Tensor, boxes: Tensor) -> Tensor:
            rows = torch.nonzero(boxes[:, 2] > 0).flatten()
            torch._check(rows.shape[0] <= len(boxes))
            chosen = torch.cat([boxes.new_zeros(1, 4), boxes[rows]])
            pool = Pool(7, 2, True, strides=(4,))
            return pool([level], chosen, torch.zeros_like(chosen[:, 0]))

    torch.export.export(Chosen(), (torch.rand(1, 2, 8, 8), torch.rand(3, 4)))

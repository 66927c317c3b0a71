"""Pooling as a sparse product, against torchvision's operator: values and gradients."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from dhcli.models.fast.roi_align import align_rois


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_same_as_torchvision(sampling_ratio: int, aligned: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, 13, 21).requires_grad_()
    corner = torch.rand(60, 2) * 90 - 20  # some lie outside, and some are thin or flat
    boxes = torch.cat([corner, corner + torch.rand(60, 2) * torch.rand(60, 1) * 120], dim=1)
    rois = torch.cat([torch.randint(2, (60, 1)).float(), boxes], dim=1)
    level_of = torch.zeros(60, dtype=torch.int64)

    expected = roi_align(features, rois, 7, 0.25, sampling_ratio or -1, aligned)
    pooled = align_rois([features], level_of, rois, [0.25], 7, sampling_ratio, aligned)

    assert torch.allclose(pooled, expected, atol=1e-5)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, features, weights)[0]
    assert torch.allclose(torch.autograd.grad(pooled, features, weights)[0], wanted, atol=1e-5)


def test_each_roi_is_pooled_from_its_level() -> None:
    levels = [torch.full((1, 3, 8, 8), 1.0), torch.full((1, 3, 4, 4), 2.0)]
    rois = torch.tensor([[0.0, 0, 0, 20, 20], [0, 4, 4, 30, 9], [0, 8, 0, 24, 30]])

    pooled = align_rois(levels, torch.tensor([1, 0, 1]), rois, [1 / 4, 1 / 8], 7, 0, True)

    assert torch.allclose(pooled[:, 0, 0, 0], torch.tensor([2.0, 1, 2]))
    assert pooled.is_contiguous(memory_format=torch.channels_last)


def test_without_area_and_without_rois() -> None:
    features = torch.ones(1, 3, 8, 8)
    flat = torch.tensor([[0.0, 9, 9, 9, 9]])

    expected = roi_align(features, flat, 7, 0.25, -1, True)
    pooled = align_rois([features], torch.tensor([0]), flat, [0.25], 7, 0, True)
    none = align_rois([features], torch.zeros(0).long(), flat[:0], [0.25], 7, 0, True)

    assert torch.equal(pooled, expected)
    assert none.shape == (0, 3, 7, 7)

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from dhcli.ops import deform_pool as module
from dhcli.ops.deform_pool import Sampling, deform_pool
from tests.references import tsd

ROIS = torch.tensor(
    [[0, 3.3, 5.1, 90.2, 60.7], [1, -9.0, -3.0, 40.0, 30.0], [1, 130.2, 100, 220, 170]],
    dtype=torch.double,
)


def feature(channels: int = 4) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, channels, 32, 40, dtype=torch.double)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_cells_that_do_not_move_are_those_of_roi_align(samples: int) -> None:
    still = torch.zeros(3, 2, 7, 7, dtype=torch.double)

    pooled = deform_pool(feature(), ROIS, still, 4, Sampling(samples))

    expected = roi_align(feature(), ROIS, 7, 0.25, samples, True)
    assert (pooled - expected).abs().max() < 1e-12


def test_a_cell_is_read_where_it_moved_to() -> None:
    moves = torch.zeros(3, 2, 7, 7, dtype=torch.double)
    moves[:, 0, 2, 5], moves[:, 1, 2, 5] = 0.25, -0.125
    width, height = (ROIS[:, 3:] - ROIS[:, 1:3]).unbind(1)
    moved = ROIS + torch.stack([0 * width, width / 4, -height / 8, width / 4, -height / 8], 1)

    pooled = deform_pool(feature(), ROIS, moves, 4, Sampling(2))

    there = roi_align(feature(), moved, 7, 0.25, 2, True)
    assert (pooled[:, :, 2, 5] - there[:, :, 2, 5]).abs().max() < 1e-12
    still = roi_align(feature(), ROIS, 7, 0.25, 2, True)
    assert (pooled[:, :, 3] - still[:, :, 3]).abs().max() < 1e-12


def test_the_legacy_one_is_the_plain_transcription() -> None:
    moves = torch.randn(3, 2, 7, 7, dtype=torch.double)
    one = torch.tensor([0.0, 0, 0, 1, 1], dtype=torch.double)

    pooled = deform_pool(feature(), ROIS + one, 0.1 * moves, 4, Sampling(4, legacy=True))

    levels = [feature()] * 4
    for row, roi in enumerate(ROIS):  # small enough for the level of stride 4
        expected = tsd.deformed(levels, int(roi[0]), roi[1:], moves[row])
        assert (pooled[row] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("legacy", [False, True])
def test_gradients_are_right(legacy: bool) -> None:
    torch.manual_seed(0)
    small = ROIS[:2] * torch.tensor([1.0, 0.2, 0.2, 0.2, 0.2])
    maps = torch.randn(2, 1, 5, 6, dtype=torch.double, requires_grad=True)
    moves = (0.1 * torch.randn(2, 2, 2, 2, dtype=torch.double)).requires_grad_()

    assert torch.autograd.gradcheck(
        lambda x, move: deform_pool(x, small, move, 4, Sampling(2, legacy)), (maps, moves)
    )


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    moves = 0.1 * torch.randn(3, 2, 7, 7, dtype=torch.double)
    whole = deform_pool(feature(), ROIS, moves, 4, Sampling(2))

    monkeypatch.setattr(module, "GROUP", 2)

    assert torch.equal(deform_pool(feature(), ROIS, moves, 4, Sampling(2)), whole)


def test_a_roi_beyond_the_map_has_no_samples() -> None:
    far = torch.tensor([[0, 900.0, 900, 950, 950]], dtype=torch.double)
    moves = torch.zeros(1, 2, 7, 7, dtype=torch.double)

    for legacy in (False, True):
        assert not deform_pool(feature(), far, moves, 4, Sampling(2, legacy)).any()

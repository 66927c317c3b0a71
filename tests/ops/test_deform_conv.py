"""The deformable convolution against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import deform_conv2d

from dhcli.ops.deform_conv import deform_conv


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """A map of two images, moves that also lead beyond it, and weights."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(2, 6, 5, 7), normal(2, 18, 5, 7) * 3, normal(4, 6, 3, 3)


def test_equal_to_torchvisions_in_values_and_gradients() -> None:
    ours, theirs = ([part.clone().requires_grad_() for part in parts()] for _ in range(2))
    out, expected = deform_conv(*ours), deform_conv2d(*theirs, padding=1)
    torch.testing.assert_close(out, expected)

    slope = torch.randn_like(out)
    out.backward(slope)
    expected.backward(slope)

    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_equal_to_torchvisions_in_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = deform_conv2d(*parts(), padding=1)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)

    torch.testing.assert_close(deform_conv(*parts()), expected)


def test_a_device_with_a_kernel_of_its_own_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dhcli.ops.deform_conv._by_rows", None)
    x, offsets, weight = (part.to("meta") for part in parts())

    assert deform_conv(x, offsets, weight).shape == (2, 4, 5, 7)


@pytest.mark.parametrize("far", [1e30, -1e30, float("inf")])
def test_what_is_infinitely_far_away_counts_nothing(far: float) -> None:
    x, offsets, weight = parts()
    offsets[:, 4] = far
    without = offsets.clone()
    without[:, 4] = 100.0

    torch.testing.assert_close(
        deform_conv(x, offsets, weight), deform_conv2d(x, without, weight, padding=1)
    )

"""Winograd's convolution: what torch's gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dhcli.model.winograd import LEAST_CHANNELS, WinogradConv, use_winograd


@pytest.mark.parametrize(
    "shape",
    [(1, 8, 12, 16), (0, 8, 4, 4), (2, 8, 13, 19), (1, 8, 1, 1), (3, 8, 4, 5), (1, 8, 90, 70)],
)
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_any_shape_gives_what_torch_gives(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, padding=1, bias=bias)
    x = torch.randn(shape)

    found = WinogradConv(conv)(x)

    expected = conv(x)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_rounding_is_that_of_float32() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 256, 3, padding=1)
    x = torch.randn(1, 256, 24, 24).relu_()
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)

    error = (WinogradConv(conv)(x) - exact).abs().max() / exact.abs().max()

    assert error < 3e-6


def test_only_convolutions_that_it_computes_are_replaced() -> None:
    wide = LEAST_CHANNELS
    network = nn.Sequential(
        nn.Conv2d(wide, wide, 3, padding=1),
        nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1)),
        nn.Conv2d(wide, wide, 3, padding=1, stride=2),
        nn.Conv2d(wide, wide, 3),
        nn.Conv2d(wide, wide, 3, padding=2, dilation=2),
        nn.Conv2d(wide, wide, 3, padding=1, groups=2),
        nn.Conv2d(wide, wide, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(wide, wide, 1),
        nn.Conv2d(wide, wide // 2, 3, padding=1),
    )

    use_winograd(network)

    replaced = [name for name, part in network.named_modules() if isinstance(part, WinogradConv)]
    assert replaced == ["0", "1.0"]

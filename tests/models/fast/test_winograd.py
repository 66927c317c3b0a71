"""Winograd's convolution: what torch's gives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dhcli.models.fast import winograd
from dhcli.models.fast.winograd import LEAST_CHANNELS, FastConv, WinogradConv, use_winograd

SHAPES = [(1, 8, 12, 16), (0, 8, 4, 4), (2, 8, 13, 19), (1, 8, 1, 1), (3, 8, 4, 5), (1, 8, 90, 70)]


@pytest.mark.parametrize("shape", SHAPES)
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


class Standardised(nn.Conv2d):
    """Does more than a convolution, as timm's StdConv2d does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, padding=1)


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
        Standardised(wide, wide, 3, padding=1),
        nn.ModuleDict({"left": nn.Sequential(nn.Conv2d(wide, wide, 3, padding=1))}),
    )

    use_winograd(network, without=(nn.ModuleDict,))

    replaced = [name for name, part in network.named_modules() if isinstance(part, WinogradConv)]
    assert replaced == ["0", "1.0"]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd in training whatever the sizes."""
    for name in ("LEAST_CHANNELS", "LEAST_TILES", "LEAST_SIDE"):
        monkeypatch.setattr(winograd, name, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("everywhere")
def test_training_has_torchs_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    conv = FastConv(8, 8, 3, padding=1)
    x = torch.randn(shape, requires_grad=True)
    given = torch.randn(shape)

    y = conv(x)
    assert type(y.grad_fn).__name__ == "_ConvolutionBackward"
    found = torch.autograd.grad(y, [x, conv.weight, conv.bias], given)

    plain = F.conv2d(x, conv.weight, conv.bias, padding=1)
    expected = torch.autograd.grad(plain, [x, conv.weight, conv.bias], given)
    for mine, theirs in zip((y, *found), (plain, *expected), strict=True):
        largest = theirs.abs().amax().item() if theirs.numel() else 0.0
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-5 * max(1.0, largest))


def test_rounding_of_gradients_is_that_of_float32() -> None:
    torch.manual_seed(0)
    conv = FastConv(256, 256, 3, padding=1)
    x = torch.randn(1, 256, 48, 48).relu_().requires_grad_()
    y = conv(x)
    assert type(y.grad_fn).__name__ == "_ConvolutionBackward"
    given = torch.randn_like(y)

    found = torch.autograd.grad(y, [x, conv.weight], given)

    exact_x, weight = (part.detach().double().requires_grad_() for part in (x, conv.weight))
    exact = F.conv2d(exact_x, weight, padding=1)
    expected = torch.autograd.grad(exact, [exact_x, weight], given.double())
    for mine, wanted in zip(found, expected, strict=True):
        assert (mine - wanted).abs().max() < 4e-6 * wanted.abs().max()


@pytest.mark.parametrize("case", ["detecting", "bfloat16", "autocast", "small", "RoIs"])
def test_elsewhere_torchs_own_convolution_runs(case: str) -> None:
    conv = FastConv(LEAST_CHANNELS, LEAST_CHANNELS, 3, padding=1).train(case != "detecting")
    shape = {"small": (1, 16, 16), "RoIs": (300, 7, 7)}.get(case, (2, 32, 48))
    x = torch.randn(shape[0], LEAST_CHANNELS, *shape[1:])
    if case == "bfloat16":
        conv, x = conv.bfloat16(), x.bfloat16()

    with torch.autocast("cpu", enabled=case == "autocast"):
        y = conv(x)

    assert type(y.grad_fn).__name__ == "ConvolutionBackward0"


@pytest.mark.parametrize("shape", [(1, 256, 40, 44), (2, 256, 48, 32), (1, 256, 42, 44)])
def test_what_it_gives_in_training_may_be_written_into(shape: tuple[int, ...]) -> None:
    """As a ReLU in place does, and where the 4 × 4 tiles fit the image too."""
    torch.manual_seed(0)
    conv = FastConv(256, 256, 3, padding=1)
    x = torch.randn(shape, requires_grad=True)

    conv(x).relu_().sum().backward()

    found = x.grad
    x.grad = None
    F.conv2d(x, conv.weight, conv.bias, padding=1).relu().sum().backward()
    assert torch.allclose(found, x.grad, atol=1e-3)

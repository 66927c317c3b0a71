"""The branches: the paper's parameter counts, and the blocks against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dhcli.models.norms import norm_layer
from dhcli.models.two_stage.branches import (
    BottleneckBlock,
    CellMean,
    ConvTrunk,
    FcTrunk,
    NonLocalBlock,
    WideningBlock,
)
from dhcli.models.two_stage.head import fuse_scores

BN = norm_layer("bn")
MEBI = 2**20


def millions(module: nn.Module) -> float:
    """Weights of convolutions and linear layers in units of 2²⁰, as the paper counts."""
    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(layer.weight.numel() for layer in layers) / MEBI


def test_sizes_of_the_parts_are_the_papers() -> None:
    assert millions(FcTrunk(256, 7)) == 13.25
    assert millions(WideningBlock(256, 1024, BN)) == 1.0625
    assert millions(BottleneckBlock(1024, BN)) == 1.0625
    assert millions(NonLocalBlock(1024, BN, 4, "count")) == 2.0


@pytest.mark.parametrize(
    ("residual", "non_local", "expected"),
    [
        (1, 0, 1.06),
        (2, 0, 2.13),
        (3, 0, 3.19),
        (4, 0, 4.25),
        (5, 0, 5.31),
        (6, 0, 6.38),
        (7, 0, 7.44),
        (2, 1, 4.13),
        (3, 2, 7.19),
        (4, 3, 10.25),
    ],
)
def test_table_2(residual: int, non_local: int, expected: float) -> None:
    trunk = ConvTrunk(256, BN, residual=residual, non_local=non_local)

    assert millions(trunk) == pytest.approx(expected, abs=0.0051)


def test_a_non_local_block_stands_before_each_of_the_first_bottlenecks() -> None:
    kinds = [type(block) for block in ConvTrunk(32, BN, width=64, residual=3, non_local=1)]

    blocks = [WideningBlock, NonLocalBlock, BottleneckBlock, BottleneckBlock]
    assert kinds == [*blocks, CellMean]


@pytest.mark.parametrize("normalise", ["count", "softmax"])
def test_non_local_is_its_equation(normalise: str) -> None:
    torch.manual_seed(0)
    block = NonLocalBlock(16, norm_layer("frozen_bn"), groups=2, normalise=normalise).double()
    nn.init.normal_(block.out[0].weight)
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)

    z = block(x).detach().numpy()

    parts = {name: _conv1x1(getattr(block, name), x.numpy()) for name in ("theta", "phi", "g")}
    y = np.zeros((2, 8, 9))
    for n in range(2):
        for group in (slice(0, 4), slice(4, 8)):  # consecutive channels
            theta, phi, g = (parts[name][n, group] for name in ("theta", "phi", "g"))
            for i in range(9):
                f = np.array([theta[:, i] @ phi[:, j] for j in range(9)])
                f = np.exp(f) / np.exp(f).sum() if normalise == "softmax" else f / 9
                y[n, group, i] = sum(f[j] * g[:, j] for j in range(9))
    out = _conv1x1(block.out[0], y.reshape(2, 8, 3, 3)) / np.sqrt(1 + 1e-5)
    expected = np.maximum(out.reshape(x.shape) + x.numpy(), 0)
    np.testing.assert_allclose(z, expected, atol=1e-12)


def _conv1x1(conv: nn.Module, x: np.ndarray) -> np.ndarray:
    weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()
    return np.einsum("oc,nci->noi", weight, x.reshape(*x.shape[:2], -1)) + bias[None, :, None]


def test_a_fresh_non_local_block_only_rectifies() -> None:
    block = NonLocalBlock(16, BN, groups=4, normalise="count").train()
    x = torch.randn(2, 16, 7, 7)

    assert torch.allclose(block(x), x.relu())


def test_fc_trunk_flattens_channel_by_channel() -> None:
    trunk = FcTrunk(2, side=3, width=4, layers=1)
    x = torch.zeros(1, 2, 3, 3)
    x[0, 1, 0, 2] = 1.0  # channel 1, row 0, column 2: input 1·9 + 0·3 + 2

    assert torch.allclose(trunk(x), trunk[1].weight[:, 11].relu()[None])


@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn"])
def test_conv_trunk_gives_a_vector_a_roi(norm: str) -> None:
    trunk = ConvTrunk(32, norm_layer(norm), width=64, residual=3, non_local=2)

    assert trunk(torch.randn(5, 32, 7, 7)).shape == (5, 64)


@pytest.mark.parametrize(
    ("how", "expected"), [("max", 0.5), ("average", 0.35), ("complementary", 0.6)]
)
def test_fusion(how: str, expected: float) -> None:
    fc, conv = torch.tensor([[0.5]]), torch.tensor([[0.2]])

    assert fuse_scores(fc, conv, how).item() == pytest.approx(expected)
    assert torch.equal(fuse_scores(fc, conv, how), fuse_scores(conv, fc, how))


def test_output_map_of_an_fc_trunk_adds_up_to_its_first_layer() -> None:
    trunk = FcTrunk(3, 4, width=5)
    trunk[1].bias.data.uniform_(-1, 1)
    x = torch.randn(2, 3, 4, 4)
    cells = trunk.output_map(x.contiguous(memory_format=torch.channels_last))
    assert cells.shape == (2, 5, 4, 4)
    torch.testing.assert_close(cells.sum(dim=(2, 3)) + trunk[1].bias, trunk[1](x.flatten(1)))
    alone = torch.zeros_like(x)
    alone[:, :, 2, 1] = x[:, :, 2, 1]
    expected = trunk[1](alone.flatten(1)) - trunk[1].bias
    torch.testing.assert_close(cells[:, :, 2, 1], expected)


def test_output_map_of_a_conv_trunk_has_its_vector_as_mean() -> None:
    trunk = ConvTrunk(8, BN, width=16, residual=2, non_local=1).eval()
    x = torch.randn(2, 8, 7, 7)
    cells = trunk.output_map(x)
    assert cells.shape == (2, 16, 7, 7)
    torch.testing.assert_close(cells.mean(dim=(2, 3)), trunk(x))

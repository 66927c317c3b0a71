from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from dhcli.models.norms import norm_layer
from dhcli.models.two_stage.branches import ConvTrunk, FcTrunk, Res5Trunk
from dhcli.studies.layers import CellLayer, cell_layers, correlate_cells

SIDE = 4


def probe(function: nn.Module, channels: int, side: int = SIDE) -> np.ndarray:
    """(S², C D): what a 1 in each cell and channel adds to the vector that `function` gives."""
    cells = side**2
    ones = torch.eye(channels * cells).view(-1, channels, side, side)
    with torch.no_grad():
        out = function(ones) - function(torch.zeros_like(ones[:1]))
    return out.view(channels, cells, -1).permute(1, 0, 2).reshape(cells, -1).double().numpy()


def cosines(weights: np.ndarray) -> np.ndarray:
    return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in weights] for a in weights])


class Mean(nn.Module):
    """A convolution and the mean over its output, as at the end of a conv-head."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean(dim=(2, 3))


def test_weights_of_a_cell_are_those_that_carry_it_into_the_vector() -> None:
    trunk = FcTrunk(3, SIDE, width=5, layers=2)
    (layer,) = cell_layers(trunk, SIDE).values()
    expected = probe(nn.Sequential(trunk[0], trunk[1]), 3)
    pearson, cosine = correlate_cells(layer)
    np.testing.assert_allclose(pearson, np.corrcoef(expected), atol=1e-5)
    np.testing.assert_allclose(cosine, cosines(expected), atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Conv2d(3, 4, (3, 1), padding=(2, 0), dilation=(2, 1)),
        nn.Conv2d(3, 4, 3),
    ],
    ids=["padded", "strided", "dilated", "not padded"],
)
def test_convolution_is_the_fully_connected_layer_that_does_the_same(conv: nn.Conv2d) -> None:
    expected = probe(Mean(conv), 3)
    pearson, cosine = correlate_cells(CellLayer(conv, SIDE))
    np.testing.assert_allclose(pearson, np.corrcoef(expected), atol=1e-5)
    np.testing.assert_allclose(cosine, cosines(expected), atol=1e-5)
    linear = nn.Linear(3 * SIDE**2, 4)
    weights = torch.from_numpy(expected).view(SIDE**2, 3, 4)
    linear.weight.data = weights.permute(2, 1, 0).reshape(4, -1).float()
    as_linear, _ = correlate_cells(CellLayer(linear, SIDE))
    np.testing.assert_allclose(pearson, as_linear, atol=1e-5)


def test_convolution_does_the_same_at_every_cell_but_at_the_border() -> None:
    torch.manual_seed(0)
    same, _ = correlate_cells(CellLayer(nn.Conv2d(3, 4, 1), 7))
    np.testing.assert_allclose(same, 1)
    pearson, _ = correlate_cells(CellLayer(nn.Conv2d(3, 4, 3, padding=1), 7))
    inner = np.array([7 * r + c for r in range(1, 6) for c in range(1, 6)])
    np.testing.assert_allclose(pearson[np.ix_(inner, inner)], 1)
    assert pearson[0, inner].max() < 0.95  # a corner lacks five of nine taps


def test_cell_that_no_tap_reads_and_equal_weights_have_no_correlation() -> None:
    pearson, cosine = correlate_cells(CellLayer(nn.Conv2d(2, 3, 1, stride=2), 4))
    read = np.array([8 * r + 2 * c for r in range(2) for c in range(2)])
    assert np.isnan(cosine).sum() == 16 * 16 - 16
    np.testing.assert_allclose(cosine[np.ix_(read, read)], 1)
    equal = nn.Linear(7 * 4, 3)
    nn.init.constant_(equal.weight, 0.1)
    pearson, cosine = correlate_cells(CellLayer(equal, 2))
    assert np.isnan(pearson).all()
    np.testing.assert_allclose(cosine, 1)


def test_layers_that_read_a_map_are_named_with_its_side() -> None:
    trunk = ConvTrunk(8, norm_layer("bn"), width=16, residual=2, non_local=1).eval()
    found = cell_layers(trunk, 7)
    assert list(found)[:3] == ["0.main.0", "0.main.3", "0.shortcut.0"]
    assert {"1.theta", "2.main.3"} < set(found)
    assert {layer.side for layer in found.values()} == {7}
    assert list(cell_layers(FcTrunk(8, 7, width=392, layers=2), 7)) == ["1"]
    assert cell_layers(nn.ReLU(), 7) == {}
    res5 = Res5Trunk(resnet18(weights=None).layer4, 512).eval()
    sides = {name: layer.side for name, layer in cell_layers(res5, 14).items()}
    assert sides["layer4.0.conv1"] == sides["layer4.0.downsample.0"] == 14
    assert sides["layer4.0.conv2"] == sides["layer4.1.conv1"] == 7

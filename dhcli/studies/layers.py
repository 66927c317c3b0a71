"""What a layer that reads a map does with each of its cells: its weights, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CellLayer:
    """A layer and the side S of the map (C, S, S) that it reads."""

    layer: nn.Linear | nn.Conv2d
    side: int


def cell_layers(trunk: nn.Module, side: int) -> dict[str, CellLayer]:
    """The layers of `trunk` that read a map, by name, in the order they run.

    Convolutions, and a Linear that is the first layer and so reads all cells of a pooled RoI; one
    after it reads what is no longer a map.

    in   side  of a pooled RoI, in cells
    """
    names = {part: name for name, part in trunk.named_modules()}
    first = next((part for part in names if isinstance(part, nn.Linear | nn.Conv2d)), None)
    if isinstance(first, nn.Linear):
        return {names[first]: CellLayer(first, side)}
    found: dict[str, CellLayer] = {}
    if first is not None:
        with _recording(trunk, names, found), torch.no_grad():
            trunk(first.weight.new_zeros(1, first.in_channels, side, side))
    return found


@contextmanager
def _recording(
    trunk: nn.Module, names: dict[nn.Module, str], found: dict[str, CellLayer]
) -> Iterator[None]:
    """While it lasts, each convolution that runs in `trunk` is put into `found`."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.Conv2d)
        found[names[layer]] = CellLayer(layer, inputs[0].shape[-1])

    convs = [part for part in trunk.modules() if isinstance(part, nn.Conv2d)]
    hooks: list[Any] = [conv.register_forward_pre_hook(hook) for conv in convs]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def correlate_cells(of: CellLayer) -> tuple[Floats, Floats]:
    """Pearson's r, and the cosine, of the weights of every two cells: (S², S²) each (§3.4).

    The layer is taken as a map from all cells to one vector: of a convolution the mean over the
    cells of its output, as at the end of a conv-head. So each cell has C × D weights, D of the
    output: W_i = Σ_t M_it K_t, with K_t (C D) of tap t of the kernel, and M_it 1 where tap t puts
    cell i into a cell of the output, so not beyond its edge. Of a Linear, K_t are its 49 matrices
    (C, D), and M = 1. With G = K Kᵀ, W Wᵀ = M G Mᵀ, and cos_ij = (M G Mᵀ)_ij / (|W_i| |W_j|); r
    is the cosine of the W_i less their means, of the K_t less theirs then. NaN for a cell without
    weights other than 0, and for r where all are equal.
    """
    taps, reach = _taps(of)
    centred = taps - taps.mean(axis=1, keepdims=True)
    pearson, cosine = (_cosine(reach @ (k @ k.T) @ reach.T) for k in (centred, taps))
    return pearson, cosine


def _taps(of: CellLayer) -> tuple[Floats, Floats]:
    """K (T, C D), the weights of T taps, and M (S², T), which of them reach each cell."""
    layer = of.layer
    weight = layer.weight.detach().double().cpu()
    if isinstance(layer, nn.Linear):
        cells = of.side**2
        split = weight.view(layer.out_features, -1, cells).permute(2, 1, 0)  # (cells, C, D)
        return split.reshape(cells, -1).numpy(), np.eye(cells)
    taps = weight.permute(2, 3, 1, 0).flatten(0, 1).flatten(1)  # (T, C D)
    rows, columns = (_reach(layer, axis, of.side) for axis in (0, 1))
    return taps.numpy(), np.kron(rows, columns).astype(np.float64)


def _reach(conv: nn.Conv2d, axis: int, side: int) -> Floats:
    """Along one axis, 1 where a tap of the kernel puts a cell into the output: (S, taps)."""
    size, stride = conv.kernel_size[axis], conv.stride[axis]
    padding, dilation = int(conv.padding[axis]), conv.dilation[axis]
    outputs = (side + 2 * padding - dilation * (size - 1) - 1) // stride + 1
    start = np.arange(side)[:, None] + padding - dilation * np.arange(size)
    inside = (start >= 0) & (start % stride == 0) & (start // stride < outputs)
    reach: Floats = inside.astype(np.float64)
    return reach


def _cosine(gram: Floats) -> Floats:
    """Products over lengths; NaN for a length of 0."""
    squared = np.diag(gram)
    length = np.sqrt(np.where(squared > 0, squared, np.nan))
    alike: Floats = gram / np.outer(length, length)
    return alike.clip(-1, 1)

"""A convolution that looks at other points than the neighbours of a cell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d

from dhcli.ops.between import Axis, sum_between

TAPS = 9
"""Of a 3×3 convolution."""


def deform_conv(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """A 3×3 convolution whose taps are moved, and read between cells; cells beyond the map are 0.

    "Deformable Convolutional Networks" (Dai et al., 2017), eq. 2. torchvision's `deform_conv2d`
    gives the same, and does it on a GPU. Its kernel for CPUs goes sample by sample.

    in   x        (B, C, h, w) float32 or float64, fastest in channels_last memory
         offsets  (B, 18, h, w), dy and dx of each tap in cells, row by row of the kernel
         weight   (out, C, 3, 3)
    out  (B, out, h, w)
    """
    if torch.compiler.is_exporting():
        return _by_grids(x, offsets, weight)
    if x.device.type == "cpu":
        return _by_rows(x, offsets, weight)
    return torch.as_tensor(deform_conv2d(x, offsets, weight, padding=1))


def _by_rows(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Each tap is a sum of four rows of the map by weight, and all taps one product of matrices."""
    down, across = _points(x, offsets)
    images = torch.arange(len(x), device=x.device)
    seen = sum_between(x, images, _read(down, x.shape[2]), _read(across, x.shape[3]))
    out = seen.flatten(-2) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    return out.permute(0, 3, 1, 2)


def _by_grids(x: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    """Tap after tap, by operators that graphs for export have."""
    height, width = x.shape[-2:]
    down, across = _points(x, offsets)
    x_place, y_place = (2 * across + 1) / width - 1, (2 * down + 1) / height - 1
    place = torch.stack([x_place, y_place], dim=-1)  # (B, h, w, 9, 2), of −1 … 1
    total = torch.zeros_like(x[:, :1])
    for tap in range(TAPS):
        seen = F.grid_sample(x, place[..., tap, :], padding_mode="zeros", align_corners=False)
        total = total + F.conv2d(seen, weight[:, :, tap // 3, tap % 3, None, None])
    return total


def _points(x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the map that each tap looks at, (B, h, w, 9) each."""
    height, width = x.shape[-2:]
    moves = offsets.permute(0, 2, 3, 1).reshape(len(x), height, width, TAPS, 2)
    rows, columns, taps = (torch.arange(n, device=x.device) for n in (height, width, TAPS))
    down = moves[..., 0] + (taps // 3 - 1) + rows[:, None, None]
    across = moves[..., 1] + (taps % 3 - 1) + columns[:, None]
    return down, across


def _read(at: Tensor, length: int) -> Axis:
    """The two places of an axis around each point `at` (…): (…, 2).

    A place beyond the axis has no share. It is said to be the last one.
    """
    at = at.clamp(-2, length)  # one farther away may not fit into an int64
    low = at.detach().floor()
    share = at - low
    places = torch.stack([low, low + 1], -1).long()
    inside = (places >= 0) & (places < length)
    return Axis(places.clamp(0, length - 1), torch.stack([1 - share, share], -1) * inside)

"""3×3 convolutions from a quarter of the products, for CPUs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where the polynomials are evaluated, and at infinity. Others round worse: ±1, ±2 three times."""
LEAST_CHANNELS = 256
"""With fewer, going to and fro takes what the products save."""
_TILES = 300
"""At once: what a band of so many needs stays in the cache."""
LEAST_TILES, LEAST_SIDE = 100, 16
"""In training, of a batch: with fewer tiles the kernel takes most of it, and of the tiles of a RoI
a quarter lies outside."""


class WinogradConv(nn.Module):
    """A 3×3 convolution of stride 1 and padding 1 by `_convolve`, its kernel prepared.

    in   (B, C, H, W) float32, fastest in channels_last memory
    out  (B, O, H, W) float32, channels_last
    """

    kernel: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        bias = None if conv.bias is None else conv.bias.detach()
        self.register_buffer("kernel", _at_points(conv.weight.detach().double()).float())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, self.kernel, self.bias)


class FastConv(nn.Conv2d):
    """A convolution whose training goes by `convolve`."""

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self, x, self.weight, self.bias)


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What `conv` would make of `x` with this weight and bias; by Winograd where training gains."""
    if conv.training and suits(conv) and _gains(x, weight):
        y: Tensor = _Convolution.apply(x, weight, bias)
        return y
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def use_winograd(network: nn.Module, without: tuple[type[nn.Module], ...] = ()) -> None:
    """Have `network` convolve by `WinogradConv` wherever that is faster, for detection only.

    Modules of the exact types `without` are left as they are, with all that is in them. A subclass
    of nn.Conv2d may do more than a convolution, and is left too.
    """
    for name, part in list(network.named_children()):
        if type(part) is nn.Conv2d and suits(part):
            setattr(network, name, WinogradConv(part))
        elif type(part) not in without:
            use_winograd(part, without)


def suits(conv: nn.Conv2d) -> bool:
    """Whether `conv` is one that Winograd computes, wide enough to gain."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.padding_mode == "zeros"
    return plain and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS


def _gains(x: Tensor, weight: Tensor) -> bool:
    if not x.is_cpu or torch.is_autocast_enabled("cpu"):
        return False
    exact = x.dtype == weight.dtype == torch.float32
    return exact and min(x.shape[2:]) >= LEAST_SIDE and x[:, 0].numel() >= 16 * LEAST_TILES


class _Convolution(torch.autograd.Function):
    """`_convolve`, and its gradients from a quarter of the products too.

    The gradient of x is a convolution with the kernel turned round. Y is linear in g and in d, so
    that of g is Gᵀ [Σ (Bᵀ d B) ⊙ (A dY Aᵀ)] G, summed over the tiles.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = _convolve(x, _at_points(weight), bias)
        return y.detach()  # a view of its tiles, where they fit: torch lets nothing write into that

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        turned = weight.flip(2, 3).transpose(0, 1)
        return (
            _convolve(given, _at_points(turned)) if wanted[0] else None,
            _weight_gradient(x, given) if wanted[1] else None,
            given.sum((0, 2, 3)) if wanted[2] else None,
        )


def _convolve(x: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """F(4×4, 3×3): a convolution of padding 1, its sums otherwise added.

    4 × 4 results of one channel from another take 144 products. Of polynomials evaluated at six
    points an axis they take 36: Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for a tile d of 6 × 6 ("Fast
    Algorithms for Convolutional Neural Networks", Eq. 12). Rounding is that of float32: 2e-6 of
    the largest result with 256 channels, where the plain sum has 1e-6.

    in   x (B, C, H, W) float;  kernel (36, C, O) as of `_at_points`;  bias (O,)
    out  (B, O, H, W) float, channels_last
    """
    height, width = x.shape[2:]
    rows, columns = -(-height // 4), -(-width // 4)
    out = x.new_empty(len(x), rows, 4, columns, 4, kernel.shape[-1])
    at = _matrices(x.dtype).at
    for images, band in _bands(len(x), rows, columns):
        result = out[images, band]
        products = torch.bmm(_tiles_at_points(x[images], band, columns), kernel)
        found = (at @ products.flatten(1)).view(4, 4, *result.shape[:2], columns, -1)
        found = found.permute(2, 3, 0, 4, 1, 5)
        result.copy_(found) if bias is None else torch.add(found, bias, out=result)
    whole = out.flatten(3, 4).flatten(1, 2)[:, :height, :width].permute(0, 3, 1, 2)
    return whole.contiguous(memory_format=torch.channels_last)


def _weight_gradient(x: Tensor, given: Tensor) -> Tensor:
    """That of a convolution of `x` (B, C, H, W) whose result has `given` (B, O, H, W)."""
    (height, width), channels, outputs = x.shape[2:], x.shape[1], given.shape[1]
    rows, columns = -(-height // 4), -(-width // 4)
    matrices, of_kernel = _matrices(x.dtype), x.new_zeros(36, channels, outputs)
    for images, band in _bands(len(x), rows, columns):
        results = _rows(given[images], 4 * band.start, 4 * band.stop, 0, 4 * columns)
        blocks = results.reshape(len(results), -1, 4, columns, 4, outputs)
        of_results = blocks.permute(2, 4, 0, 1, 3, 5).reshape(16, -1)
        of_products = (matrices.at.T @ of_results).view(36, -1, outputs)
        values = _tiles_at_points(x[images], band, columns)
        of_kernel.baddbmm_(values.transpose(1, 2), of_products)
    gradient = (matrices.g.T @ of_kernel.flatten(1)).view(3, 3, channels, outputs)
    return gradient.permute(3, 2, 0, 1)


def _bands(images: int, rows: int, columns: int) -> Iterator[tuple[slice, slice]]:
    """Images and rows of tiles, about `_TILES` of these at a time."""
    together, band = max(1, _TILES // (rows * columns)), -(-_TILES // columns)
    for image in range(0, images, together):
        for top in range(0, rows, band):
            yield slice(image, image + together), slice(top, min(top + band, rows))


def _tiles_at_points(x: Tensor, band: slice, columns: int) -> Tensor:
    """Bᵀ d B of the 6 × 6 around each 4 × 4 of `x` (b, C, H, W), in a band of rows: (36, n, C)."""
    around = _rows(x, 4 * band.start - 1, 4 * band.stop + 1, -1, 4 * columns + 1)
    tiles = around.unfold(1, 6, 4).unfold(2, 6, 4)  # (b, rows, columns, C, 6, 6)
    values = _matrices(x.dtype).bt @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
    return values.view(36, -1, x.shape[1])


def _rows(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """A part of `x` (b, C, H, W), 0 where it has none: (b, bottom − top, right − left, C)."""
    height, width = x.shape[2:]
    inside = x.permute(0, 2, 3, 1)[:, max(top, 0) : bottom]
    margins = (0, 0, -left, right - width, max(-top, 0), max(bottom - height, 0))
    return F.pad(inside, margins)


def _at_points(weight: Tensor) -> Tensor:
    """G g Gᵀ of a kernel (O, C, 3, 3): (36, C, O)."""
    outputs, channels = weight.shape[:2]
    columns = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_matrices(weight.dtype).g @ columns).view(36, channels, outputs)


class _Matrices(NamedTuple):
    """The transforms of both axes at once, one product more for less memory in between.

    at (16, 36), g (36, 9), bt (36, 36)
    """

    at: Tensor
    g: Tensor
    bt: Tensor


@cache
def _matrices(dtype: torch.dtype) -> _Matrices:
    """Cook–Toom: values at `POINTS` and at infinity."""
    at, g = _powers(POINTS, 4).T, _powers(POINTS, 3)
    bt = torch.linalg.inv(_powers(POINTS, 6)).T
    return _Matrices(*(torch.kron(part, part).to(dtype) for part in (at, g, bt)))


def _powers(points: tuple[float, ...], count: int) -> Tensor:
    """Row by row 1, p, p² … of each point; of infinity the last alone: (len(points) + 1, count)."""
    powers = torch.tensor(points, dtype=torch.float64)[:, None] ** torch.arange(count)
    infinity = F.one_hot(torch.tensor([count - 1]), count)
    return torch.cat([powers, infinity.double()])

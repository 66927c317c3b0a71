"""3×3 convolutions from a quarter of the products, for CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where the polynomials are evaluated, and at infinity. Others round worse: ±1, ±2 three times."""
LEAST_CHANNELS = 256
"""With fewer, going to and fro takes what the products save."""
_TILES = 300
"""At once: what a band of so many needs stays in the cache."""


class WinogradConv(nn.Module):
    """A 3×3 convolution of stride 1 and padding 1 as F(4×4, 3×3): the same sums, otherwise added.

    4 × 4 results of one channel from another take 144 products. Of polynomials evaluated at six
    points an axis they take 36: Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A for a tile d of 6 × 6 ("Fast
    Algorithms for Convolutional Neural Networks", Eq. 12). Rounding is that of float32: 2e-6 of
    the largest result with 256 channels, where the plain sum has 1e-6.

    in   (B, C, H, W) float32, fastest in channels_last memory
    out  (B, O, H, W) float32, channels_last
    """

    kernel: Tensor
    bias: Tensor | None
    to_points: Tensor
    from_points: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        at, g, bt = _transforms(POINTS)
        kernel = torch.einsum("ia,jb,ocab->ijco", g, g, conv.weight.detach().double())
        bias = None if conv.bias is None else conv.bias.detach()
        # Both axes at once: a small product more, and no data in between
        self.register_buffer("to_points", torch.kron(bt, bt).float())
        self.register_buffer("kernel", kernel.flatten(0, 1).float().contiguous())
        self.register_buffer("from_points", torch.kron(at, at).float())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows, columns = -(-height // 4), -(-width // 4)
        margins = (0, 0, 1, 4 * columns + 1 - width, 1, 4 * rows + 1 - height)
        padded = F.pad(x.permute(0, 2, 3, 1), margins)
        tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4)  # (B, rows, columns, C, 6, 6)
        out = x.new_empty(len(x), rows, 4, columns, 4, self.kernel.shape[-1])
        band = -(-_TILES // columns)
        for image, result in zip(tiles, out, strict=True):
            for top in range(0, rows, band):
                self._convolve(image[top : top + band], result[top : top + band])
        whole = out.flatten(3, 4).flatten(1, 2)
        return whole[:, :height, :width].permute(0, 3, 1, 2)

    def _convolve(self, tiles: Tensor, out: Tensor) -> None:
        """`tiles` (r, c, C, 6, 6) into `out` (r, 4, c, 4, O)."""
        channels, outputs = self.kernel.shape[1:]
        at_points = self.to_points @ tiles.permute(3, 4, 0, 1, 2).reshape(36, -1)
        products = torch.bmm(at_points.view(36, -1, channels), self.kernel)
        found = self.from_points @ products.view(36, -1)
        found = found.view(4, 4, *tiles.shape[:2], outputs).permute(2, 0, 3, 1, 4)
        out.copy_(found) if self.bias is None else torch.add(found, self.bias, out=out)


def use_winograd(network: nn.Module) -> None:
    """Have `network` convolve by `WinogradConv` wherever that is faster, for detection only."""
    for module in network.modules():
        for name, part in list(module.named_children()):
            if isinstance(part, nn.Conv2d) and _suits(part):
                setattr(module, name, WinogradConv(part))


def _suits(conv: nn.Conv2d) -> bool:
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups)
    plain = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and conv.padding_mode == "zeros"
    return plain and min(conv.in_channels, conv.out_channels) >= LEAST_CHANNELS


def _transforms(points: tuple[float, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Aᵀ (4, 6), G (6, 3) and Bᵀ (6, 6), float64 (Cook–Toom: values at `points` and infinity)."""
    bt = torch.linalg.inv(_powers(points, 6)).T
    return _powers(points, 4).T, _powers(points, 3), bt


def _powers(points: tuple[float, ...], count: int) -> Tensor:
    """Row by row 1, p, p² … of each point; of infinity the last alone: (len(points) + 1, count)."""
    powers = torch.tensor(points, dtype=torch.float64)[:, None] ** torch.arange(count)
    infinity = F.one_hot(torch.tensor([count - 1]), count)
    return torch.cat([powers, infinity.double()])

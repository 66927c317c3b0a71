"""VarifocalNet's star-shaped convolution beside torchvision's `deform_conv2d`, on a CPU.

    .venv/bin/python benchmarks/deform_conv.py

One map of 256 channels, float32, of the size that the finest levels of an image of 800×1216 have;
taps are moved by some cells. Ours and theirs take turns in one process; the median time counts.
Rows are added to `benchmarks/results/deform-conv.csv`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from record import RESULTS, about, add_row
from torch import Tensor
from torchvision.ops import deform_conv2d

from dhcli.ops.deform_conv import deform_conv

CHANNELS = 256
REACH = 4.0
"""Standard deviation of the moves, in cells."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["100x152", "50x76"], metavar="HxW")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        for what, run in (("forward", forward), ("forward and backward", both)):
            ours, theirs = times(run, inputs(height, width), options.repeats)
            row = {
                "map": size,
                "what": what,
                "seconds": f"{ours:.3f}",
                "torchvision_seconds": f"{theirs:.3f}",
                "ratio": f"{ours / theirs:.2f}",
            }
            add_row(RESULTS / "deform-conv.csv", row | about("torch", "torchvision"))


def inputs(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Map, moves and weights."""
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, height, width).contiguous(memory_format=torch.channels_last)
    moves = REACH * torch.randn(1, 18, height, width)
    return x, moves, torch.randn(CHANNELS, CHANNELS, 3, 3)


def times(
    run: Callable[..., None], parts: tuple[Tensor, Tensor, Tensor], repeats: int
) -> tuple[float, float]:
    """Median seconds of ours and of torchvision's."""
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 1):
        for convolve, times_of in zip((deform_conv, of_torchvision), spent, strict=True):
            begun = time.perf_counter()
            run(convolve, *parts)
            times_of.append(time.perf_counter() - begun)
    return statistics.median(spent[0][1:]), statistics.median(spent[1][1:])


def of_torchvision(x: Tensor, moves: Tensor, weight: Tensor) -> Tensor:
    """Theirs."""
    return torch.as_tensor(deform_conv2d(x, moves, weight, padding=1))


def forward(convolve: Callable[..., Tensor], *parts: Tensor) -> None:
    """As in detection."""
    with torch.inference_mode():
        convolve(*parts)


def both(convolve: Callable[..., Tensor], *parts: Tensor) -> None:
    """As in training: gradients of map, moves and weights."""
    convolve(*(part.clone().requires_grad_() for part in parts)).sum().backward()


if __name__ == "__main__":
    main()

"""A training step beside the plain transcription's: one process, strictly in turn; peak memory.

    .venv/bin/python benchmarks/train_step.py double-head
    .venv/bin/python benchmarks/train_step.py double-head-ext --size 416x608

Both have the same weights, sample the same RoIs, and their losses are compared. Memory is the
peak of a process of its own that does two steps of one side. Rows are added to
benchmarks/results/train-step-cpu.csv.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from peers import PlainDetector
from record import RESULTS, about, add_row, peak_mb
from seeded import (
    CLASSES,
    PRESETS,
    compare,
    seeded_config,
    seeded_detector,
    seeded_images,
    seeded_targets,
)
from torch import Tensor, nn

from dhcli.ops.batch import ImageBatch, Target

BARS = {"double-head": 0.5, "double-head-ext": 0.6}
MEMORY_BAR = 0.75


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("row", choices=PRESETS)
    parser.add_argument("--size", default="800x1216", help="height x width")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "train-step-cpu.csv")
    parser.add_argument("--side", choices=("ours", "peer"), help="two steps of one side, its peak")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = map(int, options.size.split("x"))
    images = seeded_images(options.batch, height, width)
    targets = seeded_targets(options.batch, height, width)
    if options.side:
        model = make_sides(options.row, images, options.side)[0]
        for _ in range(2):
            take_step(model, images, targets)
        print(peak_mb() / 1000)
        return
    ours, peer = make_sides(options.row, images)
    losses = [take_step(model, images, targets) for model in (ours, peer)]
    worst = max(abs(losses[0][name] - losses[1][name]) / abs(losses[1][name]) for name in losses[1])
    times = compare(
        lambda: take_step(ours, images, targets),
        lambda: take_step(peer, images, targets),
        options.repeats,
    )
    peaks = {side: peak_memory(side) for side in ("ours", "peer")}
    line = {
        "row": options.row,
        "size": f"{options.batch}x{height}x{width}",
        "losses_differ_by": f"{worst:.1e}",
        "bar": BARS[options.row],
        **times,
        "memory_bar": MEMORY_BAR,
        "ours_gb": round(peaks["ours"], 2),
        "peer_gb": round(peaks["peer"], 2),
        "memory_ratio": round(peaks["ours"] / peaks["peer"], 3),
        "threads": options.threads,
        **about("torch", "torchvision"),
    }
    add_row(options.out, line)


def make_sides(row: str, images: ImageBatch, *names: str) -> list[nn.Module]:
    """Our detector and the peer with its weights, in training; or only those in `names`."""
    config = seeded_config(row)
    sides = []
    ours = seeded_detector(config, images)
    if "ours" in names or not names:
        sides.append(ours.train())
    if "peer" in names or not names:
        peer = PlainDetector(config, CLASSES)
        peer.load_state_dict(ours.state_dict())
        sides.append(peer.to(memory_format=torch.contiguous_format).train())
    return sides


def take_step(model: nn.Module, images: ImageBatch, targets: list[Target]) -> dict[str, float]:
    """Losses and gradients, from the same seed each time."""
    torch.manual_seed(3)
    model.zero_grad(set_to_none=True)
    losses: dict[str, Tensor] = model.losses(images, targets)
    sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}


def peak_memory(side: str) -> float:
    """Gigabytes that a process of its own takes at most for two steps of `side`."""
    command = [sys.executable, *sys.argv, "--side", side]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()

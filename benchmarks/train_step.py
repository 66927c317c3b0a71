"""A training step beside a peer's: each in a process of its own, in turn; time and peak memory.

    .venv/bin/python benchmarks/train_step.py double-head
    .venv/bin/python benchmarks/train_step.py double-head-ext --peer torchvision --size 416x608

A step is losses, gradients and a move of SGD with momentum. The plain transcription has the same
weights and, in a first step that is not timed, our proposals: its losses and gradients are
compared. torchvision's Faster R-CNN samples as many RoIs. Rows are added to
benchmarks/results/train-step-cpu.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peers import PlainDetector
from predict import single_head
from record import RESULTS, about, add_row, peak_mb
from seeded import (
    CLASSES,
    PRESETS,
    seeded_config,
    seeded_detector,
    seeded_images,
    seeded_targets,
)
from torch import Tensor, nn

from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.memory import TRAINING, give_holes_back, keep_freed_memory

BARS = {("double-head", "plain"): 0.5, ("double-head-ext", "plain"): 0.6}
MEMORY_BAR = 0.75
SAMPLES = 512
"""RoIs an image, as the presets have it."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("row", choices=PRESETS)
    parser.add_argument("--peer", choices=("plain", "torchvision"), default="plain")
    parser.add_argument("--size", default="800x1216", help="height x width")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "train-step-cpu.csv")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "WEIGHTS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = map(int, options.size.split("x"))
    images = seeded_images(options.batch, height, width)
    if options.side:
        targets = seeded_targets(options.batch, height, width)
        side, weights = options.side
        print(json.dumps(measure(side, options.row, Path(weights), images, targets, options)))
        return
    where = about("torch", "torchvision")
    ours, peer = run_in_turn(options, images)
    line = {
        "row": options.row,
        "peer": options.peer,
        "size": f"{options.batch}x{height}x{width}",
        **compare_sides(ours, peer),
        "bar": BARS.get((options.row, options.peer), ""),
        "ours_s": round(median(ours["seconds"]), 2),
        "peer_s": round(median(peer["seconds"]), 2),
        "ratio": round(median(ours["seconds"]) / median(peer["seconds"]), 3),
        "memory_bar": MEMORY_BAR if options.peer == "plain" else "",
        "ours_gb": round(ours["peak_gb"], 2),
        "peer_gb": round(peer["peak_gb"], 2),
        "memory_ratio": round(ours["peak_gb"] / peer["peak_gb"], 3),
        "ours_all": " ".join(f"{t:.1f}" for t in ours["seconds"]),
        "peer_all": " ".join(f"{t:.1f}" for t in peer["seconds"]),
        "threads": options.threads,
        **where,
    }
    add_row(options.out, line)


def run_in_turn(options: argparse.Namespace, images: ImageBatch) -> list[dict[str, Any]]:
    """What `measure` says of both sides, in a process of its own each, from the same weights."""
    sides = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        detector = seeded_detector(seeded_config(options.row), images)
        torch.save(detector.state_dict(), weights)
        for side in ("ours", options.peer):
            command = [sys.executable, *sys.argv, "--side", side, str(weights)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            sides.append(json.loads(done.stdout.splitlines()[-1]))
    return sides


def compare_sides(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, str]:
    """The largest differences of losses and of the sizes of gradients, where both have the same."""
    differences = {}
    for what in ("losses", "gradients"):
        mine, theirs = ours[what], peer[what]
        pairs = [(mine[name], theirs[name]) for name in mine if name in theirs]
        # against the largest: a bias before a batch norm has a gradient of nothing but rounding
        scale = {"losses": 0.0, "gradients": 1e-3 * max(theirs.values(), default=0.0)}[what]
        worst = max(abs(a - b) / max(abs(b), scale) for a, b in pairs) if pairs else None
        same = len(pairs) == len(mine) == len(theirs) and worst is not None
        differences[f"{what}_differ_by"] = f"{worst:.1e}" if same else ""
    return differences


def measure(
    side: str,
    row: str,
    weights: Path,
    images: ImageBatch,
    targets: list[Target],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Losses and sizes of gradients of the first step, seconds of the others, peak memory."""
    if side == "ours":
        keep_freed_memory(TRAINING)  # as `dh train` has it
    model, losses_of = make_side(side, row, weights, images, targets)
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    # so small a rate that the weights, and with them the work, stay as they are
    optimizer = torch.optim.SGD(learnt, 1e-9, momentum=0.9, weight_decay=1e-4)

    def step() -> dict[str, Tensor]:
        torch.manual_seed(3)
        optimizer.zero_grad(set_to_none=True)
        losses = losses_of()
        total = sum(losses.values())
        if side == "ours":
            give_holes_back()
        total.backward()
        optimizer.step()
        return losses

    shared = options.peer == "plain"  # torchvision's samples are its own
    proposals = weights.with_name("proposals.pt")
    with same_proposals(side, model, proposals) if shared else nullcontext():
        first = {name: loss.item() for name, loss in step().items()}
    gradients = {
        name: weight.grad.norm().item()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    seconds = []
    for _ in range(options.repeats):
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    return {
        "losses": first,
        "gradients": gradients,
        "seconds": seconds,
        "peak_gb": peak_mb() / 1024,
    }


@contextmanager
def same_proposals(side: str, model: Any, file: Path) -> Iterator[None]:
    """Meanwhile ours writes its proposals to `file`, and the plain transcription reads them.

    Rounding puts proposals of nearly equal score in other places; then a side samples other RoIs.
    """
    owner = model.rpn if side == "ours" else model
    propose = owner.propose

    def write(*args: Any, **settings: Any) -> list[Tensor]:
        proposals: list[Tensor] = propose(*args, **settings)
        torch.save(proposals, file)
        return proposals

    owner.propose = write if side == "ours" else lambda *_, **__: torch.load(file)
    yield
    del owner.propose  # the class's own again


def make_side(
    side: str, row: str, weights: Path, images: ImageBatch, targets: list[Target]
) -> tuple[nn.Module, Callable[[], dict[str, Tensor]]]:
    """A detector in training, and what gives its losses of the images."""
    if side == "torchvision":
        with torch.no_grad():
            single = single_head(images).train()
        single.roi_heads.fg_bg_sampler.batch_size_per_image = SAMPLES
        pictures = [pixels.contiguous().float() / 255 for pixels in images.pixels]
        boxes = [{"boxes": each.boxes, "labels": each.labels + 1} for each in targets]
        return single, lambda: single(pictures, boxes)
    config = seeded_config(row)
    if side == "ours":
        model: Any = build_detector(config, CLASSES)
        prepare_for_training(model)  # as `dh train` has it
    else:
        model = PlainDetector(config, CLASSES)
    model.load_state_dict(torch.load(weights, mmap=True))
    model.train()
    return model, lambda: model.losses(images, targets)


if __name__ == "__main__":
    main()

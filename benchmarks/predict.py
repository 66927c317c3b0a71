"""dh's detectors beside their peers: a process each, strictly in turn, medians and ratios.

    .venv/bin/python benchmarks/predict.py double-head            # against the plain transcription
    .venv/bin/python benchmarks/predict.py double-head-single     # against torchvision
    .venv/bin/python benchmarks/predict.py sabl                   # docs/family.md, torchvision
    .venv/bin/python benchmarks/predict.py --list

Peers of the same architecture have the same weights, and their detections are compared. A peer has
a process of its own, as its users have it: what dh's process does with freed memory
(`dhcli/runtime/memory.py`) would make it faster too; `--together` has both in one process.
Rows are added to benchmarks/results/predict-cpu.csv.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from peers import PlainDetector
from record import RESULTS, about, add_row
from seeded import (
    CLASSES,
    FAMILY,
    compare,
    seeded_config,
    seeded_detector,
    seeded_images,
    set_detections,
)
from torch import Tensor
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from dhcli.config.detecting import DetectOptions
from dhcli.config.schema import Config
from dhcli.models.two_stage.detector import TwoStageDetector
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.ops.boxes import iou_matrix
from dhcli.runtime.eager import prepare
from dhcli.runtime.precision import choose_detecting_precision


@dataclass(frozen=True)
class Row:
    """What is measured: our detector, its peer, the bar, and how many detections there are."""

    ours: str
    peer: str
    bar: float | None
    detections: int | None = 60
    precision: str = "fp32"
    gate: float | None = None


ROWS = {
    "double-head": Row("double-head", "plain", 0.22),
    "double-head-worst": Row("double-head", "plain", 1.0, detections=None),
    "double-head-single": Row("double-head", "torchvision", 0.80),
    "double-head-single-bf16": Row("double-head", "torchvision", 0.45, precision="bf16"),
    "ext": Row("double-head-ext", "plain", 0.38),
    "ext-single-gate": Row("double-head-ext", "torchvision", 1.0, gate=0.02),
    **{name: Row(name, "torchvision", None) for name in FAMILY},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--list", action="store_true", help="show the rows")
    parser.add_argument("--size", default="800x1216", help="height x width")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--together", action="store_true", help="the peer in our process")
    parser.add_argument("--out", type=Path, default=RESULTS / "predict-cpu.csv")
    options = parser.parse_args()
    if options.list or options.row is None:
        for name, row in ROWS.items():
            print(name, row)
        return
    torch.set_num_threads(options.threads)
    height, width = map(int, options.size.split("x"))
    images = seeded_images(options.batch, height, width)
    with torch.inference_mode():
        result = measure(ROWS[options.row], images, options.repeats, options.together)
    line = {
        "row": options.row,
        "size": f"{options.batch}x{height}x{width}",
        **result,
        "processes": 1 if options.together else 2,
        "threads": options.threads,
        **about("torch", "torchvision"),
    }
    add_row(options.out, line)


def measure(row: Row, images: ImageBatch, repeats: int, together: bool) -> dict[str, object]:
    """Ours and the peer in turn on `images`."""
    config = seeded_config(row.ours)
    detector = seeded_detector(config, images)
    two_stage = isinstance(detector, TwoStageDetector)
    alive = set_detections(detector, images, row.detections) if two_stage else ""
    make = make_peer if together else start_peer
    peer = make(row, config, detector.state_dict(), images)
    options = DetectOptions(gate=row.gate)
    [plain] = detector.detect(images)
    precision = choose_detecting_precision(row.precision, torch.device("cpu"))
    detector = prepare(detector, precision)
    [found], theirs = detector.detect(images, options), peer()
    same = row.peer == "plain" and row.precision == "fp32" and row.gate is None
    return {
        "peer": row.peer,
        "precision": row.precision,
        "gate": row.gate,
        "alive": alive,
        "detections": sum(map(len, found)),
        "peer_detections": sum(map(len, theirs)),
        "same": f"{agreement(found, theirs):.4f}" if same else "",
        "same_as_unprepared": f"{agreement(found, plain):.4f}",
        "bar": row.bar,
        **compare(lambda: detector.detect(images, options), peer, repeats),
    }


def agreement(ours: list[Detections], theirs: list[Detections]) -> float:
    """Share of detections of either side that the other has: class, IoU 0.99, score to 0.001."""
    hits = total = 0
    for a, b in zip(ours, theirs, strict=True):
        near = iou_matrix(a.boxes, b.boxes) > 0.99
        near &= a.labels[:, None] == b.labels
        near &= (a.scores[:, None] - b.scores).abs() < 1e-3
        hits += int(near.any(0).sum() + near.any(1).sum())
        total += len(a) + len(b)
    return hits / max(total, 1)


def start_peer(
    row: Row, config: Config, state: dict[str, Tensor], images: ImageBatch
) -> Callable[[], list[Detections]]:
    """What has the peer run on `images`, in a process of its own."""
    context = torch.multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    job = (theirs, torch.get_num_threads(), row, config, state, images)
    context.Process(target=_serve, args=job, daemon=True).start()

    def run() -> list[Detections]:
        ours.send(None)
        found: list[Detections] = ours.recv()
        return found

    return run


def _serve(pipe: Connection, threads: int, *job: Any) -> None:
    torch.set_num_threads(threads)
    with torch.inference_mode(), contextlib.suppress(EOFError):  # ours has ended
        peer = make_peer(*job)
        while True:
            pipe.recv()
            pipe.send(peer())


def make_peer(
    row: Row, config: Config, state: dict[str, Tensor], images: ImageBatch
) -> Callable[[], list[Detections]]:
    """What runs the peer on `images`."""
    if row.peer == "torchvision":
        model = single_head(images)
        pictures = [pixels.contiguous().float() / 255 for pixels in images.pixels]
        return lambda: [
            Detections(out["boxes"], out["scores"], out["labels"] - 1) for out in model(pictures)
        ]
    plain = PlainDetector(config, CLASSES).eval()
    plain.load_state_dict(state)
    plain = plain.to(memory_format=torch.contiguous_format)
    return lambda: plain.detect(images)


def single_head(images: ImageBatch) -> FasterRCNN:
    """Torchvision's Faster R-CNN, its statistics and background bias set as dh's are."""
    torch.manual_seed(0)
    height, width = images.pixels.shape[2:]
    # what fasterrcnn_resnet50_fpn builds for pretrained weights, without their download
    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None)
    sizes = {"min_size": min(height, width), "max_size": max(height, width)}
    model = FasterRCNN(backbone, CLASSES + 1, **sizes).eval()
    pictures = [pixels.contiguous().float() / 255 for pixels in images.pixels]
    logits: list[Tensor] = []
    hooks = [
        norm.register_forward_pre_hook(_adopt)
        for norm in model.modules()
        if isinstance(norm, FrozenBatchNorm2d)
    ]
    layer = model.roi_heads.box_predictor.cls_score
    hooks.append(layer.register_forward_hook(lambda _, __, out: logits.append(out)))
    model(pictures)
    layer.weight *= 2.0 / logits[-1].std(0).mean()
    model(pictures)
    layer.bias -= logits[-1].mean(0)
    low, high = -50.0, 50.0
    for _ in range(12):
        bias = (low + high) / 2
        shifted = logits[-1] - logits[-1].mean(0)
        shifted[:, 0] += bias
        alive = (shifted.softmax(1)[:, 1:] > 0.05).any(1).sum()
        low, high = (bias, high) if alive > 150 * len(images) else (low, bias)
    layer.bias[0] += bias
    for hook in hooks:
        hook.remove()
    return model


def _adopt(norm: torch.nn.Module, inputs: tuple[Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3)) + 1e-3)


if __name__ == "__main__":
    main()

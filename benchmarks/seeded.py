"""A seeded detector with a chosen number of detections, its images, and two sides run in turn.

Random weights give either no detections or a thousand, and work is saved where there are none. So
frozen statistics are set to those of the image, as training would have, and the classifier's
background bias is set for a stated number of detections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.models.build import build_detector
from dhcli.models.norms import FrozenBatchNorm
from dhcli.models.two_stage.branches import BranchOutput
from dhcli.models.two_stage.cascade import Cascade
from dhcli.models.two_stage.detector import TwoStageDetector
from dhcli.ops.batch import ImageBatch, Target

CLASSES = 80
PRESETS: dict[str, tuple[str, dict[str, int]]] = {
    # MMDetection's Double-Head: five residual blocks, no non-local block
    "double-head": ("coco-r50", {"residual": 5, "non_local": 0}),
    "double-head-ext": ("coco-r50-ext", {"residual": 3, "non_local": 2}),
}
FAMILY = (
    *("cascade", "cascade-double-head", "tsd", "tsd-double-head"),
    *("sabl", "sabl-cascade", "iou", "sparse"),
)
"""Members of docs/family.md: presets `coco-r50-…` as they are."""
PRESETS |= {name: (f"coco-r50-{name}", {}) for name in FAMILY}


def seeded_config(name: str, *overrides: str) -> Config:
    """The configuration of one of `PRESETS`, without pretrained weights."""
    preset, branch = PRESETS[name]
    settings = [f"model.head.branches.conv.{key}={value}" for key, value in branch.items()]
    every = ["model.backbone.weights=none", *settings, *overrides]
    return load_config(preset, overrides=every).config


def seeded_images(count: int, height: int, width: int) -> ImageBatch:
    """Smooth random pictures with edges."""
    torch.manual_seed(1)
    coarse = torch.rand(count, 3, height // 64 + 1, width // 64 + 1)
    fine = torch.rand(count, 3, height // 8, width // 8)
    smooth = F.interpolate(coarse, (height, width), mode="bilinear")
    pixels = 0.7 * smooth + 0.3 * F.interpolate(fine, (height, width), mode="nearest")
    pixels = (pixels * 255).byte().contiguous(memory_format=torch.channels_last)
    sizes = torch.tensor([[height, width]] * count)
    return ImageBatch(pixels, sizes, sizes)


def seeded_targets(count: int, height: int, width: int, objects: int = 8) -> list[Target]:
    """`objects` boxes an image, of many sizes."""
    torch.manual_seed(2)
    targets = []
    for _ in range(count):
        size = torch.tensor([width, height]) * (0.05 + 0.4 * torch.rand(objects, 2) ** 2)
        corner = (torch.tensor([width, height]) - size) * torch.rand(objects, 2)
        labels = torch.randint(CLASSES, (objects,))
        boxes = torch.cat([corner, corner + size], 1)
        targets.append(Target(boxes, labels, torch.zeros(0, 4)))
    return targets


def seeded_detector(config: Config, images: ImageBatch, spread: float = 2.0) -> Any:
    """A detector whose activations are of ordinary size on `images` and logits vary by `spread`.

    One of queries stays as it is: its work is the same whatever its weights.
    """
    torch.manual_seed(0)
    detector: Any = build_detector(config, CLASSES).eval()
    if not isinstance(detector, TwoStageDetector):
        return detector
    for head in heads_of(detector):
        for branch in head.branches.values():
            for layer in (branch.cls, branch.reg):
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.01)
    with adopting_statistics(detector), torch.inference_mode():
        # every RoI is needed once: with a threshold of 0 no branch can be left out
        levels = detector.extract(images)
        proposals = detector.rpn.propose(detector.rpn(levels), images.sizes, training=False)
        boxes, owner = _join(proposals)
        for head in heads_of(detector):
            _spread_logits(head, levels, boxes, owner, spread)
    return detector


def _spread_logits(
    head: Any, levels: Sequence[Tensor], boxes: Tensor, owner: Tensor, spread: float
) -> None:
    for name in head.branches:
        head.run(name, levels, boxes, owner)
        layer = head.branch(name).cls
        if layer is not None:
            logits = head.run(name, levels, boxes, owner).logits
            layer.weight *= spread / logits.std(0).mean()
            logits = head.run(name, levels, boxes, owner).logits
            layer.bias -= logits.mean(0)


def heads_of(detector: TwoStageDetector) -> list[Any]:
    """The head, or those of a cascade's stages."""
    head = detector.head
    return list(head.stages) if isinstance(head, Cascade) else [head]


def set_detections(detector: TwoStageDetector, images: ImageBatch, wanted: int | None) -> int:
    """Choose the background bias for about `wanted` detections an image; None: all survive.

    Returns how many proposals have a class above the score threshold.
    """
    heads = heads_of(detector)
    head = heads[-1]
    layers = [b.cls for one in heads for b in one.branches.values() if b.cls is not None]
    with torch.inference_mode():
        levels = detector.extract(images)
        proposals = detector.rpn.propose(detector.rpn(levels), images.sizes, training=False)
        boxes, owner = _join(proposals)
        # the stages of a cascade all on the proposals: where later ones look differs little here
        outputs = {
            name: _mean([one.run(name, levels, boxes, owner) for one in heads])
            for name in head.scorers(head.read_out)
        }
        low, high = (-50.0, 50.0) if wanted is not None else (-50.0, -50.0)
        for _ in range(12):
            bias = (low + high) / 2
            shifted = {name: _shift(output, bias) for name, output in outputs.items()}
            scores = head.scores(head.read_out, shifted)[:, 1:]
            alive = (scores > detector.rule.score_threshold).any(1)
            if wanted is None:
                break
            # two or three overlapping proposals make a detection
            low, high = (bias, high) if alive.sum() > 2.5 * wanted * len(images) else (low, bias)
        for layer in layers:
            layer.bias[0] += bias
    return int(alive.sum())


def compare(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int
) -> dict[str, float | str]:
    """Median seconds of both, run strictly in turn after one warm-up each, and their ratio."""
    sides = {"ours": ours, "peer": peer}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run()
    for _ in range(repeats):
        for name, run in sides.items():
            begun = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begun)
    seconds = {name: median(values) for name, values in times.items()}
    result: dict[str, float | str] = {f"{name}_s": round(seconds[name], 3) for name in sides}
    result["ratio"] = round(seconds["ours"] / seconds["peer"], 3)
    return result | {
        f"{name}_all": " ".join(f"{t:.2f}" for t in values) for name, values in times.items()
    }


@contextmanager
def adopting_statistics(network: nn.Module) -> Iterator[None]:
    """Have the batch norms, fixed ones too, end with the statistics of the last batch."""
    pairs = []
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, FrozenBatchNorm | nn.BatchNorm2d):
                learning = nn.BatchNorm2d(len(norm.running_var), momentum=1.0)
                setattr(parent, name, learning)
                pairs.append((parent, name, norm, learning))
    yield
    for parent, name, norm, learning in pairs:
        norm.running_mean.copy_(learning.running_mean)
        norm.running_var.copy_(learning.running_var + 1e-3)
        setattr(parent, name, norm)


def _mean(outputs: Sequence[BranchOutput]) -> BranchOutput:
    """The last of `outputs`, its logits the mean of all."""
    logits = torch.stack([output.logits for output in outputs]).mean(0)
    return outputs[-1]._replace(logits=logits)


def _shift(output: BranchOutput, bias: float) -> BranchOutput:
    background, classes = output.logits[:, :1], output.logits[:, 1:]
    return output._replace(logits=torch.cat([background + bias, classes], 1))


def _join(proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    owner = [torch.full((len(p),), i) for i, p in enumerate(proposals)]
    return torch.cat(list(proposals)), torch.cat(owner)

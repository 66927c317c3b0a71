"""A plain Cascade R-CNN in MMDetection's conventions: it detects from a file, and its losses.

Written from the paper ("Cascade R-CNN") and METHOD.md, slowly and plainly, without dhcli's code.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from tests.references.mmdet import Found, clip, decode, pool, prepare, propose
from tests.references.network import Boxes, State, fully_connected, nms, softmax

HEAD = "roi_head.bbox_head"
IOUS = (0.5, 0.6, 0.7)
STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
WEIGHTS = (1.0, 0.5, 0.25)


def detect(state: State, image: NDArray[np.uint8], short: int, long: int) -> Found:
    """Label (0 … K-1), score and xyxy in pixels of `image` (H, W, 3) RGB of each detection."""
    height, width = image.shape[:2]
    levels, size = prepare(state, image, short, long)
    boxes, every = propose(state, levels, size), []
    for stage in range(3):
        x = pool(levels, boxes, 1.0).flatten(1)
        logits, deltas = predict(x, state, stage)
        every.append(logits)
        boxes = clip(decode(boxes, deltas.double().numpy() * np.array(STDS[stage])), size)
    scores = softmax((every[0] + every[1] + every[2]) / 3)
    boxes = boxes / np.array([size[1] / width, size[0] / height] * 2)
    found: Found = []
    for k in range(scores.shape[1] - 1):
        rows = np.flatnonzero(scores[:, k] > 0.05)
        at, own = boxes[rows], scores[rows, k]
        found += [(k, own[i], at[i].tolist()) for i in nms(at, own, 0.5, 0)]
    return sorted(found, key=lambda one: -one[1])[:100]


def predict(x: Tensor, state: State, stage: int) -> tuple[Tensor, Tensor]:
    """Logits (N, K+1), background last, and deltas (N, 4) of one stage."""
    for layer in (0, 1):
        x = fully_connected(x, state, f"{HEAD}.{stage}.shared_fcs.{layer}").relu()
    return tuple(
        fully_connected(x, state, f"{HEAD}.{stage}.{part}") for part in ("fc_cls", "fc_reg")
    )


def losses(
    state: State,
    levels: list[Tensor],
    proposals: list[Tensor],
    objects: list[tuple[Tensor, Tensor]],
    sizes: list[tuple[int, int]],
) -> list[tuple[Tensor, Tensor]]:
    """The weighted losses of scores and boxes of each stage, if every box is in the sample.

    in   proposals  (n, 4) of each image;  objects  boxes (M, 4) and labels (M,) of each
         sizes      height, width of each
    """
    found = []
    for stage in range(3):
        rows = []
        for image, (given, (truth, labels)) in enumerate(zip(proposals, objects, strict=True)):
            for added, group in ((True, truth), (False, given)):
                rows += [
                    (image, added, box, *assign(box, truth, labels, IOUS[stage])) for box in group
                ]
        classes = state[f"{HEAD}.{stage}.fc_cls.weight"].shape[0] - 1
        x = torch.cat([pool_one(levels, image, box) for image, _, box, *_ in rows]).flatten(1)
        logits, deltas = predict(x, state, stage)
        wanted = torch.tensor([classes if label is None else label for *_, label, _ in rows])
        cls = F.cross_entropy(logits, wanted, reduction="sum") / len(rows)
        box_loss = deltas.sum() * 0
        for said, (*_, box, label, goal) in zip(deltas, rows, strict=True):
            if label is not None:
                off = (said - encode(box, goal) / said.new_tensor(STDS[stage])).abs()
                box_loss = box_loss + torch.where(off < 1, off**2 / 2, off - 0.5).sum()
        found.append((cls * WEIGHTS[stage], box_loss / len(rows) * WEIGHTS[stage]))
        proposals = refine(rows, deltas.detach(), sizes, stage)
    return found


def assign(box: Tensor, truth: Tensor, labels: Tensor, least: float) -> tuple[int | None, Tensor]:
    """The label of the object that `box` overlaps most, and that object; None: background."""
    best, label, goal = 0.0, None, box
    for other, its in zip(truth, labels, strict=True):
        low, high = torch.maximum(box[:2], other[:2]), torch.minimum(box[2:], other[2:])
        common = (high - low).clamp(min=0).prod()
        iou = (
            common / ((box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - common)
        ).item()
        if iou > best:
            best = iou
            label, goal = (int(its), other) if iou >= least else (None, box)
    return label, goal


def encode(box: Tensor, goal: Tensor) -> Tensor:
    w, h = box[2] - box[0], box[3] - box[1]
    gw, gh = goal[2] - goal[0], goal[3] - goal[1]
    dx = ((goal[0] + goal[2]) / 2 - (box[0] + box[2]) / 2) / w
    dy = ((goal[1] + goal[3]) / 2 - (box[1] + box[3]) / 2) / h
    return torch.stack([dx, dy, torch.log(gw / w), torch.log(gh / h)])


def pool_one(levels: list[Tensor], image: int, box: Tensor) -> Tensor:
    """7 × 7 cells of the level that suits; gradients flow into the levels alone."""
    area = ((box[2] - box[0]) * (box[3] - box[1])).item()
    level = min(max(math.floor(math.log2(math.sqrt(area) / 56 + 1e-6)), 0), 3)
    roi = torch.cat([box.new_tensor([image]), box])[None]
    return roi_align(levels[level], roi, 7, 1 / (4 * 2**level), -1, True)


def refine(
    rows: list[tuple[int, bool, Tensor, int | None, Tensor]],
    deltas: Tensor,
    sizes: list[tuple[int, int]],
    stage: int,
) -> list[Tensor]:
    """The boxes of the next stage: all but the objects that were added, background too."""
    nexts: list[list[Boxes]] = [[] for _ in sizes]
    for (image, added, box, *_), said in zip(rows, deltas, strict=True):
        if not added:
            moved = decode(box[None].numpy(), said[None].numpy() * np.array(STDS[stage]))
            nexts[image].append(clip(moved, sizes[image]))
    return [torch.from_numpy(np.concatenate(boxes)) for boxes in nexts]

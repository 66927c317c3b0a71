"""Plain YOLOX in MMDetection's conventions, from its checkpoint.

Written from the facts and the paper, slowly, without any of dhcli's code. Works in the dtype of the
tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.references import dense_parts
from tests.references.assigners import NOTHING, Box, centre, depth, iou
from tests.references.network import State, conv, nms

Found = list[tuple[int, float, list[float]]]
STRIDES = (8, 16, 32)
HEAD = "bbox_head"
GREY = 114


class Said(NamedTuple):
    """Of all cells, level after level: corners (n, 2) x, y in pixels, strides (n,), class logits
    (n, K), boxes as said (n, 4), logits of there being an object (n,)."""

    corners: Tensor
    strides: Tensor
    logits: Tensor
    deltas: Tensor
    objectness: Tensor


def letterbox(image: NDArray[np.uint8], side: int) -> tuple[Tensor, tuple[int, int]]:
    """RGB (H, W, 3) as the network sees it, BGR (1, 3, side, side), and the width and height that
    it has in there."""
    height, width = image.shape[:2]
    scale = min(side / width, side / height)
    size = int(width * scale + 0.5), int(height * scale + 0.5)
    square = np.full((side, side, 3), GREY, np.uint8)
    bgr = np.ascontiguousarray(image[:, :, ::-1])
    square[: size[1], : size[0]] = cv2.resize(bgr, size, interpolation=cv2.INTER_LINEAR)
    return torch.from_numpy(square).permute(2, 0, 1)[None].float(), size


def run(state: State, x: Tensor) -> Said:
    """What is said of one square (1, 3, side, side)."""
    parts = [part_of(state, place) for place in ("backbone.", "neck.")]
    levels = dense_parts.pafpn(dense_parts.csp_darknet(x, parts[0])[1:], parts[1])
    said = [head(level, state, number) for number, level in enumerate(levels)]
    return Said(*(torch.cat(column) for column in zip(*said, strict=True)))


def part_of(state: State, place: str) -> State:
    return {k.removeprefix(place): v for k, v in state.items() if k.startswith(place)}


def head(x: Tensor, state: State, level: int) -> Said:
    towers = {}
    for task in ("cls", "reg"):
        y, number = x, 0
        while f"{HEAD}.multi_level_{task}_convs.{level}.{number}.conv.weight" in state:
            y = dense_parts.unit(y, state, f"{HEAD}.multi_level_{task}_convs.{level}.{number}")
            number += 1
        towers[task] = y
    ends = {
        end: conv(towers[task], state, f"{HEAD}.multi_level_conv_{end}.{level}")[0]
        for end, task in (("cls", "cls"), ("reg", "reg"), ("obj", "reg"))
    }
    rows = {end: y.flatten(1).T for end, y in ends.items()}
    stride, (height, width) = STRIDES[level], x.shape[2:]
    corners = [[column * stride, row * stride] for row in range(height) for column in range(width)]
    place = torch.tensor(corners).to(x)
    return Said(
        place, torch.full_like(place[:, 0], stride), rows["cls"], rows["reg"], rows["obj"][:, 0]
    )


def boxes_of(said: Said) -> Tensor:
    middle = said.corners + said.deltas[:, :2] * said.strides[:, None]
    half = said.deltas[:, 2:].exp() * said.strides[:, None] / 2
    return torch.cat([middle - half, middle + half], dim=1)


def detect(state: State, image: NDArray[np.uint8], side: int) -> Found:
    """Label, score and xyxy in pixels of `image` (H, W, 3) RGB of each detection."""
    x, (new_w, new_h) = letterbox(image, side)
    said = run(state, x)
    height, width = image.shape[:2]
    ratio = np.array([width / new_w, height / new_h] * 2)
    boxes = boxes_of(said).numpy().astype(np.float64) * ratio
    best, labels = said.logits.sigmoid().max(dim=1)
    scores = (best * said.objectness.sigmoid()).numpy().astype(np.float64)
    kept = np.flatnonzero(scores >= 0.01)
    found: Found = []
    for label in set(labels[kept].tolist()):
        rows = kept[labels.numpy()[kept] == label]
        for i in nms(boxes[rows], scores[rows], 0.65, 0):
            found.append((label, scores[rows[i]], boxes[rows[i]].tolist()))
    return found


def cross_entropy(p: float, right: float) -> float:
    """With logarithms no lower than −100."""
    yes = max(math.log(p), -100.0) if p > 0 else -100.0
    no = max(math.log1p(-p), -100.0) if p < 1 else -100.0
    return -right * yes - (1 - right) * no


def place(point: tuple[float, float], reach: float, box: Box) -> tuple[bool, bool]:
    """Whether it lies in the box, and within reach of its centre."""
    cx, cy = centre(box)
    around = (cx - reach, cy - reach, cx + reach, cy + reach)
    return depth(point, box) > 0, depth(point, around) > 0


def simota(
    middles: Sequence[tuple[float, float]],
    strides: Sequence[float],
    predicted: Sequence[Box],
    scores: Sequence[Sequence[float]],
    objects: Sequence[Box],
    labels: Sequence[int],
) -> list[int]:
    """The object of each cell, one cell and one object at a time. `scores`: the roots of class ·
    object, (n, K)."""
    owner = [NOTHING] * len(middles)
    cost: dict[tuple[int, int], float] = {}
    overlap: dict[tuple[int, int], float] = {}
    candidates = []
    for i, point in enumerate(middles):
        places = [place(point, 2.5 * strides[i], box) for box in objects]
        both = [is_in and is_near for is_in, is_near in places]
        if not any(is_in or is_near for is_in, is_near in places):
            continue
        candidates.append(i)
        for m, box in enumerate(objects):
            overlap[i, m] = iou(predicted[i], box)
            said = sum(cross_entropy(p, k == labels[m]) for k, p in enumerate(scores[i]))
            cost[i, m] = said - 3 * math.log(overlap[i, m] + 1e-7) + 1e5 * (not both[m])
    takers: dict[int, list[int]] = {i: [] for i in candidates}
    for m in range(len(objects)):
        largest = sorted((overlap[i, m] for i in candidates), reverse=True)[:10]
        count = max(1, int(sum(largest)))
        for i in sorted(candidates, key=lambda i: (cost[i, m], i))[:count]:
            takers[i].append(m)
    for i, own in takers.items():
        every = own if len(own) < 2 else range(len(objects))
        owner[i] = min(every, key=lambda m: (cost[i, m], m), default=NOTHING)
    return owner


def assign(said: Said, objects: Tensor, labels: Tensor) -> list[int]:
    middles = said.corners + said.strides[:, None] / 2
    scores = said.logits.sigmoid() * said.objectness.sigmoid()[:, None]
    return simota(
        [(x, y) for x, y in middles.tolist()],
        said.strides.tolist(),
        boxes_of(said).detach().tolist(),
        scores.detach().sqrt().tolist(),
        objects.tolist(),
        labels.tolist(),
    )


def losses(
    images: Sequence[Said], objects: Sequence[tuple[Tensor, Tensor]], *, late: bool = False
) -> dict[str, Tensor]:
    """Of a batch: `objects` are boxes (M, 4) and labels (M,) of each image."""
    zero = sum(part.sum() * 0 for said in images for part in said)
    cls = box = obj = l1 = zero
    count = 0
    for said, (goals, labels) in zip(images, objects, strict=True):
        found = boxes_of(said)
        for i, m in enumerate(assign(said, goals, labels)):
            obj = obj + bce(said.objectness[i], float(m != NOTHING))
            if m == NOTHING:
                continue
            count += 1
            overlap = iou(found[i].tolist(), goals[m].tolist())
            for k in range(said.logits.shape[1]):
                cls = cls + bce(said.logits[i, k], overlap * (k == int(labels[m])))
            box = box + 5 * (1 - overlap_of(found[i], goals[m]) ** 2)
            l1 = l1 + (said.deltas[i] - deltas_of(said, i, goals[m])).abs().sum()
    count = max(count, 1)
    parts = {"loss_cls": cls, "loss_box": box, "loss_quality": obj, "loss_l1": l1 * late}
    return {name: part / count for name, part in parts.items()}


def bce(logit: Tensor, right: float) -> Tensor:
    return -right * F.logsigmoid(logit) - (1 - right) * F.logsigmoid(-logit)


def overlap_of(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    common = (high - low).clamp(min=0).prod()
    return common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common)


def deltas_of(said: Said, i: int, goal: Tensor) -> Tensor:
    size = goal[2:] - goal[:2]
    shift = ((goal[:2] + goal[2:]) / 2 - said.corners[i]) / said.strides[i]
    return torch.cat([shift, (size / said.strides[i] + 1e-8).log()])

"""A plain SABL head in MMDetection's conventions, alone or in a cascade: detections and losses.

Written from the facts and the paper ("Side-Aware Boundary Localization"), one RoI and one side at a
time, without any of dhcli's code. Works in the dtype of the tensors.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.references.cascade import assign, pool_one
from tests.references.mmdet import Found, pool, prepare, propose
from tests.references.network import Boxes, State, conv, fully_connected, nms, softmax

HEAD = "roi_head.bbox_head"
IOUS, SCALES, WEIGHTS = (0.5, 0.6, 0.7), (1.7, 1.5, 1.3), (1.0, 0.5, 0.25)
COUNT = 14
SIDES = ("left", "right", "top", "bottom")
Said = dict[str, tuple[Tensor, Tensor]]
"""Logits (7,) and offsets (7,) of each side of one RoI."""


def places(state: State) -> list[str]:
    """The head, or those of the stages."""
    if f"{HEAD}.fc_cls.weight" in state:
        return [HEAD]
    return [f"{HEAD}.{stage}" for stage in range(3)]


def detect(
    state: State, image: NDArray[np.uint8], short: int, long: int, *, most: int = 100
) -> Found:
    """Label (0 … K-1), score and xyxy in pixels of `image` (H, W, 3) RGB of each detection."""
    height, width = image.shape[:2]
    levels, size = prepare(state, image, short, long)
    boxes, every = propose(state, levels, size), []
    for place, scale in zip(places(state), SCALES, strict=False):
        x = pool(levels, boxes, 1.0)
        every.append(classify(x, state, place))
        decoded = [
            decode(box, said, scale, size)
            for box, said in zip(boxes, look_at_sides(x, state, place), strict=True)
        ]
        boxes = np.array([box for box, _ in decoded])
    scores = softmax(sum(every) / len(every))
    sure = np.array([confidence for _, confidence in decoded])
    boxes = boxes / np.array([size[1] / width, size[0] / height] * 2)
    found: Found = []
    for k in range(scores.shape[1] - 1):
        rows = np.flatnonzero(scores[:, k] > 0.05)
        at, own = boxes[rows], scores[rows, k] * sure[rows]
        found += [(k, own[i], at[i].tolist()) for i in nms(at, own, 0.5, 0)]
    return sorted(found, key=lambda one: -one[1])[:most]


def classify(x: Tensor, state: State, place: str) -> Tensor:
    x = fully_connected(x.flatten(1), state, f"{place}.cls_fcs.0").relu()
    return fully_connected(x, state, f"{place}.fc_cls")


def look_at_sides(x: Tensor, state: State, place: str) -> list[Said]:
    """What is said of each side of each RoI, of its cells (N, C, 7, 7)."""
    for layer in (0, 1):
        x = conv(x, state, f"{place}.reg_pre_convs.{layer}.conv").relu()
    every: list[Said] = [{} for _ in x]
    for axis, first, last in (("x", "left", "right"), ("y", "top", "bottom")):
        weights = conv(x, state, f"{place}.reg_conv_att_{axis}").sigmoid()
        for cells, weight, said in zip(x, weights, every, strict=True):
            if axis == "y":  # so that its line runs along the columns too
                cells, weight = cells.transpose(1, 2), weight.transpose(1, 2)
            line = (cells * weight).sum(1) / weight.sum(1)  # (C, 7)
            kernel = state[f"{place}.reg_post_conv_{axis}s.0.conv.weight"].flatten(2)
            bias = state[f"{place}.reg_post_conv_{axis}s.0.conv.bias"]
            line = F.conv1d(line[None], kernel, bias, padding=1)[0].relu()
            up = state[f"{place}.upsample_{axis}.weight"]
            more = []
            for place_of in range(2 * line.shape[1]):
                vector = line[:, place_of // 2] @ up[:, :, place_of % 2]
                more.append((vector + state[f"{place}.upsample_{axis}.bias"]).relu())
            vectors = torch.stack(more)
            logits = fully_connected(vectors, state, f"{place}.fc_reg_cls")[:, 0]
            offsets = fully_connected(vectors, state, f"{place}.fc_reg_offset")[:, 0]
            said[first] = logits[:7], offsets[:7]
            said[last] = logits[7:].flip(0), offsets[7:].flip(0)
    return every


def buckets(box: list[float], scale: float) -> dict[str, tuple[list[float], float]]:
    """The centres of each side's buckets, from the outside in, and their width."""
    x1, y1, x2, y2 = box
    cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * scale, (y2 - y1) * scale
    steps = [0.5 + i for i in range(7)]
    bw, bh = w / COUNT, h / COUNT
    return {
        "left": ([cx - w / 2 + step * bw for step in steps], bw),
        "right": ([cx + w / 2 - step * bw for step in steps], bw),
        "top": ([cy - h / 2 + step * bh for step in steps], bh),
        "bottom": ([cy + h / 2 - step * bh for step in steps], bh),
    }


def decode(
    box: Boxes | list[float], said: Said, scale: float, size: tuple[int, int]
) -> tuple[list[float], float]:
    """The box, within the last pixels of the image, and how sure it is."""
    found, sure = {}, 0.0
    laid = buckets([float(x) for x in box], scale)
    for side, (logits, offsets) in said.items():
        values = logits.double().exp() / logits.double().exp().sum()
        order = sorted(range(7), key=lambda i, values=values: -float(values[i]))
        best, second = order[:2]
        centres, width = laid[side]
        found[side] = centres[best] - float(offsets[best]) * width
        sure += float(values[best])
        if abs(best - second) == 1:
            sure += float(values[second])
    height, width = size
    x1, x2 = (min(max(found[side], 0), width - 1) for side in ("left", "right"))
    y1, y2 = (min(max(found[side], 0), height - 1) for side in ("top", "bottom"))
    return [x1, y1, x2, y2], sure / 4


def losses(
    state: State,
    levels: list[Tensor],
    proposals: list[Tensor],
    objects: list[tuple[Tensor, Tensor]],
    sizes: list[tuple[int, int]],
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The weighted losses of scores, buckets and offsets by stage, if every box is in the sample.

    in   proposals  (n, 4) of each image;  objects  boxes (M, 4) and labels (M,) of each
         sizes      height, width of each
    """
    found = []
    for place, least, scale, weight in zip(places(state), IOUS, SCALES, WEIGHTS, strict=False):
        rows = []
        for image, (given, (truth, labels)) in enumerate(zip(proposals, objects, strict=True)):
            for added, group in ((True, truth), (False, given)):
                rows += [(image, added, box, *assign(box, truth, labels, least)) for box in group]
        classes = state[f"{place}.fc_cls.weight"].shape[0] - 1
        x = torch.cat([pool_one(levels, image, box) for image, _, box, *_ in rows])
        wanted = torch.tensor([classes if label is None else label for *_, label, _ in rows])
        cls = F.cross_entropy(classify(x, state, place), wanted, reduction="sum") / len(rows)
        every, off = look_at_sides(x, state, place), x.sum() * 0
        entropy = off
        for (*_, box, label, goal), said in zip(rows, every, strict=True):
            if label is not None:
                one, other = side_losses(said, box.tolist(), goal.tolist(), scale)
                entropy, off = entropy + one, off + other
        total = len(rows)
        found.append((cls * weight, entropy / (4 * total) * weight, off / total * weight))
        nexts: list[list[list[float]]] = [[] for _ in sizes]
        for (image, added, box, *_), said in zip(rows, every, strict=True):
            if not added:
                nexts[image].append(decode(box.tolist(), said, scale, sizes[image])[0])
        proposals = [box.new_tensor(boxes) for boxes in nexts]
    return found


def side_losses(
    said: Said, box: list[float], goal: list[float], scale: float
) -> tuple[Tensor, Tensor]:
    """Of one object: binary cross entropy of its buckets, smooth L1 (β 0.1) of its offsets."""
    laid = buckets(box, scale)
    x1, y1, x2, y2 = goal
    entropy = off = next(iter(said.values()))[0].sum() * 0
    for side, at in zip(SIDES, (x1, x2, y1, y2), strict=True):
        centres, width = laid[side]
        far = [(centre - at) / width for centre in centres]
        order = sorted(range(7), key=lambda i, far=far: abs(far[i]))
        logits, offsets = said[side]
        for i in range(7):
            nearest, second = i == order[0], i == order[1]
            p = logits[i].sigmoid()
            if nearest:
                entropy = entropy - p.log()
            elif abs(far[i]) >= 1:
                entropy = entropy - (1 - p).log()
            if nearest or (second and abs(far[i]) < 1):
                d = (offsets[i] - far[i]).abs()
                off = off + (d**2 / 0.2 if d < 0.1 else d - 0.05)
    return entropy, off

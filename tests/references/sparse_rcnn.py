"""A plain Sparse R-CNN in MMDetection's conventions, from the tensors of its checkpoint.

Written from the facts and the paper, one image, one proposal and one object at a time, without any
of dhcli's code. Works in the dtype of the tensors.
"""

from __future__ import annotations

import math
from itertools import permutations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from tests.references.network import STRIDES, State, conv, pad_to_32, resnet50

Found = list[tuple[int, float, list[float]]]
Stage = tuple[Tensor, Tensor]
HEADS = 8


def detect(state: State, image: NDArray[np.uint8], short: int, long: int, most: int) -> Found:
    """Label, score and xyxy in pixels of `image` (H, W, 3) RGB of each detection; not clipped."""
    height, width = image.shape[:2]
    scale = min(long / max(height, width), short / min(height, width))
    new_w, new_h = int(width * scale + 0.5), int(height * scale + 0.5)
    resized = cv2.resize(image[:, :, ::-1], (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(np.ascontiguousarray(resized[:, :, ::-1])).permute(2, 0, 1)[None]
    logits, boxes = stages(state, pad_to_32(normalise(pixels.float())), (new_h, new_w))[-1]
    every = []
    for proposal in range(len(boxes)):
        for label in range(logits.shape[1]):
            score = 1 / (1 + math.exp(-logits[proposal, label].item()))
            x1, y1, x2, y2 = boxes[proposal].tolist()
            box = [x1 * width / new_w, y1 * height / new_h, x2 * width / new_w, y2 * height / new_h]
            every.append((label, score, box))
    return sorted(every, key=lambda one: -one[1])[:most]


def normalise(pixels: Tensor) -> Tensor:
    mean, std = (  # of float32, whatever the pixels are
        torch.tensor(values)[:, None, None].to(pixels)
        for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    return (pixels - mean) / std


def stages(state: State, x: Tensor, size: tuple[int, int]) -> list[Stage]:
    """Logits (N, K) and boxes (N, 4) of every stage, of a padded image (1, 3, H, W)."""
    features = resnet50(x, state, "backbone.{}".format, stride_in_1x1=False, eps=1e-5)
    merged = [conv(c, state, f"neck.lateral_convs.{i}.conv") for i, c in enumerate(features)]
    for i in (2, 1, 0):
        up = merged[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        merged[i] = merged[i] + up[:, :, : merged[i].shape[2], : merged[i].shape[3]]
    levels = [conv(p, state, f"neck.fpn_convs.{i}.conv") for i, p in enumerate(merged)]
    height, width = size
    rows = []
    for cx, cy, w, h in state["rpn_head.init_proposal_bboxes.weight"]:
        corners = [(cx - w / 2) * width, (cy - h / 2) * height]
        rows.append(torch.stack([*corners, (cx + w / 2) * width, (cy + h / 2) * height]))
    boxes, own = torch.stack(rows), state["rpn_head.init_proposal_features.weight"]
    every, number = [], 0
    while f"roi_head.bbox_head.{number}.fc_cls.weight" in state:
        logits, deltas, own = head(state, f"roi_head.bbox_head.{number}", levels, boxes, own)
        refined = torch.stack([decode(box, d) for box, d in zip(boxes, deltas, strict=True)])
        every.append((logits, refined))
        boxes, number = refined.detach(), number + 1
    return every


def head(
    state: State, place: str, levels: list[Tensor], boxes: Tensor, own: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    own = own + attend(own, state, f"{place}.attention.attn")
    own = norm(own, state, f"{place}.attention_norm")
    rows = []
    for box, feature in zip(boxes, own, strict=True):
        seen = interact(pool(levels, box.detach()), feature, state, f"{place}.{DYNAMIC}")
        feature = norm(feature + seen, state, f"{place}.{DYNAMIC}_norm")
        inner = linear(feature, state, f"{place}.ffn.layers.0.0").relu()
        feature = feature + linear(inner, state, f"{place}.ffn.layers.1")
        rows.append(norm(feature, state, f"{place}.ffn_norm"))
    own = torch.stack(rows)
    said = []
    for task in ("cls", "reg"):
        x, layer = own, 0
        while f"{place}.{task}_fcs.{layer}.weight" in state:
            x = x @ state[f"{place}.{task}_fcs.{layer}.weight"].T
            x = norm(x, state, f"{place}.{task}_fcs.{layer + 1}").relu()
            layer += 3
        said.append(linear(x, state, f"{place}.fc_{task}"))
    return said[0], said[1], own


DYNAMIC = "instance_interactive_conv"


def attend(x: Tensor, state: State, place: str) -> Tensor:
    width = x.shape[1]
    q, k, v = (x @ state[f"{place}.in_proj_weight"].T + state[f"{place}.in_proj_bias"]).split(
        width, dim=1
    )
    side = width // HEADS
    parts = []
    for part in range(HEADS):
        at = slice(part * side, (part + 1) * side)
        scores = q[:, at] @ k[:, at].T / math.sqrt(side)
        parts.append(scores.softmax(dim=1) @ v[:, at])
    return linear(torch.cat(parts, dim=1), state, f"{place}.out_proj")


def interact(cells: Tensor, feature: Tensor, state: State, place: str) -> Tensor:
    """Of the cells (49, C) of one proposal and its feature (C,)."""
    made = linear(feature, state, f"{place}.dynamic_layer")
    channels = len(feature)
    inner = len(state[f"{place}.norm_in.weight"])
    into = made[: channels * inner].reshape(channels, inner)
    out = made[channels * inner :].reshape(inner, channels)
    x = norm(cells @ into, state, f"{place}.norm_in").relu()
    x = norm(x @ out, state, f"{place}.norm_out").relu()
    flat = torch.cat(list(x))  # a cell after another
    return norm(linear(flat, state, f"{place}.fc_layer"), state, f"{place}.fc_norm").relu()


def pool(levels: list[Tensor], box: Tensor) -> Tensor:
    x1, y1, x2, y2 = box.tolist()
    level = math.floor(math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 56 + 1e-6))
    level = min(max(level, 0), 3)
    roi = torch.cat([box.new_zeros(1), box])[None]
    cells = roi_align(levels[level], roi, 7, 1 / STRIDES[level], 2, True)[0]
    return torch.stack([cells[:, row, column] for row in range(7) for column in range(7)])


def decode(box: Tensor, deltas: Tensor) -> Tensor:
    limit = math.log(1000 / 16)
    dx, dy, dw, dh = deltas * deltas.new_tensor([0.5, 0.5, 1.0, 1.0])
    w, h = box[2] - box[0], box[3] - box[1]
    cx, cy = box[0] + w / 2 + dx * w, box[1] + h / 2 + dy * h
    w, h = w * dw.clamp(-limit, limit).exp(), h * dh.clamp(-limit, limit).exp()
    return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x: Tensor, state: State, name: str) -> Tensor:
    mean, var = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
    return (x - mean) / (var + 1e-5).sqrt() * state[f"{name}.weight"] + state[f"{name}.bias"]


def losses(
    images: list[list[Stage]],
    sizes: list[tuple[int, int]],
    objects: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor, Tensor]:
    """Focal, L1 and GIoU losses of a batch over all stages: 2, 5, 2, each by the objects' number.

    in   images   of each image what its stages say;  sizes  height, width
         objects  of each image boxes (M, 4) and labels (M,)
    """
    zero = images[0][0][0].sum() * 0
    focal, l1, giou = zero, zero, zero
    count = max(1, sum(len(labels) for _, labels in objects))
    for of_image, (height, width), (goals, labels) in zip(images, sizes, objects, strict=True):
        side = goals.new_tensor([width, height, width, height])
        for logits, boxes in of_image:
            pairs = match(logits.detach(), boxes.detach(), goals, labels, side)
            for proposal in range(len(logits)):
                for label in range(logits.shape[1]):
                    right = any(p == proposal and labels[m] == label for p, m in pairs)
                    p = logits[proposal, label].sigmoid()
                    if right:
                        focal = focal - 0.25 * (1 - p) ** 2 * p.log()
                    else:
                        focal = focal - 0.75 * p**2 * (1 - p).log()
            for proposal, m in pairs:
                l1 = l1 + ((boxes[proposal] - goals[m]) / side).abs().sum()
                giou = giou + 1 - generalized(boxes[proposal], goals[m])
    return 2 * focal / count, 5 * l1 / count, 2 * giou / count


def match(
    logits: Tensor, boxes: Tensor, goals: Tensor, labels: Tensor, side: Tensor
) -> list[tuple[int, int]]:
    """Every way to give each object a proposal of its own is tried: the cheapest."""
    cost = np.zeros((len(boxes), len(goals)))
    for i in range(len(boxes)):
        for m in range(len(goals)):
            p = logits[i, labels[m]].sigmoid().item()
            yes = -math.log(p + 1e-12) * 0.25 * (1 - p) ** 2
            no = -math.log(1 - p + 1e-12) * 0.75 * p**2
            far = ((boxes[i] - goals[m]) / side).abs().sum().item()
            cost[i, m] = 2 * (yes - no) + 5 * far - 2 * generalized(boxes[i], goals[m]).item()
    ways = permutations(range(len(boxes)), len(goals))
    best = min(ways, key=lambda way: sum(cost[i, m] for m, i in enumerate(way)))
    return [(i, m) for m, i in enumerate(best)]


def generalized(a: Tensor, b: Tensor) -> Tensor:
    def area(box: list[Tensor]) -> Tensor:
        return (box[2] - box[0]).clamp(min=0) * (box[3] - box[1]).clamp(min=0)

    low, high = torch.maximum(a, b), torch.minimum(a, b)
    common = area([low[0], low[1], high[2], high[3]])
    union = area(list(a)) + area(list(b)) - common
    around = area([high[0], high[1], low[2], low[3]])
    return common / union - (around - union) / around

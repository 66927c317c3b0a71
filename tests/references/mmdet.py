"""A plain detector in MMDetection's conventions, from the tensors of its Double-Head."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align

from tests.references.network import (
    STRIDES,
    Boxes,
    State,
    batch_norm,
    bottleneck,
    conv,
    fully_connected,
    nms,
    pad_to_32,
    pyramid,
    read_grid,
    resnet50,
    softmax,
)

Found = list[tuple[int, float, list[float]]]
HEAD = "roi_head.bbox_head"


def detect(state: State, image: NDArray[np.uint8], short: int, long: int) -> Found:
    """Label (0 … K-1), score and xyxy in pixels of `image` (H, W, 3) RGB of each detection."""
    height, width = image.shape[:2]
    levels, (new_h, new_w) = prepare(state, image, short, long)
    proposals = propose(state, levels, (new_h, new_w))
    scores, deltas = run_head(state, levels, proposals)
    classes = scores.shape[1] - 1
    stds = np.array([0.1, 0.1, 0.2, 0.2])
    decoded = np.stack(
        [decode(proposals, deltas[:, 4 * k : 4 * k + 4] * stds) for k in range(classes)], axis=1
    )
    decoded = clip(decoded, (new_h, new_w)) / np.array([new_w / width, new_h / height] * 2)
    found: Found = []
    for k in range(classes):
        rows = np.flatnonzero(scores[:, k] > 0.05)
        boxes, own = decoded[rows, k], scores[rows, k]
        found += [(k, own[i], boxes[i].tolist()) for i in nms(boxes, own, 0.5, 0)]
    return sorted(found, key=lambda one: -one[1])[:100]


def prepare(
    state: State, image: NDArray[np.uint8], short: int, long: int
) -> tuple[list[Tensor], tuple[int, int]]:
    """P2 … P6 of `image` (H, W, 3) RGB, and its height and width when it was resized."""
    height, width = image.shape[:2]
    scale = min(long / max(height, width), short / min(height, width))
    new_w, new_h = int(width * scale + 0.5), int(height * scale + 0.5)
    resized = cv2.resize(image[:, :, ::-1], (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    pixels = resized[:, :, ::-1].astype(np.float64)
    pixels = (pixels - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    x = pad_to_32(torch.from_numpy(pixels).permute(2, 0, 1)[None].float())
    name = "backbone.{}".format
    features = resnet50(x, state, name, stride_in_1x1=False, eps=1e-5)
    lateral, out = "neck.lateral_convs.{}.conv".format, "neck.fpn_convs.{}.conv".format
    levels = pyramid(features, state, lateral, out)
    return levels, (new_h, new_w)


def anchors_of(height: int, width: int, stride: int) -> Boxes:
    """Scale 8; ratios h/w; centred on (x · stride, y · stride), not rounded."""
    every = []
    for y in range(height):
        for x in range(width):
            for ratio in (0.5, 1.0, 2.0):
                w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                cx, cy = x * stride, y * stride
                every.append([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
    return np.array(every)


def decode(boxes: Boxes, deltas: Boxes) -> Boxes:
    limit = math.log(1000 / 16)
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    cx, cy = boxes[:, 0] + w / 2 + deltas[:, 0] * w, boxes[:, 1] + h / 2 + deltas[:, 1] * h
    w, h = (s * np.exp(np.clip(deltas[:, i], -limit, limit)) for i, s in ((2, w), (3, h)))
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    height, width = size
    return np.clip(boxes, 0, [width, height, width, height])


def propose(state: State, levels: list[Tensor], size: tuple[int, int]) -> Boxes:
    """The best 1000 of each level, decoded, clipped; NMS a level; the best 1000 of all."""
    every = []
    for level, stride in zip(levels, STRIDES, strict=True):
        x = conv(level, state, "rpn_head.rpn_conv").relu()
        logits = read_grid(conv(x, state, "rpn_head.rpn_cls"), 1)[:, 0]
        deltas = read_grid(conv(x, state, "rpn_head.rpn_reg"), 4)
        scores = 1 / (1 + np.exp(-logits))
        best = np.argsort(-scores, kind="stable")[:1000]
        anchors = anchors_of(level.shape[2], level.shape[3], stride)
        boxes, scores = clip(decode(anchors[best], deltas[best]), size), scores[best]
        real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, scores = boxes[real], scores[real]
        every += [(scores[i], boxes[i]) for i in nms(boxes, scores, 0.7, 0)]
    every.sort(key=lambda pair: -pair[0])
    return np.array([box for _, box in every[:1000]])


def pool(levels: list[Tensor], boxes: Boxes, scale: float) -> Tensor:
    """7 × 7 cells, aligned, as many samples as pixels; the level is that of the box as it was."""
    pooled = []
    for x1, y1, x2, y2 in boxes:
        level = math.floor(math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 56 + 1e-6))
        level = min(max(level, 0), 3)
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) * scale, (y2 - y1) * scale
        roi = torch.tensor([[0, cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]]).float()
        pooled.append(roi_align(levels[level], roi, 7, 1 / STRIDES[level], -1, True))
    return torch.cat(pooled)


def run_head(state: State, levels: list[Tensor], boxes: Boxes) -> tuple[Boxes, Boxes]:
    """Probabilities (N, K+1), background last, of the fc branch; deltas (N, 4K) of the conv one."""
    x = pool(levels, boxes, 1.0).flatten(1)
    for layer in (0, 1):
        x = fully_connected(x, state, f"{HEAD}.fc_branch.{layer}").relu()
    scores = softmax(fully_connected(x, state, f"{HEAD}.fc_cls"))
    x = pool(levels, boxes, 1.3)
    block = f"{HEAD}.res_block"

    def unit(x: Tensor, part: str) -> Tensor:
        x = conv(x, state, f"{block}.{part}.conv")
        return batch_norm(x, state, f"{block}.{part}.bn", 1e-5)

    x = (unit(unit(x, "conv1").relu(), "conv2") + unit(x, "conv_identity")).relu()
    for i in range(4):
        place = f"{HEAD}.conv_branch.{i}"
        numbers = (1, 2, 3)
        x = bottleneck(
            x, state, [f"{place}.conv{n}" for n in numbers], [f"{place}.bn{n}" for n in numbers]
        )
    deltas = fully_connected(x.mean(dim=(2, 3)), state, f"{HEAD}.fc_reg")
    return scores, deltas.double().numpy()

"""What the plain reference detectors share: a ResNet, a pyramid, heads, NMS, from named tensors.

Written from METHOD.md §6 and the papers, slowly and plainly, without any of dhcli's code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

State = Mapping[str, Tensor]
Boxes = NDArray[np.float64]
STRIDES = (4, 8, 16, 32, 64)


def batch_norm(x: Tensor, state: State, name: str, eps: float) -> Tensor:
    weight, bias, mean, var = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / torch.sqrt(var + eps) * weight + bias


def conv(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    bias = state.get(f"{name}.bias")
    return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2)


def resnet50(
    x: Tensor, state: State, name: Callable[[str], str], *, stride_in_1x1: bool, eps: float
) -> list[Tensor]:
    """C2 … C5. `name` turns `layer1.0.conv1` into the name in `state`."""

    def unit(x: Tensor, conv_name: str, bn_name: str, stride: int = 1) -> Tensor:
        x = conv(x, state, name(conv_name), stride)
        return batch_norm(x, state, name(bn_name), eps)

    x = F.max_pool2d(unit(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    features = []
    for stage, count in enumerate((3, 4, 6, 3), 1):
        for block in range(count):
            place = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            first, second = (stride, 1) if stride_in_1x1 else (1, stride)
            y = unit(x, f"{place}.conv1", f"{place}.bn1", first).relu()
            y = unit(y, f"{place}.conv2", f"{place}.bn2", second).relu()
            y = unit(y, f"{place}.conv3", f"{place}.bn3")
            if block == 0:
                x = unit(x, f"{place}.downsample.0", f"{place}.downsample.1", stride)
            x = (x + y).relu()
        features.append(x)
    return features


def pyramid(
    features: list[Tensor], state: State, lateral: Callable[[int], str], out: Callable[[int], str]
) -> list[Tensor]:
    """P2 … P6; nearest upsampling, P6 is every second pixel of P5."""
    merged = [conv(c, state, lateral(i)) for i, c in enumerate(features)]
    for i in (2, 1, 0):
        up = merged[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        merged[i] = merged[i] + up[:, :, : merged[i].shape[2], : merged[i].shape[3]]
    levels = [conv(p, state, out(i)) for i, p in enumerate(merged)]
    return [*levels, levels[-1][:, :, ::2, ::2]]


def bottleneck(x: Tensor, state: State, convs: list[str], norms: list[str]) -> Tensor:
    y = x
    for index, (c, n) in enumerate(zip(convs, norms, strict=True)):
        y = batch_norm(conv(y, state, c), state, n, 1e-5)
        y = y.relu() if index < 2 else y
    return (x + y).relu()


def fully_connected(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def read_grid(x: Tensor, numbers: int) -> NDArray[np.float64]:
    """(1, A·numbers, h, w) as (h·w·A, numbers): row, column, anchor."""
    anchors, height, width = x.shape[1] // numbers, x.shape[2], x.shape[3]
    grid = x[0].reshape(anchors, numbers, height, width).permute(2, 3, 0, 1)
    return grid.reshape(-1, numbers).double().numpy()


def nms(boxes: Boxes, scores: NDArray[np.float64], threshold: float, one: float) -> list[int]:
    """Best first; `one` is added to every width and height."""
    order = list(np.argsort(-scores, kind="stable"))
    area = (boxes[:, 2] - boxes[:, 0] + one) * (boxes[:, 3] - boxes[:, 1] + one)
    kept = []
    while order:
        best, *rest = order
        kept.append(int(best))
        others = boxes[rest]
        low = np.maximum(others[:, :2], boxes[best, :2])
        high = np.minimum(others[:, 2:], boxes[best, 2:])
        common = np.clip(high - low + one, 0, None).prod(axis=1)
        iou = common / (area[rest] + area[best] - common)
        order = [row for row, value in zip(rest, iou, strict=True) if not value > threshold]
    return kept


def soft_nms(
    boxes: Boxes, scores: NDArray[np.float64], threshold: float, least: float
) -> list[tuple[int, float]]:
    """Linear: row and score of each box, in the order that they are taken."""
    left, rows, found = scores.copy(), np.arange(len(scores)), []
    while len(rows):
        best = rows[left[rows].argmax()]
        found.append((int(best), float(left[best])))
        rows = rows[rows != best]
        low = np.maximum(boxes[rows, :2], boxes[best, :2])
        high = np.minimum(boxes[rows, 2:], boxes[best, 2:])
        common = np.clip(high - low, 0, None).prod(axis=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        iou = common / (areas[rows] + areas[best] - common)
        left[rows] *= np.where(iou >= threshold, 1 - iou, 1)
        rows = rows[left[rows] >= least]
    return found


def softmax(x: Tensor) -> NDArray[np.float64]:
    x = x.double()
    e = (x - x.max(dim=1, keepdim=True).values).exp()
    return (e / e.sum(dim=1, keepdim=True)).numpy()


def pad_to_32(x: Tensor) -> Tensor:
    height, width = (32 * math.ceil(side / 32) for side in x.shape[-2:])
    return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

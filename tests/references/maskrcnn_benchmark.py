"""A plain detector in maskrcnn-benchmark's conventions, from the authors' Double-Head-Ext.

Boxes include their maximum: the width is x2 − x1 + 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
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
BOX = "roi_heads.box"
TRUNK = f"{BOX}.feature_extractor"


def detect(state: State, image: NDArray[np.uint8], short: int, long: int) -> list[Found]:
    """Label (0 … K-1), score and x, y, x + w, y + h, w and h as its JSON writes them; in each mode.

    Mode 0: conv scores and boxes, 1: fc both, 2: fc scores, conv boxes, 3: both scores fused,
    conv boxes. `image` is (H, W, 3) RGB.
    """
    height, width = image.shape[:2]
    new_w, new_h = new_size(width, height, short, long)
    resized = Image.fromarray(image).resize((new_w, new_h), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized)[:, :, ::-1] - np.array([102.9801, 115.9465, 122.7717])
    x = pad_to_32(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float())

    def name(ours: str) -> str:
        return f"backbone.body.{'' if ours.startswith('layer') else 'stem.'}{ours}"

    features = resnet50(x, state, name, stride_in_1x1=True, eps=0.0)
    levels = pyramid(
        features,
        state,
        lambda i: f"backbone.fpn.fpn_inner{i + 1}",
        lambda i: f"backbone.fpn.fpn_layer{i + 1}",
    )
    proposals = propose(state, levels, (new_h, new_w))
    p_conv, d_conv, p_fc, d_fc = run_head(state, levels, proposals)
    fused = 1 - (1 - p_conv) * (1 - p_fc)
    modes = [(p_conv, d_conv), (p_fc, d_fc), (p_fc, d_conv), (fused, d_conv)]
    ratio = np.array([width / new_w, height / new_h] * 2)
    return [read(scores, deltas, proposals, (new_h, new_w), ratio) for scores, deltas in modes]


def read(
    scores: Boxes, deltas: Boxes, proposals: Boxes, size: tuple[int, int], ratio: Boxes
) -> Found:
    found: Found = []
    weights = np.array([10.0, 10.0, 5.0, 5.0])
    for label in range(1, scores.shape[1]):
        rows = np.flatnonzero(scores[:, label] > 0.05)
        own = deltas[rows, 4 * label : 4 * label + 4] / weights
        boxes = clip(decode(proposals[rows], own), size)
        best = scores[rows, label]
        found += [(label - 1, best[i], boxes[i].tolist()) for i in nms(boxes, best, 0.5, 1)]
    found.sort(key=lambda one: -one[1])
    if len(found) > 100:
        found = [one for one in found if one[1] >= found[99][1]]
    written = []
    for label, score, box in found:
        x1, y1, x2, y2 = np.array(box) * ratio
        w, h = x2 - x1 + 1, y2 - y1 + 1
        written.append((label, score, [x1, y1, x1 + w, y1 + h]))
    return written


def new_size(width: int, height: int, short: int, long: int) -> tuple[int, int]:
    low, high = min(width, height), max(width, height)
    if high / low * short > long:
        short = int(round(long * low / high))  # noqa: RUF046 - as it is written there
    if width < height:
        return short, int(short * height / width)
    return int(short * width / height), short


def anchors_of(height: int, width: int, stride: int, cell: Boxes) -> Boxes:
    every = [
        anchor + np.array([x, y, x, y]) * stride
        for y in range(height)
        for x in range(width)
        for anchor in cell
    ]
    return np.array(every)


def decode(boxes: Boxes, deltas: Boxes) -> Boxes:
    w, h = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    cx, cy = boxes[:, 0] + w / 2 + deltas[:, 0] * w, boxes[:, 1] + h / 2 + deltas[:, 1] * h
    limit = math.log(1000 / 16)
    w, h = (s * np.exp(np.minimum(deltas[:, i], limit)) for i, s in ((2, w), (3, h)))
    return np.stack([cx - w / 2, cy - h / 2, cx + w / 2 - 1, cy + h / 2 - 1], axis=1)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    height, width = size
    return np.clip(boxes, 0, [width - 1, height - 1, width - 1, height - 1])


def propose(state: State, levels: list[Tensor], size: tuple[int, int]) -> Boxes:
    every = []
    for index, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        x = conv(level, state, "rpn.head.conv").relu()
        logits = read_grid(conv(x, state, "rpn.head.cls_logits"), 1)[:, 0]
        deltas = read_grid(conv(x, state, "rpn.head.bbox_pred"), 4)
        best = np.argsort(-logits, kind="stable")[:1000]
        cell = state[f"rpn.anchor_generator.cell_anchors.{index}"].double().numpy()
        anchors = anchors_of(level.shape[2], level.shape[3], stride, cell)
        boxes = clip(decode(anchors[best], deltas[best]), size)
        scores = 1 / (1 + np.exp(-logits[best]))
        every += [(scores[i], boxes[i]) for i in nms(boxes, scores, 0.7, 1)[:1000]]
    every.sort(key=lambda pair: -pair[0])
    return np.array([box for _, box in every[:1000]])


def pool(levels: list[Tensor], boxes: Boxes, scale: float) -> Tensor:
    pooled = []
    for x1, y1, x2, y2 in boxes:
        w, h = x2 - x1 + 1, y2 - y1 + 1
        level = math.floor(4 + math.log2(math.sqrt(w * h) / 224 + 1e-6))
        level = min(max(level, 2), 5) - 2
        cx, cy, w, h = x1 + w / 2, y1 + h / 2, w * scale, h * scale
        roi = torch.tensor([[0, cx - w / 2, cy - h / 2, cx + w / 2 - 1, cy + h / 2 - 1]]).float()
        pooled.append(roi_align(levels[level], roi, 7, 1 / STRIDES[level], 2, False))
    return torch.cat(pooled)


def run_head(state: State, levels: list[Tensor], boxes: Boxes) -> tuple[Boxes, Boxes, Boxes, Boxes]:
    """Probabilities and deltas of the conv branch, then of the fc branch; background first."""
    x = conv_branch(state, pool(levels, boxes, 1.3))
    y = pool(levels, boxes, 1.0).flatten(1)
    for layer in ("fc6", "fc7"):
        y = fully_connected(y, state, f"{TRUNK}.{layer}").relu()
    out = []
    for feature, suffix in ((x, ""), (y, "_fc")):
        out.append(softmax(fully_connected(feature, state, f"{BOX}.predictor.cls_score{suffix}")))
        deltas = fully_connected(feature, state, f"{BOX}.predictor.bbox_pred{suffix}")
        out.append(deltas.double().numpy())
    return out[0], out[1], out[2], out[3]


def conv_branch(state: State, x: Tensor) -> Tensor:
    def unit(x: Tensor, place: str, index: int) -> Tensor:
        x = conv(x, state, f"{place}.{index}")
        return batch_norm(x, state, f"{place}.{index + 1}", 1e-5)

    first = f"{TRUNK}.nonlocal_conv"
    main = unit(unit(x, f"{first}.bottom", 0).relu(), f"{first}.bottom", 3)
    x = (main + unit(x, f"{first}.top", 0)).relu()
    for block in range(2):
        place = f"{TRUNK}.shared_nonlocal.{block}"
        x = non_local(state, x, place)
        names = [f"{place}.ffconv.bottleneck.{i}" for i in (0, 1, 3, 4, 6, 7)]
        x = bottleneck(x, state, names[0::2], names[1::2])
    return x.mean(dim=(2, 3))


def non_local(state: State, x: Tensor, place: str) -> Tensor:
    """Four groups of consecutive channels; f = θᵀφ / 49, y = f g, z = relu(BN(W y) + x)."""
    g, theta, phi = (conv(x, state, f"{place}.{n}").flatten(2) for n in ("g", "theta", "phi"))
    groups = []
    for one_g, one_theta, one_phi in zip(
        g.chunk(4, 1), theta.chunk(4, 1), phi.chunk(4, 1), strict=True
    ):
        affinity = torch.einsum("nci,ncj->nij", one_theta, one_phi) / 49
        groups.append(torch.einsum("nij,ncj->nci", affinity, one_g))
    y = torch.cat(groups, 1).reshape(len(x), -1, 7, 7)
    y = batch_norm(conv(y, state, f"{place}.W.0"), state, f"{place}.W.bn", 1e-5)
    return (y + x).relu()

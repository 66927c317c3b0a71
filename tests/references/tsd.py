"""A plain TSD in its authors' conventions (MMDetection 1): it detects from a file, and its losses.

Written from "Revisiting the Sibling Head in Object Detector" and a list of conventions, slowly and
plainly, without dhcli's code. Boxes include their maximum: the width is x2 − x1 + 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.references.mmdet import Found, prepare
from tests.references.network import (
    STRIDES,
    Boxes,
    State,
    conv,
    fully_connected,
    nms,
    read_grid,
    softmax,
)

HEAD = "bbox_head"
GAMMA = 0.1
STDS = (0.1, 0.1, 0.2, 0.2)
MARGIN = 0.3
LIMIT = math.log(1000 / 16)


def detect(
    state: State, image: NDArray[np.uint8], short: int, long: int, *, most: int = 1000
) -> Found:
    """Label (0 … K-1), score and x, y, x + w, y + h of each detection, w and h as JSON has them.

    `image` is (H, W, 3) RGB; `most` proposals.
    """
    height, width = image.shape[:2]
    levels, size = prepare(state, image, short, long)
    proposals = torch.from_numpy(propose(state, levels, size, most)).float()
    logits, deltas, moved = zip(
        *(read_disentangled(state, levels, 0, box) for box in proposals), strict=True
    )
    scores = softmax(torch.stack(logits))
    factor = min(long / max(height, width), short / min(height, width))
    every, found = torch.stack(deltas), []
    for label in range(1, scores.shape[1]):
        own = every[:, 4 * label : 4 * label + 4] * torch.tensor(STDS)
        boxes = clip(decode(torch.stack(moved), own).double().numpy(), size) / factor
        rows = np.flatnonzero(scores[:, label] > 0.05)
        at, best = boxes[rows], scores[rows, label]
        for i in nms(at, best, 0.5, 1):
            x1, y1, x2, y2 = at[i]
            w, h = x2 - x1 + 1, y2 - y1 + 1
            found.append((label - 1, float(best[i]), [x1, y1, x1 + w, y1 + h]))
    return sorted(found, key=lambda one: -one[1])[:100]


def anchors_of(height: int, width: int, stride: int) -> Boxes:
    """Scale 8; ratios h/w; centred on (stride − 1) / 2, corners rounded."""
    every = []
    centre = (stride - 1) / 2
    for y in range(height):
        for x in range(width):
            for ratio in (0.5, 1.0, 2.0):
                w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                cell = [centre - (w - 1) / 2, centre - (h - 1) / 2]
                cell += [centre + (w - 1) / 2, centre + (h - 1) / 2]
                shift = [x * stride, y * stride] * 2
                every.append([round(c) + s for c, s in zip(cell, shift, strict=True)])
    return np.array(every, np.float64)


def decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    w, h = boxes[:, 2] - boxes[:, 0] + 1, boxes[:, 3] - boxes[:, 1] + 1
    cx = (boxes[:, 0] + boxes[:, 2]) / 2 + deltas[:, 0] * w
    cy = (boxes[:, 1] + boxes[:, 3]) / 2 + deltas[:, 1] * h
    w, h = w * deltas[:, 2].clamp(-LIMIT, LIMIT).exp(), h * deltas[:, 3].clamp(-LIMIT, LIMIT).exp()
    low = [cx - w / 2 + 0.5, cy - h / 2 + 0.5]
    return torch.stack([*low, cx + w / 2 - 0.5, cy + h / 2 - 0.5], dim=1)


def encode(box: Tensor, goal: Tensor) -> Tensor:
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    gw, gh = goal[2] - goal[0] + 1, goal[3] - goal[1] + 1
    dx = ((goal[0] + goal[2]) / 2 - (box[0] + box[2]) / 2) / w
    dy = ((goal[1] + goal[3]) / 2 - (box[1] + box[3]) / 2) / h
    return torch.stack([dx, dy, (gw / w).log(), (gh / h).log()]) / box.new_tensor(STDS)


def clip(boxes: Boxes, size: tuple[int, int]) -> Boxes:
    height, width = size
    return np.clip(boxes, 0, [width - 1, height - 1, width - 1, height - 1])


def propose(state: State, levels: list[Tensor], size: tuple[int, int], most: int) -> Boxes:
    """The best 1000 of each level, decoded, clipped; NMS a level; the best `most` of all."""
    every = []
    for level, stride in zip(levels, STRIDES, strict=True):
        x = conv(level, state, "rpn_head.rpn_conv").relu()
        logits = read_grid(conv(x, state, "rpn_head.rpn_cls"), 1)[:, 0]
        deltas = read_grid(conv(x, state, "rpn_head.rpn_reg"), 4)
        best = np.argsort(-logits, kind="stable")[:1000]
        anchors = anchors_of(level.shape[2], level.shape[3], stride)[best]
        found = decode(torch.from_numpy(anchors), torch.from_numpy(deltas[best])).numpy()
        boxes, scores = clip(found, size), 1 / (1 + np.exp(-logits[best]))
        every += [(scores[i], boxes[i]) for i in nms(boxes, scores, 0.7, 1)[:1000]]
    every.sort(key=lambda pair: -pair[0])
    return np.array([box for _, box in every[:most]])


def level_of(box: Tensor) -> int:
    area = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1)).item()
    return min(max(math.floor(math.log2(math.sqrt(area) / 56 + 1e-6)), 0), 3)


def pool(levels: list[Tensor], image: int, box: Tensor) -> Tensor:
    """The first RoIAlign: 7 × 7 cells of 2 × 2 samples, not aligned, the last pixel included."""
    level = level_of(box)
    feature = levels[level][image]
    axes = []
    for axis, length in ((1, feature.shape[1]), (0, feature.shape[2])):
        start, end = box[axis] / STRIDES[level], (box[axis + 2] + 1) / STRIDES[level]
        number = torch.arange(14).to(box) + 0.5
        at = start + number * (end - start) / 14
        axes.append((at.clamp(0, length - 1), (at >= -1) & (at <= length)))
    (y, in_y), (x, in_x) = axes
    grid = torch.meshgrid(y, x, indexing="ij")
    values = bilinear(feature, *grid) * (in_y[:, None] & in_x[None])
    return F.avg_pool2d(values[None], 2)[0]


def bilinear(feature: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """The map (C, h, w) at some places within it: (C, …)."""
    top, left = y.detach().floor(), x.detach().floor()
    fy, fx = y - top, x - left
    top, left = top.long(), left.long()
    under = (top + 1).clamp(max=feature.shape[1] - 1)
    right = (left + 1).clamp(max=feature.shape[2] - 1)
    above = feature[:, top, left] * (1 - fx) + feature[:, top, right] * fx
    below = feature[:, under, left] * (1 - fx) + feature[:, under, right] * fx
    return above * (1 - fy) + below * fy


def half_up(x: Tensor) -> Tensor:
    """To whole numbers, halves away from zero."""
    return torch.where(x < 0, -(-x + 0.5).floor(), (x + 0.5).floor())


def deformed(levels: list[Tensor], image: int, box: Tensor, offset: Tensor) -> Tensor:
    """Deformable RoI pooling: 7 × 7 cells of 4 × 4 samples, each moved by `offset` (2, 7, 7)."""
    level = level_of(box)
    feature, stride = levels[level][image], STRIDES[level]
    places, inside = [], torch.ones(7, 7, 4, 4, dtype=torch.bool)
    for axis in (1, 0):
        length = feature.shape[2 - axis]
        start = half_up(box[axis]) / stride - 0.5
        side = ((half_up(box[axis + 2]) + 1) / stride - 0.5 - start).clamp(min=0.1)
        cell = torch.arange(7).to(box) * side / 7
        sample = torch.arange(4).to(box) * side / 28
        at = start + GAMMA * offset[axis] * side
        if axis == 1:
            at = (at + cell[:, None])[:, :, None, None] + sample[:, None]
        else:
            at = (at + cell[None])[:, :, None, None] + sample[None]
        at = at.expand(7, 7, 4, 4)
        inside = inside & (at >= -0.5) & (at <= length - 0.5)
        places.append(at.clamp(0, length - 1))
    values = bilinear(feature, *places) * inside
    return values.sum((3, 4)) / inside.sum((2, 3)).clamp(min=1)


def moves(state: State, feature: Tensor) -> tuple[Tensor, Tensor]:
    """ΔC (2, 7, 7) and ΔR (2,), before γ."""
    shared = fully_connected(feature.flatten()[None], state, f"{HEAD}.shared_fc.0").relu()
    found = []
    for name in ("delta_c", "delta_r"):
        hidden = fully_connected(shared, state, f"{HEAD}.{name}.0").relu()
        found.append(fully_connected(hidden, state, f"{HEAD}.{name}.2")[0])
    return found[0].reshape(2, 7, 7), found[1]


def two_layers(state: State, feature: Tensor, name: str) -> Tensor:
    x = feature.flatten()[None]
    for layer in (0, 1):
        x = fully_connected(x, state, f"{HEAD}.{name}.{layer}").relu()
    return x


def read_disentangled(
    state: State, levels: list[Tensor], image: int, box: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (K+1,) from P_c, background first, deltas (4K+4,) from P_r, and P_r (4,)."""
    by_cells, as_whole = moves(state, pool(levels, image, box))
    x = two_layers(state, deformed(levels, image, box, by_cells), "TSD_pc_fcs")
    logits = fully_connected(x, state, f"{HEAD}.TSD_fc_cls")[0]
    shift = as_whole[:, None, None].expand(2, 7, 7)
    x = two_layers(state, deformed(levels, image, box, shift), "TSD_pr_fcs")
    deltas = fully_connected(x, state, f"{HEAD}.TSD_fc_reg")[0]
    w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
    dx, dy = GAMMA * as_whole[0] * w, GAMMA * as_whole[1] * h
    return logits, deltas, box + torch.stack([dx, dy, dx, dy])


def read_sibling(
    state: State, levels: list[Tensor], image: int, box: Tensor
) -> tuple[Tensor, Tensor]:
    x = two_layers(state, pool(levels, image, box), "shared_fcs")
    logits, deltas = (fully_connected(x, state, f"{HEAD}.{n}")[0] for n in ("fc_cls", "fc_reg"))
    return logits, deltas


def iou(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    common = (high - low + 1).clamp(min=0).prod()
    areas = (a[2:] - a[:2] + 1).prod() + (b[2:] - b[:2] + 1).prod()
    return common / (areas - common)


def losses(
    state: State,
    levels: list[Tensor],
    proposals: list[Tensor],
    objects: list[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """The parts of the loss, if every box is in the sample; labels are 1 … K.

    in   proposals  (n, 4) of each image;  objects  boxes (M, 4) and labels (M,) of each
    """
    sums = {name: levels[0].new_zeros(()) for name in ("cls", "reg", "tsd_cls", "tsd_reg")}
    margins: dict[str, list[Tensor]] = {"m_cls": [], "m_loc": []}
    count = 0
    for image, (given, (truth, labels)) in enumerate(zip(proposals, objects, strict=True)):
        of_image: dict[str, list[Tensor]] = {"m_cls": [], "m_loc": []}
        for box in [*truth, *given]:
            count += 1
            overlaps = [iou(box, one) for one in truth]
            best = int(torch.stack(overlaps).argmax()) if overlaps else 0
            is_object = bool(overlaps) and overlaps[best] >= 0.5
            y = int(labels[best]) if is_object else 0
            logits, deltas = read_sibling(state, levels, image, box)
            own_logits, own_deltas, moved = read_disentangled(state, levels, image, box)
            sums["cls"] = sums["cls"] - logits.log_softmax(0)[y]
            sums["tsd_cls"] = sums["tsd_cls"] - own_logits.log_softmax(0)[y]
            p, q = own_logits.softmax(0)[y], logits.softmax(0)[y].detach()
            of_image["m_cls"].append(margin(p, q))
            if not is_object:
                continue
            ious = []
            for name, start, said in (("reg", box, deltas), ("tsd_reg", moved, own_deltas)):
                four, goal = said[4 * y : 4 * y + 4], truth[best]
                off = (four - encode(start, goal)).abs()
                sums[name] = sums[name] + torch.where(off < 1, off**2 / 2, off - 0.5).sum()
                box_of = decode(start[None], (four * four.new_tensor(STDS))[None])[0]
                ious.append(iou(box_of, goal))
            of_image["m_loc"].append(margin(ious[1], ious[0].detach()))
        for name, found in of_image.items():
            # an image without objects: one zero, and nothing of its background either
            margins[name] += found if of_image["m_loc"] else [levels[0].new_zeros(())]
    means = {name: total / count for name, total in sums.items()}
    return means | {name: torch.stack(found).mean() for name, found in margins.items()}


def margin(own: Tensor, other: Tensor) -> Tensor:
    return (other - own + (1 - other).clamp(max=MARGIN)).relu()

"""Plain DETR and Deformable DETR in MMDetection's conventions, from the tensors of a checkpoint.

Written from the facts and the papers, one image at a time, without any of dhcli's code and without
transformers. Works in the dtype of the tensors; the backbone is a ResNet-18.
"""

from __future__ import annotations

import math
from itertools import permutations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.references.network import State, batch_norm, conv
from tests.references.sparse_rcnn import generalized, linear, norm, normalise

Found = list[tuple[int, float, list[float]]]
Layer = tuple[Tensor, Tensor]
HEADS, POINTS = 8, 4
QUERIES = 12
"""Of a two-stage one, whose tensors do not tell."""


def detect(state: State, image: NDArray[np.uint8], short: int, long: int, most: int) -> Found:
    """Label, score and xyxy in pixels of `image` (H, W, 3) RGB of each detection."""
    height, width = image.shape[:2]
    scale = min(long / max(height, width), short / min(height, width))
    new_w, new_h = int(width * scale + 0.5), int(height * scale + 0.5)
    resized = cv2.resize(image[:, :, ::-1], (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(np.ascontiguousarray(resized[:, :, ::-1])).permute(2, 0, 1)[None]
    logits, boxes = layers(state, normalise(pixels.float()), (new_h, new_w))[-1]
    every = []
    for query in range(len(boxes)):
        cx, cy, w, h = boxes[query].tolist()
        corners = [(cx - w / 2) * new_w, (cy - h / 2) * new_h, (cx + w / 2) * new_w,
                   (cy + h / 2) * new_h]  # fmt: skip
        clipped = [
            min(max(x, 0), side) for x, side in zip(corners, (new_w, new_h) * 2, strict=True)
        ]
        sides = (new_w / width, new_h / height) * 2
        box = [x / side for x, side in zip(clipped, sides, strict=True)]
        if "bbox_head.fc_cls.weight" in state:
            scores = logits[query].softmax(0)[:-1].tolist()
            label = int(np.argmax(scores))
            every.append((label, scores[label], box))
        else:
            every += [(k, s, box) for k, s in enumerate(logits[query].sigmoid().tolist())]
    return sorted(every, key=lambda one: -one[1])[:most]


def layers(state: State, x: Tensor, size: tuple[int, int]) -> list[Layer]:
    """Logits (N, K) or (N, K + 1), boxes (N, 4) cxcywh in 0…1 of each layer of the decoder.

    Of a two-stage one what the cells say comes before.

    in   x  (1, 3, H, W), zero beyond `size`, height and width
    """
    features = resnet18(x, state)
    if "bbox_head.fc_cls.weight" in state:
        return plain(state, conv(features[3], state, "neck.convs.0.conv"), x, size)
    levels = [mapped(c, state, f"neck.convs.{i}") for i, c in enumerate(features[1:])]
    levels.append(mapped(features[3], state, "neck.extra_convs.0", stride=2))
    return deformable(state, levels, x, size)


def resnet18(x: Tensor, state: State) -> list[Tensor]:
    """C2 … C5."""

    def unit(x: Tensor, conv_name: str, bn_name: str, stride: int = 1) -> Tensor:
        x = conv(x, state, f"backbone.{conv_name}", stride)
        return batch_norm(x, state, f"backbone.{bn_name}", 1e-5)

    x = F.max_pool2d(unit(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    features = []
    for stage in range(1, 5):
        for block in range(2):
            place, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = unit(x, f"{place}.conv1", f"{place}.bn1", stride).relu()
            y = unit(y, f"{place}.conv2", f"{place}.bn2")
            if stage > 1 and block == 0:
                x = unit(x, f"{place}.downsample.0", f"{place}.downsample.1", stride)
            x = (x + y).relu()
        features.append(x)
    return features


def mapped(x: Tensor, state: State, name: str, stride: int = 1) -> Tensor:
    """A convolution and group norm of 32 groups, one group after another."""
    x = conv(x, state, f"{name}.conv", stride)
    groups = []
    for group in x.chunk(32, dim=1):
        mean, var = group.mean(), group.var(unbiased=False)
        groups.append((group - mean) / (var + 1e-5).sqrt())
    weight, bias = (state[f"{name}.gn.{part}"][:, None, None] for part in ("weight", "bias"))
    return torch.cat(groups, dim=1) * weight + bias


def inside(level: Tensor, x: Tensor, size: tuple[int, int]) -> Tensor:
    """(h, w) bool: whether the pixel that is the nearest of a cell is of the image."""
    pixels = x.new_zeros(1, 1, *x.shape[-2:])
    pixels[:, :, : size[0], : size[1]] = 1
    return F.interpolate(pixels, size=level.shape[-2:])[0, 0] > 0


def positions(mask: Tensor, channels: int, offset: float, like: Tensor) -> Tensor:
    """Sines and cosines of y, then of x, (h · w, C)."""
    count = channels // 2
    rows = []
    for axis in (0, 1):
        place = mask.to(like).cumsum(axis)
        last = place[-1:, :] if axis == 0 else place[:, -1:]
        place = (place + offset) / (last + 1e-6) * 2 * math.pi
        waves = []
        for index in range(count):
            angle = place / 10000 ** (2 * (index // 2) / count)
            waves.append(angle.cos() if index % 2 else angle.sin())
        rows.append(torch.stack(waves, dim=-1))
    return torch.cat(rows, dim=-1).flatten(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, state: State, place: str, mask: Tensor) -> Tensor:
    """Queries (N, C) look at keys (S, C) of which `mask` (S,) are there."""
    weight, bias = state[f"{place}.in_proj_weight"], state[f"{place}.in_proj_bias"]
    q, k, v = (
        x @ w.T + b for x, w, b in zip((q, k, v), weight.chunk(3), bias.chunk(3), strict=True)
    )
    side = q.shape[1] // HEADS
    parts = []
    for head in range(HEADS):
        at = slice(head * side, (head + 1) * side)
        scores = q[:, at] @ k[:, at].T / math.sqrt(side)
        scores = torch.where(mask, scores, -torch.inf)
        parts.append(scores.softmax(dim=1) @ v[:, at])
    return linear(torch.cat(parts, dim=1), state, f"{place}.out_proj")


def feed(x: Tensor, state: State, place: str) -> Tensor:
    return linear(linear(x, state, f"{place}.layers.0.0").relu(), state, f"{place}.layers.1")


def count(state: State, part: str) -> int:
    return sum(f"{part}.layers.{i}.norms.0.weight" in state for i in range(20))


def plain(state: State, level: Tensor, x: Tensor, size: tuple[int, int]) -> list[Layer]:
    mask = inside(level, x, size)
    place = positions(mask, level.shape[1], 0.0, level)
    there = mask.flatten()
    memory = level[0].flatten(1).T
    for i in range(count(state, "encoder")):
        name = f"encoder.layers.{i}"
        q = memory + place
        memory = memory + attend(q, q, memory, state, f"{name}.self_attn.attn", there)
        memory = norm(memory, state, f"{name}.norms.0")
        memory = norm(memory + feed(memory, state, f"{name}.ffn"), state, f"{name}.norms.1")
    own = state["query_embedding.weight"]
    y, every = torch.zeros_like(own), []
    all_queries = torch.ones(len(own), dtype=torch.bool)
    for i in range(count(state, "decoder")):
        name = f"decoder.layers.{i}"
        q = y + own
        y = y + attend(q, q, y, state, f"{name}.self_attn.attn", all_queries)
        y = norm(y, state, f"{name}.norms.0")
        y = y + attend(y + own, memory + place, memory, state, f"{name}.cross_attn.attn", there)
        y = norm(y, state, f"{name}.norms.1")
        y = norm(y + feed(y, state, f"{name}.ffn"), state, f"{name}.norms.2")
        read = norm(y, state, "decoder.post_norm")
        inner = feed(read, state, "bbox_head.reg_ffn").relu()
        box = linear(inner, state, "bbox_head.fc_reg").sigmoid()
        every.append((linear(read, state, "bbox_head.fc_cls"), box))
    return every


def deformable(state: State, levels: list[Tensor], x: Tensor, size: tuple[int, int]) -> list[Layer]:
    masks = [inside(level, x, size) for level in levels]
    shapes = [tuple(mask.shape) for mask in masks]
    valid = [(m[0].sum().item() / m.shape[1], m[:, 0].sum().item() / m.shape[0]) for m in masks]
    there = torch.cat([mask.flatten() for mask in masks])
    place = torch.cat(
        [
            positions(mask, level.shape[1], -0.5, level) + state["level_embed"][i]
            for i, (mask, level) in enumerate(zip(masks, levels, strict=True))
        ]
    )
    memory = torch.cat([level[0].flatten(1).T for level in levels])
    centres = []
    for (h, w), (valid_x, valid_y) in zip(shapes, valid, strict=True):
        for row in range(h):
            for column in range(w):
                centres.append([(column + 0.5) / (valid_x * w), (row + 0.5) / (valid_y * h)])
    points = memory.new_tensor(centres)
    for i in range(count(state, "encoder")):
        name = f"encoder.layers.{i}"
        seen = sample(
            memory + place, points, memory, state, f"{name}.self_attn", shapes, valid, there
        )
        memory = norm(memory + seen, state, f"{name}.norms.0")
        memory = norm(memory + feed(memory, state, f"{name}.ffn"), state, f"{name}.norms.1")
    every = []
    if "pos_trans_fc.weight" in state:
        cells, own, y, reference = propose(state, memory, shapes, valid, there)
        every.append(cells)
    else:
        own, y = state["query_embedding.weight"].chunk(2, dim=1)
        reference = linear(own, state, "reference_points_fc").sigmoid()
    refined = not torch.equal(
        state["bbox_head.cls_branches.0.weight"], state["bbox_head.cls_branches.1.weight"]
    )
    all_queries = torch.ones(len(own), dtype=torch.bool)
    for i in range(count(state, "decoder")):
        name = f"decoder.layers.{i}"
        q = y + own
        y = y + attend(q, q, y, state, f"{name}.self_attn.attn", all_queries)
        y = norm(y, state, f"{name}.norms.0")
        seen = sample(y + own, reference, memory, state, f"{name}.cross_attn", shapes, valid, there)
        y = norm(y + seen, state, f"{name}.norms.1")
        y = norm(y + feed(y, state, f"{name}.ffn"), state, f"{name}.norms.2")
        moved = regress(y, state, i)
        start = (reference.clamp(min=1e-5) / (1 - reference).clamp(min=1e-5)).log()
        known = start.shape[1]
        box = torch.cat([moved[:, :known] + start, moved[:, known:]], dim=1).sigmoid()
        every.append((linear(y, state, f"bbox_head.cls_branches.{i}"), box))
        reference = box.detach() if refined else reference
    return every


def regress(y: Tensor, state: State, number: int) -> Tensor:
    for layer in (0, 2, 4):
        y = linear(y, state, f"bbox_head.reg_branches.{number}.{layer}")
        y = y if layer == 4 else y.relu()
    return y


def propose(
    state: State,
    memory: Tensor,
    shapes: list[tuple[int, ...]],
    valid: list[tuple[float, float]],
    there: Tensor,
) -> tuple[Layer, Tensor, Tensor, Tensor]:
    """What each cell says; positions, contents and boxes of the QUERIES best by the first class."""
    channels, last = memory.shape[1], count(state, "decoder")
    rows, starts, i = [], [], 0
    for level, ((h, w), (valid_x, valid_y)) in enumerate(zip(shapes, valid, strict=True)):
        for row in range(h):
            for column in range(w):
                x, y = (column + 0.5) / round(valid_x * w), (row + 0.5) / round(valid_y * h)
                own = [x, y, 0.05 * 2**level, 0.05 * 2**level]
                asked = bool(there[i]) and all(0.01 < number < 0.99 for number in own)
                starts.append([math.log(n / (1 - n)) if asked else math.inf for n in own])
                rows.append(memory[i] if asked else torch.zeros_like(memory[i]))
                i += 1
    cells = norm(linear(torch.stack(rows), state, "memory_trans_fc"), state, "memory_trans_norm")
    logits = linear(cells, state, f"bbox_head.cls_branches.{last}")
    boxes = (regress(cells, state, last) + memory.new_tensor(starts)).sigmoid()
    best = logits[:, 0].argsort(descending=True)[:QUERIES]
    places = []
    for box in boxes[best].detach().tolist():
        waves = []
        for number in box:
            for k in range(channels // 2):
                angle = number * 2 * math.pi / 10000 ** (2 * (k // 2) / (channels // 2))
                waves.append(math.cos(angle) if k % 2 else math.sin(angle))
        places.append(waves)
    read = linear(memory.new_tensor(places), state, "pos_trans_fc")
    position, content = norm(read, state, "pos_trans_norm").chunk(2, dim=1)
    return (logits, boxes), position, content, boxes[best].detach()


def sample(
    q: Tensor,
    points: Tensor,
    memory: Tensor,
    state: State,
    place: str,
    shapes: list[tuple[int, ...]],
    valid: list[tuple[float, float]],
    there: Tensor,
) -> Tensor:
    """What queries (N, C) see about their points (N, 2) or boxes (N, 4), in parts of the image."""
    value = linear(memory, state, f"{place}.value_proj") * there[:, None]
    offsets = linear(q, state, f"{place}.sampling_offsets")
    offsets = offsets.reshape(len(q), HEADS, len(shapes), POINTS, 2)
    weights = linear(q, state, f"{place}.attention_weights").reshape(len(q), HEADS, -1)
    weights = weights.softmax(-1).reshape(len(q), HEADS, len(shapes), POINTS)
    side = value.shape[1] // HEADS
    heads = []
    for head in range(HEADS):
        total, first = value.new_zeros(len(q), side), 0
        for level, ((h, w), (valid_x, valid_y)) in enumerate(zip(shapes, valid, strict=True)):
            grid = value[first : first + h * w, head * side : (head + 1) * side]
            first += h * w
            dx, dy = offsets[:, head, level].unbind(-1)  # (N, points)
            x, y = points[:, :1] * valid_x, points[:, 1:2] * valid_y
            if points.shape[1] == 2:
                x, y = x + dx / w, y + dy / h
            else:
                x = x + dx / POINTS * points[:, 2:3] * valid_x * 0.5
                y = y + dy / POINTS * points[:, 3:4] * valid_y * 0.5
            seen = bilinear(grid, h, w, x * w - 0.5, y * h - 0.5)
            total = total + (weights[:, head, level, :, None] * seen).sum(dim=1)
        heads.append(total)
    return linear(torch.cat(heads, dim=1), state, f"{place}.output_proj")


def bilinear(grid: Tensor, h: int, w: int, x: Tensor, y: Tensor) -> Tensor:
    """Of cells (h · w, c) at x, y (N, P), where cell centres are whole numbers; zero outside."""
    left, top = x.detach().floor(), y.detach().floor()
    total = grid.new_zeros(*x.shape, grid.shape[1])
    for column in (left, left + 1):
        for row in (top, top + 1):
            share = (1 - (x - column).abs()) * (1 - (y - row).abs())
            is_there = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            index = (row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long()
            total = total + (share * is_there)[..., None] * grid[index]
    return total


def losses(
    images: list[list[Layer]],
    sizes: list[tuple[int, int]],
    objects: list[tuple[Tensor, Tensor]],
    *,
    softmax: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores', L1 and GIoU losses of a batch over all layers, each layer matched anew.

    in   images  of each image what its layers say, and before them its cells: of any class as the
                 first;  sizes  height, width
         objects  of each image boxes (M, 4) xyxy pixels and labels (M,)
    """
    zero = images[0][0][0].sum() * 0
    scores, l1, giou = zero, zero, zero
    total = max(1, sum(len(labels) for _, labels in objects))
    for layer in range(len(images[0])):
        of_layer, weight = zero, 0.0
        for said, (height, width), (goals, labels) in zip(images, sizes, objects, strict=True):
            logits, boxes = said[layer]
            side = goals.new_tensor([width, height, width, height])
            first = len(logits) != len(images[0][-1][0])  # of the cells
            named = torch.zeros_like(labels) if first else labels
            pairs = match(logits.detach(), boxes.detach(), goals, named, side, softmax)
            given = dict(pairs)
            for query in range(len(logits)):
                mine = int(named[given[query]]) if query in given else None
                part, share = score_loss(logits[query], mine, softmax)
                of_layer, weight = of_layer + part, weight + share
            for query, m in pairs:
                l1 = l1 + (boxes[query] - middle(goals[m] / side)).abs().sum()
                giou = giou + 1 - generalized(corners(boxes[query]) * side, goals[m])
        scores = scores + (of_layer / weight if softmax else 2 * of_layer / total)
    return scores, 5 * l1 / total, 2 * giou / total


def score_loss(logits: Tensor, mine: int | None, softmax: bool) -> tuple[Tensor, float]:
    """Of one query: its loss, and what it weighs in the mean."""
    if softmax:
        share = 0.1 if mine is None else 1.0
        return -share * logits.log_softmax(0)[len(logits) - 1 if mine is None else mine], share
    total = logits.sum() * 0
    for label in range(len(logits)):
        p = logits[label].sigmoid()
        right = label == mine
        total = total - (0.25 * (1 - p) ** 2 * p.log() if right else 0.75 * p**2 * (1 - p).log())
    return total, 0.0


def match(
    logits: Tensor, boxes: Tensor, goals: Tensor, labels: Tensor, side: Tensor, softmax: bool
) -> list[tuple[int, int]]:
    """Every way to give each object a query of its own is tried: the cheapest."""
    cost = np.zeros((len(boxes), len(goals)))
    for i in range(len(boxes)):
        for m in range(len(goals)):
            if softmax:
                cls = -logits[i].softmax(0)[labels[m]].item()
            else:
                p = logits[i, labels[m]].sigmoid().item()
                yes = -math.log(p + 1e-12) * 0.25 * (1 - p) ** 2
                cls = 2 * (yes + math.log(1 - p + 1e-12) * 0.75 * p**2)
            far = (boxes[i] - middle(goals[m] / side)).abs().sum().item()
            overlap = generalized(corners(boxes[i]) * side, goals[m]).item()
            cost[i, m] = cls + 5 * far - 2 * overlap
    ways = permutations(range(len(boxes)), len(goals))
    best = min(ways, key=lambda way: sum(cost[i, m] for m, i in enumerate(way)))
    return [(i, m) for m, i in enumerate(best)]


def corners(box: Tensor) -> Tensor:
    return torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def middle(box: Tensor) -> Tensor:
    return torch.cat([(box[:2] + box[2:]) / 2, box[2:] - box[:2]])

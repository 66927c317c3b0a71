"""Plain ATSS, PAA, VarifocalNet and YOLOF in MMDetection's conventions, from their checkpoints.

Written from the facts and the papers, slowly, without any of dhcli's code. Works in the dtype of
the tensors.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.references import assigners
from tests.references.network import Boxes, State, batch_norm, conv, nms, pad_to_32, resnet50

Found = list[tuple[int, float, list[float]]]
STRIDES = (8, 16, 32, 64, 128)
HEAD = "bbox_head"
CAFFE = {"yolof": [103.53, 116.28, 123.675], "fcos": [102.9801, 115.9465, 122.7717]}
"""Mean of BGR, of those whose backbone is Caffe's."""
GROUPS = 32


class Level(NamedTuple):
    """What is said of one level: priors (n, 4) xyxy, class logits (n, K), boxes (n, 4), and the
    logit of a quality (n,) or the boxes before they were refined (n, 4); deltas (n, 4)."""

    priors: Tensor
    logits: Tensor
    boxes: Tensor
    quality: Tensor | None = None
    first: Tensor | None = None
    raw: Tensor | None = None


def normalise(kind: str, pixels: Tensor) -> Tensor:
    """RGB (B, 3, H, W) as the network sees it."""
    if kind in CAFFE:
        return pixels.flip(1) - torch.tensor(CAFFE[kind])[:, None, None].to(pixels)
    mean, std = (
        torch.tensor(values)[:, None, None].to(pixels)
        for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    return (pixels - mean) / std


def run(kind: str, state: State, x: Tensor) -> list[Level]:
    """What is said of a padded image (1, 3, H, W)."""
    caffe = kind in CAFFE
    features = resnet50(x, state, "backbone.{}".format, stride_in_1x1=caffe, eps=1e-5)
    if kind == "yolof":
        return [yolof(encode(features[-1], state), state)]
    levels = fpn(features[1:], state, relu=kind in ("vfnet", "fcos"))
    side = {"vfnet": varifocal, "retinanet": retina, "fcos": fcos}.get(kind, atss)
    return [side(level, state, number) for number, level in enumerate(levels)]


def fpn(features: list[Tensor], state: State, *, relu: bool) -> list[Tensor]:
    merged = [conv(c, state, f"neck.lateral_convs.{i}.conv") for i, c in enumerate(features)]
    for i in (1, 0):
        up = merged[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        merged[i] = merged[i] + up[:, :, : merged[i].shape[2], : merged[i].shape[3]]
    levels = [conv(p, state, f"neck.fpn_convs.{i}.conv") for i, p in enumerate(merged)]
    on_input = state["neck.fpn_convs.3.conv.weight"].shape[1] == features[-1].shape[1]
    levels.append(conv(features[-1] if on_input else levels[-1], state, "neck.fpn_convs.3.conv", 2))
    before = levels[-1].relu() if relu else levels[-1]
    return [*levels, conv(before, state, "neck.fpn_convs.4.conv", 2)]


def group_norm(x: Tensor, state: State, name: str) -> Tensor:
    groups = min(GROUPS, x.shape[1] // 2)  # of narrow ones, which MMDetection has not, two each
    parts = x.reshape(x.shape[0], groups, -1)
    mean, var = parts.mean(2, keepdim=True), parts.var(2, unbiased=False, keepdim=True)
    x = ((parts - mean) / (var + 1e-5).sqrt()).reshape(x.shape)
    return x * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]


def unit(x: Tensor, state: State, place: str) -> Tensor:
    x = conv(x, state, f"{place}.conv")
    if f"{place}.conv.bias" in state:
        return x.relu()
    if f"{place}.gn.weight" in state:
        return group_norm(x, state, f"{place}.gn").relu()
    return batch_norm(x, state, f"{place}.bn", 1e-5).relu()


def tower(x: Tensor, state: State, name: str) -> Tensor:
    number = 0
    while f"{HEAD}.{name}.{number}.conv.weight" in state:
        x = unit(x, state, f"{HEAD}.{name}.{number}")
        number += 1
    return x


def grid(x: Tensor, numbers: int) -> Tensor:
    """(1, A·numbers, h, w) as (h·w·A, numbers): row, column, prior."""
    priors, height, width = x.shape[1] // numbers, x.shape[2], x.shape[3]
    return x[0].reshape(priors, numbers, height, width).permute(2, 3, 0, 1).reshape(-1, numbers)


def squares(x: Tensor, stride: int, sides: list[int]) -> Tensor:
    """About (x · stride, y · stride)."""
    every = [
        [c * stride - side / 2, r * stride - side / 2, c * stride + side / 2, r * stride + side / 2]
        for r in range(x.shape[2])
        for c in range(x.shape[3])
        for side in sides
    ]
    return torch.tensor(every).to(x)


def delta(priors: Tensor, d: Tensor, *, stds: list[float], yolof: bool = False) -> Tensor:
    limit = math.log(1000 / 16)
    d = d * d.new_tensor(stds)
    size = priors[:, 2:] - priors[:, :2]
    shift = d[:, :2] * size
    shift = shift.clamp(-32, 32) if yolof else shift
    growth = d[:, 2:].clamp(max=limit) if yolof else d[:, 2:].clamp(-limit, limit)
    centre = (priors[:, :2] + priors[:, 2:]) / 2 + shift
    half = size * growth.exp() / 2
    return torch.cat([centre - half, centre + half], dim=1)


def atss(x: Tensor, state: State, number: int) -> Level:
    on_cls, on_reg = tower(x, state, "cls_convs"), tower(x, state, "reg_convs")
    logits = grid(conv(on_cls, state, f"{HEAD}.atss_cls"), len(state[f"{HEAD}.atss_cls.bias"]))
    reg = conv(on_reg, state, f"{HEAD}.atss_reg") * state[f"{HEAD}.scales.{number}.scale"]
    quality = grid(conv(on_reg, state, f"{HEAD}.atss_centerness"), 1)[:, 0]
    priors = squares(x, STRIDES[number], [8 * STRIDES[number]])
    return Level(priors, logits, delta(priors, grid(reg, 4), stds=[0.1, 0.1, 0.2, 0.2]), quality)


def retina(x: Tensor, state: State, number: int) -> Level:
    on_cls, on_reg = tower(x, state, "cls_convs"), tower(x, state, "reg_convs")
    reg = grid(conv(on_reg, state, f"{HEAD}.retina_reg"), 4)
    logits = conv(on_cls, state, f"{HEAD}.retina_cls")
    logits = grid(logits, logits.shape[1] // 9)
    stride, rows = STRIDES[number], []
    for r in range(x.shape[2]):
        for c in range(x.shape[3]):
            for ratio in (0.5, 1, 2):
                for n in range(3):
                    side = 4 * 2 ** (n / 3) * stride
                    w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
                    rows.append([c * stride - w / 2, r * stride - h / 2,
                                 c * stride + w / 2, r * stride + h / 2])  # fmt: skip
    priors = torch.tensor(rows, dtype=x.dtype)
    return Level(priors, logits, delta(priors, reg, stds=[1.0] * 4), raw=reg)


def fcos(x: Tensor, state: State, number: int) -> Level:
    on_cls, on_reg = tower(x, state, "cls_convs"), tower(x, state, "reg_convs")
    logits = conv(on_cls, state, f"{HEAD}.conv_cls")
    quality = grid(conv(on_cls, state, f"{HEAD}.conv_centerness"), 1)[:, 0]
    reg = conv(on_reg, state, f"{HEAD}.conv_reg") * state[f"{HEAD}.scales.{number}.scale"]
    points = squares(x, STRIDES[number], [STRIDES[number]]) + STRIDES[number] / 2
    boxes = around(points, grid(reg, 4).exp())
    return Level(points, grid(logits, logits.shape[1]), boxes, quality)


def varifocal(x: Tensor, state: State, number: int) -> Level:
    stride = STRIDES[number]
    on_cls, on_reg = tower(x, state, "cls_convs"), tower(x, state, "reg_convs")
    reg = conv(unit(on_reg, state, f"{HEAD}.vfnet_reg_conv"), state, f"{HEAD}.vfnet_reg")
    reach = (64, 128, 256, 512, 1024)[number]
    first = (state[f"{HEAD}.scales.{number}.scale"] * reg).exp() * reach
    seen = (0.9 * first.detach() + 0.1 * first)[0] / stride
    refined = star(on_reg, state[f"{HEAD}.vfnet_reg_refine_dconv.weight"], seen)
    more = conv(refined, state, f"{HEAD}.vfnet_reg_refine")
    final = first.detach() * (state[f"{HEAD}.scales_refine.{number}.scale"] * more).exp()
    scored = star(on_cls, state[f"{HEAD}.vfnet_cls_dconv.weight"], seen)
    logits = conv(scored, state, f"{HEAD}.vfnet_cls")
    priors = squares(x, stride, [8 * stride])
    boxes = [around(priors, grid(d, 4)) for d in (final, first)]
    return Level(priors, grid(logits, logits.shape[1]), boxes[0], first=boxes[1])


def around(priors: Tensor, d: Tensor) -> Tensor:
    centre = (priors[:, :2] + priors[:, 2:]) / 2
    return torch.cat([centre - d[:, :2], centre + d[:, 2:]], dim=1)


def star(x: Tensor, weight: Tensor, d: Tensor) -> Tensor:
    """Of features (1, C, h, w) at nine points of the boxes (4, h, w), in cells; then a ReLU."""
    height, width = x.shape[2:]
    y, x0 = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    left, top, right, bottom = d
    zero = torch.zeros_like(left)
    out = torch.zeros(len(weight), height, width).to(x)
    for i, dy in enumerate((-top, zero, bottom)):
        for j, dx in enumerate((-left, zero, right)):
            values = sample(x[0], y.to(x) + dy, x0.to(x) + dx)
            out = out + torch.einsum("oc,chw->ohw", weight[:, :, i, j], values)
    return out.relu()[None]


def sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Bilinear, zero outside: of (C, h, w) at points (h, w)."""
    height, width = x.shape[1:]
    total = torch.zeros_like(x)
    low_row, low_column = rows.detach().floor(), columns.detach().floor()
    for r in (0, 1):
        for c in (0, 1):
            row, column = low_row + r, low_column + c
            share = (1 - (rows - row).abs()) * (1 - (columns - column).abs())
            there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            at = row.clamp(0, height - 1).long(), column.clamp(0, width - 1).long()
            total = total + x[:, at[0], at[1]] * share * there
    return total


def encode(x: Tensor, state: State) -> Tensor:
    for name in ("lateral", "fpn"):
        x = batch_norm(conv(x, state, f"neck.{name}_conv"), state, f"neck.{name}_norm", 1e-5)
    for block, dilation in enumerate((2, 4, 6, 8)):
        place = f"neck.dilated_encoder_blocks.{block}"
        y = unit(x, state, f"{place}.conv1")
        weight = state[f"{place}.conv2.conv.weight"]
        y = F.conv2d(y, weight, padding=dilation, dilation=dilation)
        y = batch_norm(y, state, f"{place}.conv2.bn", 1e-5).relu()
        x = x + unit(y, state, f"{place}.conv3")
    return x


def yolof(x: Tensor, state: State) -> Level:
    on_cls, on_reg = tower(x, state, "cls_subnet"), tower(x, state, "bbox_subnet")
    anchors = len(state[f"{HEAD}.object_pred.bias"])
    c = conv(on_cls, state, f"{HEAD}.cls_score")
    c = grid(c, c.shape[1] // anchors)
    o = grid(conv(on_reg, state, f"{HEAD}.object_pred"), 1)
    logits = c + o - (1 + c.exp().clamp(max=1e8) + o.exp().clamp(max=1e8)).log()
    priors = squares(x, 32, [32, 64, 128, 256, 512])
    reg = grid(conv(on_reg, state, f"{HEAD}.bbox_pred"), 4)
    return Level(priors, logits, delta(priors, reg, stds=[1.0] * 4, yolof=True))


def detect(  # noqa: C901
    kind: str, state: State, image: NDArray[np.uint8], short: int, long: int
) -> Found:
    """Label, score and xyxy in pixels of `image` (H, W, 3) RGB of each detection."""
    height, width = image.shape[:2]
    scale = min(long / max(height, width), short / min(height, width))
    new_w, new_h = int(width * scale + 0.5), int(height * scale + 0.5)
    resized = cv2.resize(image[:, :, ::-1], (new_w, new_h), interpolation=cv2.INTER_LINEAR)
    pixels = torch.from_numpy(np.ascontiguousarray(resized[:, :, ::-1])).permute(2, 0, 1)[None]
    said = run(kind, state, pad_to_32(normalise(kind, pixels.float())))
    scores: list[tuple[float, float, int]] = []  # asked, final, class
    boxes: list[list[float]] = []
    for level in said:
        own: list[tuple[float, float, int, list[float]]] = []
        cells = []
        for i in range(len(level.boxes)):
            box = clip(level.boxes[i].tolist(), new_w, new_h)
            box = [box[side] * (width / new_w, height / new_h)[side % 2] for side in range(4)]
            cls = level.logits[i].sigmoid().tolist()
            q = 1.0 if level.quality is None else level.quality[i].sigmoid().item()
            final = [math.sqrt(p * q) if kind == "paa" else p * q for p in cls]
            cells.append((max(final), final, box))
            own += [
                (p, s, k, box) for k, (p, s) in enumerate(zip(cls, final, strict=True)) if p > 0.05
            ]
        own = sorted(own, key=lambda one: -one[0])[:1000]
        if kind == "paa":
            cells = sorted(cells, key=lambda cell: -cell[0])[:1000]
            own = [(s, s, k, b) for _, f, b in cells for k, s in enumerate(f) if s > 0.05]
        for asked, final_score, label, box in own:
            if box[2] > box[0] and box[3] > box[1]:
                scores.append((asked, final_score, label))
                boxes.append(box)
    every: Boxes = np.array(boxes).reshape(-1, 4)
    final_scores = np.array([s for _, s, _ in scores])
    labels = np.array([k for *_, k in scores])
    found: Found = []
    for label in set(labels.tolist()):
        rows = np.flatnonzero(labels == label)
        for i in nms(every[rows], final_scores[rows], LIMITS.get(kind, 0.6), 0):
            found.append((label, final_scores[rows[i]], every[rows[i]].tolist()))
    found = sorted(found, key=lambda one: -one[1])[:100]
    if kind != "paa":
        return found
    return [(k, s, vote(b, every[labels == k], final_scores[labels == k])) for k, s, b in found]


def clip(box: list[float], width: int, height: int) -> list[float]:
    limits = [width, height, width, height]
    return [min(max(side, 0.0), limit) for side, limit in zip(box, limits, strict=True)]


def vote(box: list[float], boxes: Boxes, scores: NDArray[np.float64]) -> list[float]:
    total, weights = np.zeros(4), 0.0
    for other, score in zip(boxes, scores, strict=True):
        overlap = assigners.iou(box, other.tolist())
        if overlap > 0.01:
            weight = math.exp(-((1 - overlap) ** 2) / 0.025) * score
            total, weights = total + weight * other, weights + weight
    return (total / weights).tolist()


def losses(  # noqa: C901
    kind: str,
    images: list[list[Level]],
    objects: list[tuple[Tensor, Tensor]],
    sizes: list[list[int]],
) -> dict[str, Tensor]:
    """Of a batch: `objects` are boxes (M, 4) and labels (M,) of each image; height and width."""
    owners, pairs = [], []
    for said, (goals, labels), size in zip(images, objects, sizes, strict=True):
        owner, own_pairs = assign_within(kind, said, goals, labels, size)
        owners.append(owner)
        pairs.append(own_pairs)
    positive = [sum(own >= 0 for own in owner) for owner in owners]
    zero = sum(level.boxes.sum() * 0 for said in images for level in said)
    cls, box, refined, quality, total, total_first = zero, zero, zero, zero, 0.0, 0.0
    for said, owner, own_pairs, (goals, labels) in zip(images, owners, pairs, objects, strict=True):
        logits, boxes = (torch.cat([getattr(level, name) for level in said]) for name in FIELDS)
        priors = torch.cat([level.priors for level in said])
        first = torch.cat([level.first for level in said]) if kind == "vfnet" else boxes
        for i in range(len(owner)):
            for k in range(logits.shape[1]):
                right = owner[i] >= 0 and labels[owner[i]] == k
                if kind == "vfnet":
                    q = overlap_of(boxes[i], goals[owner[i]]) if right else 0.0
                    cls = cls + varifocal_of(logits[i, k], q)
                elif owner[i] != assigners.IGNORED:
                    cls = cls + focal_of(logits[i, k], right)
        for i, m in own_pairs:
            overlap = overlap_of(boxes[i], goals[m])
            weight = {"paa": overlap, "vfnet": overlap_of(first[i], goals[m])}.get(kind, 1.0)
            if kind in ("atss", "fcos"):
                weight = central(priors[i].tolist(), goals[m].tolist())
            if kind == "retinanet":
                raw = torch.cat([level.raw for level in said])[i]
                box = box + (raw - deltas_of(priors[i], goals[m])).abs().sum()
            elif kind == "fcos":
                box = box - weight * iou_of(boxes[i], goals[m]).log()
            else:
                box = box + weight * (1 - giou_of(first[i], goals[m]))
            total_first += weight
            if kind == "vfnet":
                refined = refined + overlap * (1 - giou_of(boxes[i], goals[m]))
                total += overlap
            if kind in ("atss", "paa", "fcos"):
                logit = torch.cat([level.quality for level in said])[i]
                right = overlap if kind == "paa" else weight
                quality = quality - right * F.logsigmoid(logit) - (1 - right) * F.logsigmoid(-logit)
    each, at_least = sum(max(n, 1) for n in positive), max(sum(positive), 1)
    if kind in ("yolof", "retinanet"):
        return {"loss_cls": cls / each, "loss_box": box / each}
    if kind == "fcos":
        parts = {"loss_box": box / total_first, "loss_quality": quality / at_least}
        return {"loss_cls": cls / at_least, **parts}
    if kind == "atss":
        parts = {"loss_box": 2 * box / max(total_first, 1), "loss_quality": quality / each}
        return {"loss_cls": cls / each, **parts}
    if kind == "paa":
        cls = cls / max(sum(positive), len(images))
        quality = 0.5 * quality / at_least
        return {"loss_cls": cls, "loss_box": 1.3 * box / total_first, "loss_quality": quality}
    parts = {
        "loss_box": 1.5 * box / max(total_first, 1),
        "loss_refined": 2 * refined / max(total, 1),
    }
    return {"loss_cls": cls / at_least, **parts}


FIELDS = ("logits", "boxes")
LIMITS = {"retinanet": 0.5, "fcos": 0.5}
"""IoU of NMS, where it is not 0.6."""


def assign_within(
    kind: str, said: list[Level], goals: Tensor, labels: Tensor, size: list[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """As `assign`, of the cells that begin within the image's own padding to 32.

    VarifocalNet teaches the others the background, the rest nothing.
    """
    height, width = (math.ceil(side / 32) * 32 for side in size)
    if kind == "fcos":  # it asks every point
        return assign(kind, said, goals, labels)
    rows, own, first = [], [], 0
    for level in said:
        centres = ((level.priors[:, :2] + level.priors[:, 2:]) / 2).round(decimals=3)
        keep = [i for i, (x, y) in enumerate(centres.tolist()) if x < width and y < height]
        rows += [first + i for i in keep]
        own.append(Level(*(None if part is None else part[keep] for part in level)))
        first += len(centres)
    found, pairs = assign(kind, own, goals, labels)
    owner = [-1 if kind == "vfnet" else assigners.IGNORED] * first
    for i, m in zip(rows, found, strict=True):
        owner[i] = m
    return owner, [(rows[i], m) for i, m in pairs]


def assign(
    kind: str, said: list[Level], goals: Tensor, labels: Tensor
) -> tuple[list[int], list[tuple[int, int]]]:
    priors = [row for level in said for row in level.priors.tolist()]
    levels = [number for number, level in enumerate(said) for _ in level.priors]
    wanted = goals.tolist()
    logits, boxes = (
        torch.cat([getattr(level, name) for level in said]).detach() for name in FIELDS
    )
    if kind == "yolof":
        return assigners.uniform(priors, boxes.tolist(), wanted)
    if kind == "paa":
        costs = []
        for i in range(len(priors)):
            row = []
            for m in range(len(wanted)):
                focal = sum(
                    focal_of(logits[i, k], labels[m] == k).item() for k in range(logits.shape[1])
                )
                row.append(focal + 1.3 * (1 - assigners.giou(boxes[i].tolist(), wanted[m])))
            costs.append(row)
        owner = assigners.mixture(priors, levels, costs, wanted)
    elif kind == "retinanet":
        owner = assigners.by_iou(priors, wanted)
    elif kind == "fcos":
        owner = assigners.ranges(priors, [STRIDES[n] for n in levels], wanted, math.inf)
    else:
        owner = assigners.atss(priors, levels, wanted)
    return owner, [(i, m) for i, m in enumerate(owner) if m >= 0]


def overlap_of(box: Tensor, goal: Tensor) -> float:
    return max(assigners.iou(box.tolist(), goal.tolist()), 1e-6)


def central(prior: list[float], goal: list[float]) -> float:
    x, y = assigners.centre(prior)
    left, right, top, bottom = x - goal[0], goal[2] - x, y - goal[1], goal[3] - y
    sides = min(left, right) / max(left, right) * min(top, bottom) / max(top, bottom)
    return math.sqrt(sides)


def focal_of(logit: Tensor, right: bool | Tensor) -> Tensor:
    p = logit.sigmoid()
    if right:
        return -0.25 * (1 - p) ** 2 * F.logsigmoid(logit)
    return -0.75 * p**2 * F.logsigmoid(-logit)


def varifocal_of(logit: Tensor, q: float) -> Tensor:
    if q > 0:
        return -q * (q * F.logsigmoid(logit) + (1 - q) * F.logsigmoid(-logit))
    return -0.75 * logit.sigmoid() ** 2 * F.logsigmoid(-logit)


def deltas_of(prior: Tensor, goal: Tensor) -> Tensor:
    own, wanted = prior[2:] - prior[:2], goal[2:] - goal[:2]
    shift = (goal[:2] + goal[2:] - prior[:2] - prior[2:]) / 2 / own
    return torch.cat([shift, (wanted / own).log()])


def iou_of(a: Tensor, b: Tensor) -> Tensor:
    common = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    return common / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common)


def giou_of(a: Tensor, b: Tensor) -> Tensor:
    low, high = torch.maximum(a[:2], b[:2]), torch.minimum(a[2:], b[2:])
    common = (high - low).clamp(min=0).prod()
    union = (a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - common
    first, last = torch.minimum(a[:2], b[:2]), torch.maximum(a[2:], b[2:])
    around = (last - first).prod()
    return common / union - (around - union) / around

"""Soft-NMS: boxes that a better one overlaps lose score, not their place.

"Soft-NMS: Improving Object Detection With One Line of Code" (Bodla et al., 2017), with the
conventions of mmcv's kernel.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dhcli.ops.nms import Limits, move_groups, take_best

GONE = -1.0
"""Score of a box that was taken or dropped."""
TIDY = 32
"""Boxes taken before those that are gone are moved out of the way."""

Numbers: TypeAlias = NDArray[np.floating[Any]]


class Decay(NamedTuple):
    """How a score falls.

    method         linear: · (1 − IoU) from `iou_threshold` on;  gaussian: · exp(−IoU² / sigma)
    iou_threshold  IoU from which linear lowers a score
    sigma          of the gaussian
    min_score      a box goes when its score falls below this
    """

    method: Literal["linear", "gaussian"] = "linear"
    iou_threshold: float = 0.5
    sigma: float = 0.5
    min_score: float = 1e-3

    def factor(self, iou: Numbers) -> Numbers:
        """What a score is multiplied by, (n,) as `iou`."""
        if self.method == "gaussian":
            factor: Numbers = np.exp(-(iou * iou) / self.sigma)
            return factor
        return np.where(iou >= self.iou_threshold, 1 - iou, iou.dtype.type(1))

    def drops(self, scores: Numbers) -> NDArray[np.bool_]:
        """Which of `scores`, those that are GONE among them, have fallen too low, (n,)."""
        if self.min_score > 0:
            return scores < self.min_score
        return np.signbit(scores)  # GONE · 0 is −0, which is not below 0


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    decay: Decay,
    limits: Limits,
    *,
    how: str = "exact",
) -> tuple[Tensor, Tensor]:
    """Indices of the best boxes, best first, and the scores with what is left of theirs.

    Again and again the best box of a group that is left is taken, and the others of the group lose
    score by their overlap with it. Of equal scores the first box is taken. The arithmetic is
    float64, and with `how` mmdet that of mmcv: float32, on boxes moved to a place for each group.
    Always on the CPU, in memory that grows with N alone.

    in   boxes  (N, 4) float xyxy;  scores  (N,) float;  groups  (N,) int64 ≥ 0
    out  (n,) int64;  (N,) float, lowered at those
    """
    measured = move_groups(boxes, groups) if how == "mmdet" and len(boxes) else boxes.double()
    corners, start = measured.cpu().numpy(), scores.to(measured.dtype).cpu().numpy()
    wanted = limits.per_group or limits.most
    order, found = np.argsort(groups.cpu().numpy(), kind="stable"), []
    ends = np.flatnonzero(np.diff(groups.cpu().numpy()[order])) + 1
    for rows in np.split(order, ends):
        taken, left = _take(corners[rows], start[rows], decay, wanted)
        found.append((rows[taken], left))
    rows, left = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.argsort(-left, kind="stable")
    keep = torch.from_numpy(rows[best]).to(boxes.device)
    lowered = scores.index_put((keep,), torch.from_numpy(left[best]).to(scores))
    return take_best(keep, lowered, groups, limits), lowered


def _take(
    boxes: Numbers, scores: Numbers, decay: Decay, most: int
) -> tuple[NDArray[np.int64], Numbers]:
    """Boxes of one group in the order that they are taken, and their scores then.

    At most `most`, and those that score as high as the last of them: scores only fall, so that the
    later ones score no higher.
    """
    alive = np.flatnonzero(scores >= decay.min_score)
    rows, left = np.empty_like(alive), np.empty(len(alive), scores.dtype)
    sides = np.ascontiguousarray(boxes[alive].T)  # x1, y1, x2, y2 of those that may be left
    scores, count = scores[alive], 0
    while len(alive):
        best = int(scores.argmax())
        if scores[best] < 0 or (count >= most and scores[best] < left[most - 1]):
            break
        rows[count], left[count] = alive[best], scores[best]
        count += 1
        scores *= decay.factor(_overlap(sides, sides[:, best]))
        scores[best] = GONE
        scores[decay.drops(scores)] = GONE
        if count % TIDY == 0:
            stays = np.flatnonzero(scores >= 0)
            alive, scores, sides = alive[stays], scores[stays], sides.take(stays, axis=1)
    return rows[:count], left[:count]


def _overlap(sides: Numbers, box: Numbers) -> Numbers:
    """IoU (n,) of boxes, x1, y1, x2, y2 (4, n), with one (4,); 0 where both have no area."""
    x1, y1, x2, y2 = sides
    width = np.minimum(x2, box[2]) - np.maximum(x1, box[0])
    height = np.minimum(y2, box[3]) - np.maximum(y1, box[1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    union = (box[2] - box[0]) * (box[3] - box[1]) + (x2 - x1) * (y2 - y1) - common
    overlap: Numbers = common / np.where(union > 0, union, union.dtype.type(1))
    return overlap

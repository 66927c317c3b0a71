"""Which prior answers for which object, as the papers of dense detectors say it, one at a time.

Without any of dhcli's code. Boxes are lists of four numbers, xyxy. Each gives a list of the object
of each prior: its number, NOTHING or IGNORED.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Box = Sequence[float]
NOTHING = -1
IGNORED = -2


def iou(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = area(a) + area(b) - width * height
    return width * height / union if union > 0 else 0.0


def giou(a: Box, b: Box) -> float:
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = max(area(a) + area(b) - width * height, 1e-6)
    return width * height / union - (around - union) / max(around, 1e-6)


def area(a: Box) -> float:
    return max(0.0, a[2] - a[0]) * max(0.0, a[3] - a[1])


def centre(a: Box) -> tuple[float, float]:
    return (a[0] + a[2]) / 2, (a[1] + a[3]) / 2


def depth(point: tuple[float, float], box: Box) -> float:
    """Distance to the nearest side; negative outside."""
    x, y = point
    return min(x - box[0], box[2] - x, y - box[1], box[3] - y)


def hide(found: list[int], priors: Sequence[Box], ignore: Sequence[Box]) -> list[int]:
    """Background in a region to ignore is not taught."""
    return [
        IGNORED if own == NOTHING and any(depth(centre(p), r) > 0 for r in ignore) else own
        for own, p in zip(found, priors, strict=True)
    ]


def atss(
    priors: Sequence[Box], levels: Sequence[int], objects: Sequence[Box], k: int = 9
) -> list[int]:
    best = [(-1.0, NOTHING)] * len(priors)
    for number, box in enumerate(objects):
        cx, cy = centre(box)
        candidates: list[int] = []
        for level in sorted(set(levels)):
            own = [i for i, other in enumerate(levels) if other == level]
            own.sort(key=lambda i: math.dist(centre(priors[i]), (cx, cy)))
            candidates += own[:k]
        overlaps = np.array([iou(priors[i], box) for i in candidates])
        threshold = overlaps.mean() + (overlaps.std(ddof=1) if len(overlaps) > 1 else 0.0)
        for i, overlap in zip(candidates, overlaps, strict=True):
            good = overlap >= threshold and depth(centre(priors[i]), box) > 0.01
            if good and overlap > best[i][0]:
                best[i] = (float(overlap), number)
    return [number for _, number in best]


def by_iou(priors: Sequence[Box], objects: Sequence[Box]) -> list[int]:
    """RetinaNet's: 0.5 and above an object, below 0.4 nothing; each object has its best."""
    found = []
    best = [max(iou(prior, box) for prior in priors) for box in objects]
    for prior in priors:
        own = [iou(prior, box) for box in objects]
        most = max(own, default=0.0)
        found.append(own.index(most) if most >= 0.5 else IGNORED if most >= 0.4 else NOTHING)
        for number, overlap in enumerate(own):
            if overlap == best[number] > 0:
                found[-1] = number
    return found


def uniform(
    priors: Sequence[Box], predicted: Sequence[Box], objects: Sequence[Box], k: int = 4
) -> tuple[list[int], list[tuple[int, int]]]:
    """Also the pairs of a prior and an object whose boxes are taught, in the order written."""

    def apart(a: Box, b: Box) -> float:
        (ax, ay), (bx, by) = centre(a), centre(b)
        sizes = abs((a[2] - a[0]) - (b[2] - b[0])) + abs((a[3] - a[1]) - (b[3] - b[1]))
        return abs(ax - bx) + abs(ay - by) + sizes

    found = [IGNORED if any(iou(p, box) > 0.7 for box in objects) else NOTHING for p in predicted]
    pairs = []
    nearest = [
        [sorted(range(len(some)), key=lambda i: apart(some[i], box))[:k] for box in objects]
        for some in (predicted, priors)
    ]
    for rank in range(min(k, len(priors))):
        for side in nearest:
            for number, ranked in enumerate(side):
                i = ranked[rank]
                good = iou(priors[i], objects[number]) >= 0.15
                found[i] = number if good else IGNORED
                pairs += [(i, number)] if good else []
    return found, pairs


def ranges(
    priors: Sequence[Box],
    strides: Sequence[float],
    objects: Sequence[Box],
    radius: float = 1.5,
) -> list[int]:
    found = []
    for prior, stride in zip(priors, strides, strict=True):
        x, y = centre(prior)
        best, smallest = NOTHING, math.inf
        for number, box in enumerate(objects):
            cx, cy = centre(box)
            far = max(x - box[0], box[2] - x, y - box[1], box[3] - y)
            low = 0 if stride == min(strides) else 4 * stride
            high = math.inf if stride == max(strides) else 8 * stride
            near = max(abs(x - cx), abs(y - cy)) < radius * stride
            if near and depth((x, y), box) > 0 and low < far < high and area(box) < smallest:
                best, smallest = number, area(box)
        found.append(best)
    return found


def mixture(
    priors: Sequence[Box],
    levels: Sequence[int],
    losses: Sequence[Sequence[float]],
    objects: Sequence[Box],
    k: int = 9,
) -> list[int]:
    """`losses[i][m]`: what prior i would be taught by as object m."""
    owner = []
    for prior in priors:
        overlaps = [iou(prior, box) for box in objects]
        best = int(np.argmax(overlaps)) if overlaps else NOTHING
        owner.append(best if overlaps and overlaps[best] >= 0.1 else NOTHING)
    for number, box in enumerate(objects):
        most = max(iou(prior, box) for prior in priors)
        for i, prior in enumerate(priors):
            if most > 0 and iou(prior, box) == most:
                owner[i] = number
    found = [NOTHING] * len(priors)
    for number in range(len(objects)):
        chosen: list[tuple[float, int]] = []
        for level in sorted(set(levels)):
            own = [i for i in range(len(priors)) if owner[i] == number and levels[i] == level]
            chosen += sorted((losses[i][number], i) for i in own)[:k]
        chosen.sort()
        for position in split([loss for loss, _ in chosen]):
            found[chosen[position][1]] = number
    return found


def split(losses: Sequence[float]) -> list[int]:
    """scikit-learn's GaussianMixture(2) in one dimension, from the ends; positions of component 0
    up to and with the likeliest of them."""
    if len(losses) < 2:
        return []
    x = np.array(losses)
    mean, variance, weight = np.array([x[0], x[-1]]), np.ones(2), np.full(2, 0.5)

    def densities() -> np.ndarray:
        return np.stack(
            [
                np.log(weight[c])
                - 0.5 * (np.log(2 * np.pi * variance[c]) + (x - mean[c]) ** 2 / variance[c])
                for c in (0, 1)
            ]
        )

    before = -np.inf
    for _ in range(100):
        joint = densities()
        total = np.logaddexp(joint[0], joint[1])
        share = np.exp(joint - total)
        count = share.sum(axis=1) + 10 * np.finfo(float).eps
        mean = (share * x).sum(axis=1) / count
        variance = np.array([(share[c] * (x - mean[c]) ** 2).sum() / count[c] for c in (0, 1)])
        variance, weight = variance + 1e-6, count / count.sum()
        after = total.mean()
        if abs(after - before) < 1e-3:
            break
        before = after
    joint = densities()
    low = [i for i in range(len(x)) if joint[0][i] >= joint[1][i]]
    if not low:
        return []
    total = np.logaddexp(joint[0], joint[1])
    return low[: max(range(len(low)), key=lambda place: total[low[place]]) + 1]

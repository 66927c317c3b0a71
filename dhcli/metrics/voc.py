"""Pascal VOC average precision, as the development kit counts.

Each detection is compared with the object of its class that it overlaps most, taken or not. At an
IoU of at least the threshold the best-scored detection of an object is a hit and every further one
a false positive; on a difficult object a detection is neither. Below the threshold it is a false
positive.

VOC has no regions to ignore. Where the data has them (crowds, for their class; ignored regions and
KITTI's DontCare, for every class), a false positive whose area lies in one by at least the
threshold is forgiven.

The kit's boxes are inclusive and 1-based and their widths x2 - x1 + 1; ours are 0-based with an
exclusive maximum and their widths x2 - x1. These are the same widths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable, Flag
from dhcli.metrics.pair import check_classes, check_pair
from dhcli.metrics.result import ApResult, mean_of
from dhcli.ops.arrays import coverage, iou, is_first

Rule = Literal["voc07", "voc12"]

VOC_STATS = ("mAP",)


def voc_ap(
    truth: DetectionTable, found: DetectionTable, *, rule: Rule, iou_threshold: float = 0.5
) -> ApResult:
    """VOC's AP of each class, and their mean, mAP, over the classes that have objects.

    voc07  mean of the interpolated precision at the 11 recalls 0, .1 … 1
    voc12  area under the interpolated precision, at every recall
    Both tables have the same images and classes (see `match_classes`).
    """
    check_pair(truth, found)
    check_classes(truth, found)
    matches = _match(truth, found)
    average = _eleven_points if rule == "voc07" else _all_points
    per_class = {}
    for label, name in enumerate(truth.classes):
        hits, objects = _judge(truth, found, matches, label, iou_threshold)
        precision, recall = _curve(hits, objects)
        per_class[name] = {
            "AP": average(precision, recall) if objects else float("nan"),
            "recall": float(recall.max(initial=0)) if objects else float("nan"),
            "objects": objects,
            "detections": int(np.sum(found.labels == label)),
        }
    aps = np.array([columns["AP"] for columns in per_class.values()])
    return ApResult(stats={"mAP": mean_of(aps)}, per_class=per_class)


@dataclass(frozen=True)
class _Matches:
    """Of each of N detections, whatever the threshold.

    object   (N,) int64, row in the truth of the object overlapped most; -1 without any
    overlap  (N,) IoU with it
    covered  (N,) largest share of the detection that lies in one region that forgives it
    """

    object: NDArray[np.int64]
    overlap: NDArray[np.float64]
    covered: NDArray[np.float64]


def _match(truth: DetectionTable, found: DetectionTable) -> _Matches:
    count = len(found.boxes)
    matches = _Matches(np.full(count, -1, np.int64), np.zeros(count), np.zeros(count))
    of_no_class = truth.regions(crowds=False)
    is_object = ~truth.regions()
    for image in range(len(truth)):
        boxes, true = found.rows(image), truth.rows(image)
        if boxes.start == boxes.stop or true.start == true.stop:
            continue
        same = found.labels[boxes, None] == truth.labels[None, true]  # (D, M)
        ious = iou(found.boxes[boxes], truth.boxes[true])
        ious = np.where(same & is_object[true], ious, 0)
        matches.overlap[boxes] = ious.max(axis=1)
        nearest = ious.argmax(axis=1) + true.start
        matches.object[boxes] = np.where(matches.overlap[boxes] > 0, nearest, -1)
        shares = coverage(found.boxes[boxes], truth.boxes[true])
        forgives = ~is_object[true] & (same | of_no_class[true])
        matches.covered[boxes] = np.where(forgives, shares, 0).max(axis=1)
    return matches


def _judge(
    truth: DetectionTable, found: DetectionTable, matches: _Matches, label: int, threshold: float
) -> tuple[NDArray[np.bool_], int]:
    """The detections of one class that count, best first, True for a hit; and its objects."""
    difficult = truth.has(Flag.DIFFICULT)
    countable = (truth.labels == label) & ~truth.regions() & ~difficult
    mine = np.flatnonzero(found.labels == label)
    if found.scores is not None:
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
    target = np.where(matches.overlap[mine] >= threshold, matches.object[mine], -1)
    on_difficult = np.zeros(len(mine), np.bool_)
    on_difficult[target >= 0] = difficult[target[target >= 0]]
    hit = is_first(target) & (target >= 0) & ~on_difficult
    forgiven = on_difficult | (~hit & (matches.covered[mine] >= threshold))
    return hit[~forgiven], int(countable.sum())


def _curve(
    hits: NDArray[np.bool_], objects: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall (N,) after each detection, best first."""
    found = np.cumsum(hits).astype(np.float64)
    return found / np.arange(1, len(hits) + 1), found / max(objects, 1)


def _eleven_points(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    # k / 10 and not k * 0.1: a recall of 3 in 10 has reached 0.3.
    levels = np.arange(11) / 10
    return float(np.mean([precision[recall >= level].max(initial=0) for level in levels]))


def _all_points(precision: NDArray[np.float64], recall: NDArray[np.float64]) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))

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

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable
from dhcli.metrics.judge import judge_class, match
from dhcli.metrics.pair import check_classes, check_pair
from dhcli.metrics.result import ApResult, mean_of

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
    matches = match(truth, found)
    average = _eleven_points if rule == "voc07" else _all_points
    per_class = {}
    for label, name in enumerate(truth.classes):
        judged = judge_class(truth, found, matches, label, iou_threshold)
        objects = judged.objects
        precision, recall = _curve(judged.hits, objects)
        per_class[name] = {
            "AP": average(precision, recall) if objects else float("nan"),
            "recall": float(recall.max(initial=0)) if objects else float("nan"),
            "objects": objects,
            "detections": int(np.sum(found.labels == label)),
        }
    aps = np.array([columns["AP"] for columns in per_class.values()])
    return ApResult(stats={"mAP": mean_of(aps)}, per_class=per_class)


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

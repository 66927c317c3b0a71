"""COCO average precision: the twelve numbers, by hotcoco or by pycocotools.

Both engines get the same columns, numbered here from 1, so that what trips them up cannot reach
them: annotation id 0, gaps in ids, ids that are not known, absent areas, an empty list of
detections. Both fill the same arrays of precision and recall; the numbers are read off those, since
pycocotools' own summary is right for 100 detections an image only.

How the flags of a box are read, by this benchmark's rule:

- crowd: an ignored region of its class. A detection that no object takes is forgiven where its
  intersection with the region, over its own area, reaches the IoU threshold.
- ignored, or of no class (KITTI's DontCare): such a region for every class.
- difficult: COCO has no such notion; such a region of its class. It is neither an object to be
  found nor a mistake when found. (VOC's own rule is in `voc_ap`.)
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from dhcli.data.table import DetectionTable, Flag
from dhcli.metrics.pair import check_classes, check_pair
from dhcli.metrics.result import ApResult
from dhcli.ops.arrays import tidy

Engine = Literal["hotcoco", "pycocotools"]

COCO_STATS = (
    *("AP", "AP50", "AP75", "APs", "APm", "APl"),
    *("AR1", "AR10", "AR100", "ARs", "ARm", "ARl"),
)
"""The twelve numbers, in pycocotools' order."""

_IGNORED = Flag.CROWD | Flag.DIFFICULT


def coco_ap(
    truth: DetectionTable,
    found: DetectionTable,
    *,
    engine: Engine = "hotcoco",
    max_detections: int = 100,
) -> ApResult:
    """COCO's twelve numbers of `found` against `truth`, and each class's AP, AP50, AP75 and AR.

    Both tables have the same images and classes (see `match_classes`). A number without any object
    to be found is NaN. `max_detections` an image and class are judged; it takes the place of 100 in
    the name `AR100` too. An object's size (s, m, l) is its annotated area, else that of its box.
    """
    check_pair(truth, found)
    check_classes(truth, found)
    if max_detections < 1:
        raise ValueError(f"max_detections must be at least 1, got {max_detections}")
    limits = [1, min(10, max_detections), max_detections]
    number = _image_numbers(truth)
    with np.errstate(over="ignore"):  # a box may be as large as a file says
        objects, detections = _objects(truth, number), _detections(found, number)
    run = _run_hotcoco if engine == "hotcoco" else _run_pycocotools
    precision, recall = run(len(truth), len(truth.classes), objects, detections, limits)
    return ApResult(
        stats=_summarise(precision, recall, max_detections),
        per_class={
            name: _of_class(precision[:, :, k], recall[:, k], max_detections)
            | {
                "objects": int(np.sum((objects.category == k + 1) & ~objects.crowd)),
                "detections": int(np.sum(detections.category == k + 1)),
            }
            for k, name in enumerate(truth.classes)
        },
        precision=_whole(precision),
    )


@dataclass(frozen=True)
class _Columns:
    """Annotations as the engines want them, N rows; images and categories count from 1."""

    image: NDArray[np.int64]
    category: NDArray[np.int64]
    xywh: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    score: NDArray[np.float64]


def _image_numbers(truth: DetectionTable) -> NDArray[np.int64]:
    """(I,) 1…I in ascending order of the images' own ids: equal scores are judged in that order."""
    number = np.empty(len(truth), np.int64)
    number[np.argsort(truth.image_ids, kind="stable")] = np.arange(1, len(truth) + 1)
    return number


def _objects(truth: DetectionTable, number: NDArray[np.int64]) -> _Columns:
    """The truth's boxes; a region of no class stands once for every class."""
    region, count = truth.regions(crowds=False), len(truth.classes)
    plain, regions = np.flatnonzero(~region), np.flatnonzero(region)
    rows = np.concatenate([plain, np.repeat(regions, count)])
    every = np.tile(np.arange(count, dtype=np.int64), len(regions))
    xywh = _xywh(truth.boxes)
    areas = np.where(np.isnan(truth.areas), xywh[:, 2] * xywh[:, 3], truth.areas)
    return _Columns(
        image=number[truth.image_of_box[rows]],
        category=np.concatenate([truth.labels[plain].astype(np.int64), every]) + 1,
        xywh=xywh[rows],
        area=areas[rows],
        crowd=(region | truth.has(_IGNORED))[rows],
        score=np.zeros(len(rows)),
    )


def _detections(found: DetectionTable, number: NDArray[np.int64]) -> _Columns:
    xywh = _xywh(found.boxes)
    return _Columns(
        image=number[found.image_of_box],
        category=found.labels.astype(np.int64) + 1,
        xywh=xywh,
        area=xywh[:, 2] * xywh[:, 3],
        crowd=np.zeros(len(xywh), np.bool_),
        score=np.zeros(0) if found.scores is None else found.scores,
    )


def _xywh(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return tidy(np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]))


# The arrays of both engines, -1 where a class has no object of a size:
#   precision (T, R, K, A, L)   T IoU thresholds .5 … .95, R recalls 0 … 1, A sizes, L limits
#   recall    (T, K, A, L)
_Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]


def _run_hotcoco(
    images: int, classes: int, objects: _Columns, detections: _Columns, limits: list[int]
) -> _Arrays:
    import hotcoco

    truth = hotcoco.COCO.from_arrays(
        [{"id": i} for i in range(1, images + 1)],
        [{"id": k, "name": str(k)} for k in range(1, classes + 1)],
        objects.image,
        objects.category,
        objects.xywh,
        area=objects.area,
        iscrowd=objects.crowd,
    )
    rows = np.column_stack(
        [detections.image, detections.xywh, detections.score, detections.category]
    )
    judge = hotcoco.COCOeval(truth, truth.load_res(rows), "bbox")
    judge.params.max_dets = limits
    judge.evaluate()
    judge.accumulate()
    arrays = cast("dict[str, Any]", judge.eval)
    return arrays["precision"], arrays["recall"]


def _run_pycocotools(
    images: int, classes: int, objects: _Columns, detections: _Columns, limits: list[int]
) -> _Arrays:
    judge = _judge_by_pycocotools(images, classes, objects, detections, limits)
    with contextlib.redirect_stdout(io.StringIO()):
        judge.accumulate()
    return judge.eval["precision"], judge.eval["recall"]


def judge_by_pycocotools(truth: DetectionTable, found: DetectionTable, limit: int = 100) -> Any:
    """What COCOeval of pycocotools holds after its `evaluate` of `found`: who matched whom.

    Both tables have the same images and classes; images and categories count from 1, in the
    tables' order. `limit` detections an image and class are judged.
    """
    number = _image_numbers(truth)
    columns = _objects(truth, number), _detections(found, number)
    return _judge_by_pycocotools(len(truth), len(truth.classes), *columns, [limit])


def _judge_by_pycocotools(
    images: int, classes: int, objects: _Columns, detections: _Columns, limits: list[int]
) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    # `loadRes` fails on an empty list, so both sides are indexed by hand; what it prints belongs
    # neither on stdout nor on stderr.
    with contextlib.redirect_stdout(io.StringIO()):
        sides = [COCO(), COCO()]
        for side, columns in zip(sides, (objects, detections), strict=True):
            side.dataset = {
                "images": [{"id": i} for i in range(1, images + 1)],
                "categories": [{"id": k} for k in range(1, classes + 1)],
                "annotations": _annotations(columns),
            }
            side.createIndex()
        judge = COCOeval(*sides, "bbox")
        judge.params.maxDets = limits
        judge.evaluate()
    return judge


def _annotations(columns: _Columns) -> list[dict[str, Any]]:
    fields = {
        "id": range(1, len(columns.image) + 1),
        "image_id": columns.image.tolist(),
        "category_id": columns.category.tolist(),
        "bbox": columns.xywh.tolist(),
        "area": columns.area.tolist(),
        "iscrowd": columns.crowd.astype(int).tolist(),
        "score": columns.score.tolist(),
    }
    return [dict(zip(fields, row, strict=True)) for row in zip(*fields.values(), strict=True)]


def _summarise(
    precision: NDArray[np.float64], recall: NDArray[np.float64], max_detections: int
) -> dict[str, float]:
    best = precision[..., -1]  # (T, R, K, A)
    values = [_mean(best[..., 0]), _mean(best[0, ..., 0]), _mean(best[5, ..., 0])]
    values += [_mean(best[..., size]) for size in (1, 2, 3)]
    values += [_mean(recall[..., 0, limit]) for limit in range(3)]
    values += [_mean(recall[..., size, -1]) for size in (1, 2, 3)]
    names = [f"AR{max_detections}" if name == "AR100" else name for name in COCO_STATS]
    return dict(zip(names, values, strict=True))


def _of_class(
    precision: NDArray[np.float64], recall: NDArray[np.float64], max_detections: int
) -> dict[str, float]:
    """Of one class's precision (T, R, A, L) and recall (T, A, L)."""
    best = precision[..., 0, -1]
    return {
        "AP": _mean(best),
        "AP50": _mean(best[0]),
        "AP75": _mean(best[5]),
        f"AR{max_detections}": _mean(recall[:, 0, -1]),
    }


def _whole(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """(T, R, K), a copy: over all sizes, with the most detections an image."""
    best = precision[..., 0, -1]
    return np.where(best > -1, best, np.nan)


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")

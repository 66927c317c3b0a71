"""Average precision as sheets. Fractions are shown in percent; data for programs is JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from dhcli.config.heads import ReadOut
from dhcli.metrics.operating import IOU, OperatingPoint, OperatingPoints
from dhcli.metrics.result import ApResult
from dhcli.report.sheet import Column, Row, Sheet, unit_of
from dhcli.report.terminal import ABREAST

TITLES = {
    "coco": "COCO",
    "voc07": "VOC07, 11 recalls, IoU 0.5",
    "voc12": "VOC12, every recall, IoU 0.5",
    "kitti": "KITTI, 40 recalls, IoU 0.7 for Car, else 0.5",
}
IN_THE_PAPER = {
    ReadOut("conv", "conv"): "Fig. 6 (a)",
    ReadOut("fc", "fc"): "Fig. 6 (b)",
    ReadOut("fc", "conv"): "Fig. 6 (c), Table 3",
    ReadOut("max", "conv"): "Table 3",
    ReadOut("average", "conv"): "Table 3",
    ReadOut("complementary", "conv"): "Fig. 6 (d), Table 3",
}
"""Where the paper reports a read-out of Double-Head-Ext."""


def ap_sheets(metric: str, result: ApResult) -> tuple[Sheet, Sheet]:
    """The overall numbers of a metric in one row, and those of each class."""
    title = TITLES.get(metric, metric)
    first = next(iter(result.per_class.values()), {})
    rows: Iterable[Row] = ((name, *row.values()) for name, row in result.per_class.items())
    return (
        Sheet(f"{title} (percent)", _columns(result.stats), (tuple(result.stats.values()),)),
        Sheet(f"{title}, by class (percent)", (Column("class"), *_columns(first)), tuple(rows)),
    )


def threshold_sheet(points: OperatingPoints, target: float | None, classes: Iterable[str]) -> Sheet:
    """The score threshold of best F1, or of a precision: for all `classes` and for each."""
    rule = "best F1" if target is None else f"precision of at least {100 * target:g} %"
    names = ("precision", "recall", "f1")
    rows = [("all", points.all), *((name, points.classes.get(name)) for name in classes)]
    return Sheet(
        f"Score threshold of {rule}, IoU {IOU:g} (percent)",
        (
            Column("class"),
            Column("threshold", "score"),
            *(Column(name.replace("f", "F"), "percent") for name in names),
            Column("objects", "count"),
        ),
        tuple(
            (name, *(getattr(point, column, None) for column in ("threshold", *names, "objects")))
            for name, point in rows
        ),
        sections={1: ""},
    )


def threshold_lines(
    points: OperatingPoints, target: float | None, stored: OperatingPoint | None
) -> list[str]:
    """What the table cannot say: that nothing reaches a precision; what stored thresholds give."""
    lines = []
    if target is not None and points.all is None:
        precision = f"a precision of {100 * target:g} %"
        lines.append(f"no score threshold reaches {precision} over all classes")
    if stored is not None:
        which = f"the model's stored thresholds ({stored.threshold:g} over all classes)"
        lines.append(f"with {which}: {describe_point(stored)}")
    return lines


def describe_point(point: OperatingPoint) -> str:
    """What a threshold is worth, such as `precision 90.1 %, recall 80.2 %, F1 84.9 %`."""
    parts = (("precision", point.precision), ("recall", point.recall), ("F1", point.f1))
    said = (f"{name} {'n/a' if math.isnan(x) else f'{100 * x:.1f} %'}" for name, x in parts)
    return ", ".join(said)


def read_out_sheet(metric: str, results: Mapping[ReadOut, Mapping[str, float]]) -> Sheet:
    """The first overall numbers of a metric for each read-out of one model."""
    columns = _columns(next(iter(results.values())))[:ABREAST]
    return Sheet(
        f"{TITLES.get(metric, metric)} of each read-out (percent)",
        (Column("scores"), Column("boxes"), *columns, Column("in the paper", absent="")),
        tuple(
            (*read_out, *(stats[c.name] for c in columns), IN_THE_PAPER.get(read_out))
            for read_out, stats in results.items()
        ),
    )


def _columns(numbers: Mapping[str, float]) -> tuple[Column, ...]:
    return tuple(Column(name, unit_of(value)) for name, value in numbers.items())

"""Average precision as tables. Fractions are shown in percent; data for programs is JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from dhcli.config.heads import ReadOut
from dhcli.metrics.result import ApResult

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
# Six columns of numbers leave room on 80 columns for the names of classes.
_ROW = 6


def ap_tables(metric: str, result: ApResult) -> Group:
    """The overall numbers of a metric, and those of each class; percent, `n/a` if undefined."""
    title = TITLES.get(metric, metric)
    return Group(
        Text(f"{title} (percent)", style="bold"),
        _overall(result.stats),
        Text(f"{title}, by class (percent)", style="bold"),
        _by_class(result.per_class),
    )


def read_out_table(metric: str, results: Mapping[ReadOut, Mapping[str, float]]) -> Group:
    """The first overall numbers of a metric for each read-out of one model; percent."""
    table = Table("scores", "boxes", box=box.SIMPLE_HEAD)
    names = list(next(iter(results.values())))[:_ROW]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("in the paper", no_wrap=True)
    for read_out, stats in results.items():
        numbers = (format_value(stats[name]) for name in names)
        table.add_row(*map(Text, read_out), *numbers, IN_THE_PAPER.get(read_out, ""))
    title = TITLES.get(metric, metric)
    return Group(Text(f"{title} of each read-out (percent)", style="bold"), table)


def format_value(value: float) -> str:
    """A fraction in percent with one decimal, a count whole, NaN as n/a."""
    if isinstance(value, int):
        return f"{value:,}"
    return "n/a" if math.isnan(value) else f"{100 * value:.1f}"


def _overall(stats: Mapping[str, float]) -> Table:
    """Names over values, six to a row."""
    names = list(stats)
    table = Table(box=box.SIMPLE_HEAD)
    for name in names[:_ROW]:
        table.add_column(name, justify="right", no_wrap=True)
    for start in range(0, len(names), _ROW):
        part = names[start : start + _ROW]
        if start:
            table.add_section()
            table.add_row(*part, style="bold")
        table.add_row(*(format_value(stats[name]) for name in part))
    return table


def _by_class(classes: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for column in next(iter(classes.values()), {}):
        table.add_column(column, justify="right", no_wrap=True)
    for name, columns in classes.items():
        # As Text, since a name may hold `[brackets]`.
        table.add_row(Text(name), *(format_value(value) for value in columns.values()))
    return table

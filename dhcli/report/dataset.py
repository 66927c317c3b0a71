"""A dataset's numbers as tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dhcli.data.tools.statistics import Spread, Statistics
from dhcli.words import counted

if TYPE_CHECKING:
    from dhcli.studies.anchors import AnchorRecall

MOST_CLASSES = 100
"""Classes that a table shows; --json has all."""


def statistics_tables(numbers: Statistics) -> Group:
    """Everything of `numbers`: whole, classes, splits."""
    parts: list[RenderableType] = [_whole(numbers), _classes(numbers)]
    if numbers.splits:
        parts += [split_table(numbers)]
    return Group(*parts)


def split_table(numbers: Statistics) -> Table:
    """Images and objects of each class in each split."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("in split", overflow="fold")
    for name in numbers.splits:
        table.add_column(Text(name), justify="right", no_wrap=True)
    splits = numbers.splits.values()
    for label, row in (
        ("images", [split.images for split in splits]),
        ("  without objects", [split.empty for split in splits]),
        ("objects", [split.objects for split in splits]),
    ):
        table.add_row(label, *(f"{count:,}" for count in row))
    table.add_section()
    for each in numbers.classes[:MOST_CLASSES]:
        table.add_row(Text(each.name), *(f"{count:,}" for count in each.splits.values()))
    _say_more(table, numbers)
    return table


def anchor_table(recall: AnchorRecall) -> Table:
    """For each class and level: objects whose best anchor is there, percent that it is near."""
    caption = "objects by the level of their best anchor, and the share of them that it fits"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("anchors\nof", overflow="fold")
    for name in (*recall.levels, "all", "mean\nIoU", "side"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, name in enumerate(recall.classes[:MOST_CLASSES]):
        counts, near = recall.counts[row], recall.near[row]
        pairs = zip((*near, near.sum()), (*counts, counts.sum()), strict=True)
        table.add_row(
            Text(name),
            *(f"{all_:,}\n{100 * hit / all_:.0f} %" if all_ else "–" for hit, all_ in pairs),
            _number(float(recall.ious[row])),
            _number(float(recall.sides[row])),
        )
    return table


def _whole(numbers: Statistics) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    sizes = ", ".join(f"{w}×{h} {count:,}" for w, h, count in numbers.image_sizes)
    more = f" and {counted(numbers.other_sizes, 'size')} more" if numbers.other_sizes else ""
    kinds = f"{numbers.small:,} small, {numbers.medium:,} medium, {numbers.large:,} large"
    empty = f", {numbers.empty:,} without objects" if numbers.empty else ""
    rows = [
        ("images", f"{numbers.images:,}{empty}"),
        ("image sizes", f"{sizes}{more}"),
        ("objects", f"{numbers.objects:,}: {kinds} (below 32², below 96² pixels, above)"),
        ("to ignore", counted(numbers.regions, "region") if numbers.regions else ""),
        ("objects an image", _range(numbers.per_image)),
        ("side, √area", _range(numbers.side)),
        ("height / width", _range(numbers.aspect)),
    ]
    for label, text in rows:
        if text:
            table.add_row(label, text)
    return table


def _classes(numbers: Statistics) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for name in ("objects", "images", "side\n10 %", "50 %", "90 %", "h/w\n10 %", "50 %", "90 %"):
        table.add_column(name, justify="right", vertical="bottom", no_wrap=True)
    for each in numbers.classes[:MOST_CLASSES]:
        table.add_row(
            Text(each.name),
            f"{each.objects:,}",
            f"{each.images:,}",
            *(_number(value) for spread in (each.side, each.aspect) for value in _middle(spread)),
        )
    _say_more(table, numbers)
    return table


def _say_more(table: Table, numbers: Statistics) -> None:
    more = len(numbers.classes) - MOST_CLASSES
    if more > 0:
        table.add_row(f"… and {more} more (--json)")


def _middle(spread: Spread | None) -> tuple[float | None, ...]:
    return (None, None, None) if spread is None else (spread.p10, spread.median, spread.p90)


def _range(spread: Spread | None) -> str:
    if spread is None:
        return ""
    least, p10, median, p90, most = (
        _number(value)
        for value in (spread.least, spread.p10, spread.median, spread.p90, spread.most)
    )
    return f"{least} to {most}; half at most {median}, four fifths {p10} to {p90}"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"

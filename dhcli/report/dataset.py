"""A dataset's numbers as sheets."""

from __future__ import annotations

from dhcli.data.tools.statistics import Spread, Statistics
from dhcli.report.sheet import Cell, Column, Row, Sheet, list_facts
from dhcli.words import counted

MOST_CLASSES = 100
"""Classes that a terminal shows; --json has all."""


def statistics_sheets(numbers: Statistics) -> list[Sheet]:
    """Everything of `numbers`: whole, classes, splits."""
    sheets = [_whole(numbers), _classes(numbers)]
    return [*sheets, split_sheet(numbers)] if numbers.splits else sheets


def split_sheet(numbers: Statistics) -> Sheet:
    """Images and objects of each class in each split."""
    splits = numbers.splits.values()
    classes: list[Row] = [(each.name, *each.splits.values()) for each in numbers.classes]
    return Sheet(
        "Splits",
        (Column("in split"), *(Column(name, "count") for name in numbers.splits)),
        (
            ("images", *(split.images for split in splits)),
            ("  without objects", *(split.empty for split in splits)),
            ("objects", *(split.objects for split in splits)),
            *classes,
        ),
        sections={3: ""},
    )


def _whole(numbers: Statistics) -> Sheet:
    sizes = ", ".join(f"{w}×{h} {count:,}" for w, h, count in numbers.image_sizes)
    more = f" and {counted(numbers.other_sizes, 'size')} more" if numbers.other_sizes else ""
    kinds = f"{numbers.small:,} small, {numbers.medium:,} medium, {numbers.large:,} large"
    empty = f", {numbers.empty:,} without objects" if numbers.empty else ""
    facts = [
        ("images", f"{numbers.images:,}{empty}"),
        ("image sizes", f"{sizes}{more}"),
        ("objects", f"{numbers.objects:,}: {kinds} (below 32², below 96² pixels, above)"),
        ("to ignore", counted(numbers.regions, "region") if numbers.regions else ""),
        ("objects per image", _range(numbers.per_image)),
        ("side, √area", _range(numbers.side)),
        ("height / width", _range(numbers.aspect)),
    ]
    return list_facts("Images and objects", ((name, text) for name, text in facts if text))


def _classes(numbers: Statistics) -> Sheet:
    return Sheet(
        "Classes",
        (
            Column("class"),
            Column("objects", "count"),
            Column("images", "count"),
            *_quantiles("side, √area", "side"),
            *_quantiles("height / width", "h/w"),
        ),
        tuple(
            (each.name, each.objects, each.images, *_middle(each.side), *_middle(each.aspect))
            for each in numbers.classes
        ),
    )


def _quantiles(name: str, short: str) -> list[Column]:
    headings = {"10 %": f"{short}\n10 %", "50 %": "50 %", "90 %": "90 %"}
    return [Column(f"{name} {q}", "number", heading) for q, heading in headings.items()]


def _middle(spread: Spread | None) -> tuple[Cell, ...]:
    return (None, None, None) if spread is None else (spread.p10, spread.median, spread.p90)


def _range(spread: Spread | None) -> str:
    if spread is None:
        return ""
    column = Column("", "number")
    least, p10, median, p90, most = (
        column.text(value)
        for value in (spread.least, spread.p10, spread.median, spread.p90, spread.most)
    )
    return f"{least} to {most}; half at most {median}, four fifths {p10} to {p90}"

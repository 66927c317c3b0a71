"""`dh study errors`: detections of two sides counted, listed and drawn beside each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dhcli.data.io.image import read_image
from dhcli.report.draw import Box
from dhcli.report.sheet import Cell, Column, Row, Sheet
from dhcli.report.study_errors import (
    FOUND,
    MISSED,
    PROPOSAL,
    Mark,
    Panel,
    around,
    draw_example,
)
from dhcli.studies.error_sides import Compared
from dhcli.studies.errors import DUPLICATE, ONLY, Case, Rule, Side, countable
from dhcli.studies.objects import SIZES
from dhcli.studies.study import Study

CORNERS = ("x1", "y1", "x2", "y2")


def error_study(compared: Compared, rule: Rule, examples: int, facts: Mapping[str, Any]) -> Study:
    """Counts by size and class, a row per case, and `examples` pictures of each kind and side."""
    sides = compared.sides
    return Study(
        "errors",
        {
            **facts,
            "iou": rule.iou,
            "duplicate_iou": rule.again,
            "thresholds": {
                side.name: side.threshold for side in (*sides, compared.both) if side is not None
            },
            "counts": dict(zip(_count_names(compared), _counts(compared), strict=True)),
        },
        _numbers(compared),
        (_count_sheet(compared),),
        dict(_pictures(compared, examples)),
    )


def _count_names(compared: Compared) -> list[str]:
    names = [side.name for side in compared.sides]
    only, again = ([f"{what} {name}" for name in names] for what in ("only", "duplicates"))
    return ["objects", "found by both", *only, "by neither", *again]


def _counts(compared: Compared, size: int | None = None, label: int | None = None) -> list[int]:
    """The numbers of `_count_names` for the objects of a size or class, or of all."""
    mine = countable(compared.truth)
    if size is not None:
        mine &= compared.sizes == size
    if label is not None:
        mine &= compared.truth.labels == label
    first, second = (verdict.finder[mine] >= 0 for verdict in compared.verdicts)
    doubles = [(case.side, case.object) for case in compared.cases if case.kind == DUPLICATE]
    again = [sum(bool(mine[o]) for side, o in doubles if side == number) for number in (0, 1)]
    parts = (first & second, first & ~second, second & ~first, ~first & ~second)
    return [int(mine.sum()), *(int(part.sum()) for part in parts), *again]


def _count_sheet(compared: Compared) -> Sheet:
    classes = compared.truth.classes
    rows: list[Row] = [("all", *_counts(compared))]
    rows += [(name, *_counts(compared, size)) for size, name in enumerate(SIZES)]
    rows += [(name, *_counts(compared, label=label)) for label, name in enumerate(classes)]
    columns = (
        Column(name, "count", heading="\n".join(name.rsplit(" ", 1)))
        for name in _count_names(compared)
    )
    thresholds = ", ".join(f"{side.name} {side.threshold:g}" for side in compared.sides)
    return Sheet(
        "Objects that the sides find",
        (Column("objects of"), *columns),
        tuple(rows),
        sections={1: "", 4: ""},
        caption=f"from scores: {thresholds}; duplicates: where the other side has none",
    )


def _numbers(compared: Compared) -> Sheet:
    """A row per case, ranked by score within its kind and side."""
    texts = ("kind", "by", "image", "class", "size")
    boxes = ("object", "box", "other box", "proposal", "other side of the proposal")
    columns = (
        *map(Column, texts),
        Column("rank", "count"),
        *(Column(n, "number") for n in ("score", "IoU", "other score", "other IoU")),
        *(Column(f"{name} {corner}", "number") for name in boxes for corner in CORNERS),
    )
    ranks: dict[tuple[str, int], int] = {}
    rows = []
    for case in compared.cases:
        rank = ranks[case.kind, case.side] = ranks.get((case.kind, case.side), 0) + 1
        rows.append(_case_row(compared, case, rank))
    return Sheet("Objects that the sides differ in", columns, tuple(rows))


def _case_row(compared: Compared, case: Case, rank: int) -> Row:
    truth, nothing = compared.truth, (None,) * 4
    mine, theirs = compared.sides[case.side].found, compared.sides[1 - case.side].found
    has_other = case.other >= 0
    other: tuple[Cell, Cell] = (None, None)
    if has_other:
        assert theirs.scores is not None  # they are detections
        overlap = compared.verdicts[1 - case.side].overlap[case.other]
        other = (float(theirs.scores[case.other]), float(overlap))
    origin = compared.origins.get(case)
    return (
        case.kind,
        compared.sides[case.side].name,
        str(truth.files[case.image]),
        truth.classes[int(truth.labels[case.object])],
        SIZES[int(compared.sizes[case.object])],
        rank,
        case.score,
        case.iou,
        *other,
        *truth.boxes[case.object].tolist(),
        *mine.boxes[case.row].tolist(),
        *(theirs.boxes[case.other].tolist() if has_other else nothing),
        *(nothing if origin is None else origin.proposal),
        *(nothing if origin is None or origin.other is None else origin.other),
    )


def _pictures(compared: Compared, examples: int) -> list[tuple[str, Callable[[Path], None]]]:
    """The best examples of each kind and side, each of another image."""
    pictures: list[tuple[str, Callable[[Path], None]]] = []
    for kind in (ONLY, DUPLICATE):
        for number, side in enumerate(compared.sides):
            mine = [c for c in compared.cases if c.kind == kind and c.side == number]
            best = {case.image: case for case in reversed(mine)}
            chosen = sorted(best.values(), key=lambda case: -case.score)[:examples]
            for rank, case in enumerate(chosen, 1):
                name = f"{kind}_{_as_name(side.name)}_{rank:02d}.png"
                pictures.append((name, partial(_draw_case, compared, case)))
    return pictures


def _draw_case(compared: Compared, case: Case, path: Path) -> None:
    """Ground truth, both sides and both together, the case in a box that tells what it is."""
    truth, sides = compared.truth, compared.sides
    rows = np.arange(len(truth.boxes))[truth.rows(case.image)]
    rows = rows[countable(truth)[rows]]
    labels = truth.labels[rows].astype(np.int64)
    names = [truth.classes[label] for label in labels.tolist()]
    panels = [Panel("ground truth", truth.boxes[rows], labels, names)]
    for number, side in enumerate(sides):
        panels.append(_panel(case.image, side, side.name, _marks(compared, case, number)))
    if compared.both is not None:
        panels.append(_panel(case.image, compared.both, compared.both.name, ()))
    shown = [truth.boxes[case.object].tolist(), sides[case.side].found.boxes[case.row].tolist()]
    draw_example(
        read_image(truth.path(case.image)), panels, around([_box(box) for box in shown]), path
    )


def _marks(compared: Compared, case: Case, number: int) -> list[Mark]:
    """What is pointed at in the panel of a side: solid what is right there, dashed what is not."""
    found, mine = compared.sides[number].found, number == case.side
    row = case.row if mine else case.other
    assert found.scores is not None  # they are detections
    score = "no box" if row < 0 else f"{found.scores[row]:.2f}"
    if case.kind == ONLY and not mine:
        box = compared.truth.boxes[case.object]
        return [Mark(_box(box.tolist()), MISSED, f"missed: {score}", dashed=True)]
    box = found.boxes[row]
    if case.kind == DUPLICATE and mine:
        marks = [Mark(_box(box.tolist()), MISSED, f"duplicate: {score}", dashed=True)]
    else:
        marks = [Mark(_box(box.tolist()), FOUND, f"found: {score}")]
    origin = compared.origins.get(case)
    return marks if origin is None else [*marks, Mark(origin.proposal, PROPOSAL, dashed=True)]


def _panel(image: int, side: Side, title: str, marks: Sequence[Mark]) -> Panel:
    """What a side finds in an image, from its threshold."""
    found = side.found
    assert found.scores is not None  # they are detections
    rows = np.arange(len(found.boxes))[found.rows(image)]
    rows = rows[found.scores[rows] >= side.threshold]
    rows = rows[np.argsort(-found.scores[rows], kind="stable")]
    labels = found.labels[rows].astype(np.int64)
    texts = [
        f"{found.classes[label]} {score:.2f}"
        for label, score in zip(labels.tolist(), found.scores[rows].tolist(), strict=True)
    ]
    return Panel(f"{title}, score from {side.threshold:g}", found.boxes[rows], labels, texts, marks)


def _as_name(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-.") or "side"


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2

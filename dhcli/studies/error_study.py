"""`dh study errors`: detections of two sides counted, listed and drawn beside each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dhcli.config.heads import ReadOut
from dhcli.data.io.image import read_image
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable
from dhcli.data.tools.statistics import MEDIUM, SMALL
from dhcli.errors import ConfigError
from dhcli.models.contract import Traced
from dhcli.ops.arrays import box_areas, iou
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
from dhcli.runtime.eager import EagerRunner
from dhcli.studies.errors import Case, Rule, Side, Verdict, countable
from dhcli.studies.study import Study

Floats = NDArray[np.float64]
SIZES = ("small", "medium", "large")
CORNERS = ("x1", "y1", "x2", "y2")


class Origin(NamedTuple):
    """Where a duplicate comes from; xyxy pixels.

    proposal  the RPN's box that was refined to the duplicate
    other     what the other side makes of it for the same class; None if it has other proposals
    """

    proposal: Box
    other: Box | None


@dataclass(frozen=True)
class Compared:
    """Everything that is shown of two sides; `both` is a third way to detect, shown only."""

    truth: DetectionTable
    sides: tuple[Side, Side]
    both: Side | None
    verdicts: tuple[Verdict, Verdict]
    cases: Sequence[Case]
    origins: Mapping[Case, Origin]

    def side_columns(self, what: str) -> list[str]:
        """Such as `only conv` and `only fc`."""
        return [f"{what} {side.name}" for side in self.sides]


def alone(read_outs: Sequence[ReadOut], label: str) -> tuple[ReadOut, ReadOut]:
    """The two branches of a model each on its own, the one of boxes first as the paper has it.

    Raises ConfigError where a branch cannot be read alone, or there are not two.
    """
    found = [read_out for read_out in read_outs if read_out.scores == read_out.boxes]
    if len(found) != 2:
        what = f"{len(found)} of its branches can be read alone, and two are compared"
        hint = "give a Double-Head-Ext (both branches score and refine), or two --weights"
        raise ConfigError(what, where=label, hint=hint)
    return found[1], found[0]


def trace_cases(
    runner: EagerRunner,
    read_outs: Sequence[ReadOut],
    cases: Sequence[Case],
    sides: Sequence[Side],
) -> dict[Case, Origin]:
    """The origins of the duplicates among `cases`, all images with one seen a second time.

    `read_outs` are those of the sides, both of the one model of `runner`.
    """
    doubles = [case for case in cases if case.kind == "duplicate"]
    images = np.unique([case.image for case in doubles]).astype(np.int64)
    table = sides[0].found.take_images(images)
    input = runner.config.input.model_copy(update={"divisor": runner.divisor})
    origins = {}
    for batch in EvalLoader(table, input, batch_size=1, workers=0):
        with torch.inference_mode():
            traced = runner.detector.trace(batch.images.to(runner.device), read_outs)
        image = int(images[batch.indices[0]])
        for case in doubles:
            if traced and case.image == image:
                found = sides[case.side].found
                name = found.classes[int(found.labels[case.row])]
                label = runner.classes.index(name)
                origins[case] = origin_of(case, found, label, traced)
    return origins


def origin_of(
    case: Case, found: DetectionTable, label: int, traced: Sequence[Traced]
) -> Origin:
    """The proposal whose box for the class `label` is the detection `case.row` of `found`."""
    mine, theirs = traced[case.side], traced[1 - case.side]
    boxes = mine.boxes[:, label].double().cpu().numpy()
    scores = mine.scores[:, label].double().cpu().numpy()
    apart = np.abs(boxes - found.boxes[case.row]).max(axis=1) + np.abs(scores - case.score)
    row = int(apart.argmin())
    return Origin(_box(mine.proposals[row].tolist()), _box(theirs.boxes[row, label].tolist()))


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
            "counts": dict(zip(_count_names(compared), _counts(compared, "all"), strict=True)),
        },
        _numbers(compared),
        (_count_sheet(compared),),
        dict(_pictures(compared, examples)),
    )


def sizes_of(truth: DetectionTable) -> list[str]:
    """COCO's size of each box, by its annotated area, else that of the box."""
    areas = np.where(np.isnan(truth.areas), box_areas(truth.boxes), truth.areas)
    return [SIZES[place] for place in np.digitize(areas, (SMALL, MEDIUM)).tolist()]


def _count_names(compared: Compared) -> list[str]:
    only, again = compared.side_columns("only"), compared.side_columns("duplicates")
    return ["objects", "found by both", *only, "by neither", *again]


def _counts(compared: Compared, size: str, label: int | None = None) -> list[int]:
    """The numbers of `_count_names` for the objects of a size, or of all, and of a class."""
    truth = compared.truth
    mine = countable(truth)
    mine &= np.array([size in ("all", own) for own in sizes_of(truth)], np.bool_)
    if label is not None:
        mine &= truth.labels == label
    first, second = (verdict.finder[mine] >= 0 for verdict in compared.verdicts)
    doubles = [
        sum(c.kind == "duplicate" and c.side == side and bool(mine[c.object]) for c in compared.cases)
        for side in (0, 1)
    ]
    parts = (mine, first & second, first & ~second, second & ~first, ~first & ~second)
    return [*(int(part.sum()) for part in parts), *doubles]


def _count_sheet(compared: Compared) -> Sheet:
    classes = compared.truth.classes
    rows: list[Row] = [("all", *_counts(compared, "all"))]
    rows += [(size, *_counts(compared, size)) for size in SIZES]
    rows += [(name, *_counts(compared, "all", label)) for label, name in enumerate(classes)]
    columns = (Column(name, "count", heading="\n".join(name.rsplit(" ", 1))) for name in
               _count_names(compared))
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
        sizes_of(truth)[case.object],
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


def _pictures(
    compared: Compared, examples: int
) -> list[tuple[str, Callable[[Path], None]]]:
    """The best examples of each kind and side, each of another image."""
    pictures: list[tuple[str, Callable[[Path], None]]] = []
    for kind in ("only", "duplicate"):
        for number, side in enumerate(compared.sides):
            mine = [c for c in compared.cases if c.kind == kind and c.side == number]
            best = {case.image: case for case in reversed(mine)}
            chosen = sorted(best.values(), key=lambda case: -case.score)[:examples]
            for rank, case in enumerate(chosen, 1):
                name = f"{kind}_{side.name}_{rank:02d}.png"
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
        panels.append(_panel(case.image, side, f"{side.name} alone", _marks(compared, case, number)))
    if compared.both is not None:
        panels.append(_panel(case.image, compared.both, "both", ()))
    shown = [truth.boxes[case.object].tolist(), sides[case.side].found.boxes[case.row].tolist()]
    draw_example(
        read_image(truth.path(case.image)), panels, around([_box(box) for box in shown]), path
    )


def _marks(compared: Compared, case: Case, number: int) -> list[Mark]:
    """What is pointed at in the panel of a side: solid what is right there, dashed what is not."""
    mine = number == case.side
    if case.kind == "only":
        if not mine:
            return [Mark(_box(compared.truth.boxes[case.object].tolist()), MISSED, dashed=True)]
        return [Mark(_box(compared.sides[number].found.boxes[case.row].tolist()), FOUND)]
    box = compared.sides[number].found.boxes[case.row if mine else case.other].tolist()
    marks = [Mark(_box(box), MISSED, dashed=True) if mine else Mark(_box(box), FOUND)]
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


def _box(values: Sequence[float]) -> Box:
    x1, y1, x2, y2 = values
    return x1, y1, x2, y2

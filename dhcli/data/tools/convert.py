"""From datasets to one, by a plan of what to keep, how to divide it and how to cut it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dhcli.atomic import folder_beside
from dhcli.data.formats import Images, held, write_dataset
from dhcli.data.formats.placing import losses
from dhcli.data.merge import merge_datasets
from dhcli.data.table import SOURCE, DetectionTable
from dhcli.data.tools.mend import fit_to_files
from dhcli.data.tools.select import (
    drop_classes,
    drop_small,
    keep_classes,
    limit_images,
    rename_classes,
)
from dhcli.data.tools.split import divide_shares, group_images
from dhcli.data.tools.tile import HOLDS, tile_table, write_tiles
from dhcli.errors import ConfigError
from dhcli.words import counted


@dataclass(frozen=True)
class Plan:
    """What becomes of a dataset on its way, in this order.

    renamed   class names, old to new
    classes   those to keep, in their order; all where empty
    dropped   those to leave out
    limit     most images, the first ones; None: all
    min_area  least pixels² of a box
    shares    splits to make and their shares of the images; none where empty
    group_by  column of images, or regular expression on their paths: equals stay in one split
    seed      of the split
    tile      side of tiles to cut images into, pixels; None: they stay whole
    overlap   of neighbouring tiles, a fraction of their side
    visible   share of a cut box that makes it an object; below, a region to ignore
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    classes: Sequence[str] = ()
    dropped: Sequence[str] = ()
    limit: int | None = None
    min_area: float = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    group_by: str | None = None
    seed: int = 0
    tile: int | None = None
    overlap: float = 0.2
    visible: float = 0.5


def apply_plan(
    tables: Sequence[DetectionTable], plan: Plan
) -> tuple[DetectionTable, tuple[str, ...]]:
    """One table of `tables`, as `plan` wants it but for tiles, and lines on what changed.

    Sizes and boxes are made to fit the image files on the way, as training does.
    """
    table = tables[0] if len(tables) == 1 else merge_datasets(tables)
    lines = [f"{len(tables)} datasets merged"] if len(tables) > 1 else []
    if len(tables) > 1:
        lines += [note for note in table.notes if not any(note in each.notes for each in tables)]
    table = _take(table, _choices(plan), lines)
    moved, fitted = fit_to_files(table)
    lines += fitted
    if fitted and (lost := _own_fields(table) - _own_fields(moved)):
        what = "box of turned or scaled images: masks and other fields of their own left out"
        lines.append(counted(lost, what))
    table = _take(moved, _measures(plan), lines)
    return table, tuple(lines)


def write_plan(
    table: DetectionTable,
    destination: Path,
    format: str,
    images: Images,
    plan: Plan,
    *,
    overwrite: bool = False,
    follow: bool = False,
) -> tuple[DetectionTable, tuple[str, ...]]:
    """Write `table`, in tiles if `plan` has it; what was written, and what could not be held."""
    write = partial(write_dataset, overwrite=overwrite, follow=follow)
    if plan.tile is None:
        return held(table, format), write(table, destination, format, images=images)
    if images == "link":
        raise ConfigError("tiles are new images, which cannot be links", hint="`--images copy`")
    tiling = tile_table(table, plan.tile, plan.overlap, plan.visible)
    lost = tiling.lost + tuple(f"in tiles, {line}" for line in losses(table, HOLDS))
    if images == "none":
        lost += write(tiling.table, destination, format, images="none")
        return held(tiling.table, format), lost
    # Beside the destination, so that finished tiles need only be moved.
    with folder_beside(destination) as folder:
        tiles, left_out = write_tiles(tiling, folder, follow=follow)
        lost += write(tiles, destination, format, images="move") + left_out
        return held(tiles, format), lost


def _own_fields(table: DetectionTable) -> int:
    """How many boxes have fields that only their dataset's own words tell."""
    return sum(map(bool, table.extras.get(SOURCE, ())))


Step = tuple[str, Callable[[DetectionTable], DetectionTable]]
"""What a plan asks for: its name for people, and what does it."""


def _take(table: DetectionTable, steps: Iterable[Step], lines: list[str]) -> DetectionTable:
    """The table after `steps`; what each changed is added to `lines`."""
    for what, step in steps:
        changed = step(table)
        if counts := _difference(table, changed):
            lines.append(f"{what}: {counts}")
        table = changed
    return table


def _choices(plan: Plan) -> Iterator[Step]:
    """The steps that ask for classes and images."""
    if plan.renamed:
        yield "classes renamed", lambda table: rename_classes(table, plan.renamed)
    if plan.classes:
        yield "other classes left out", lambda table: keep_classes(table, plan.classes)
    if plan.dropped:
        yield "classes left out", lambda table: drop_classes(table, plan.dropped)
    limit = plan.limit
    if limit is not None:
        yield f"first {counted(limit, 'image')} kept", lambda table: limit_images(table, limit)


def _measures(plan: Plan) -> Iterator[Step]:
    """The steps that ask for boxes and sizes as the image files have them."""
    if plan.min_area > 0:
        what = f"boxes below {plan.min_area:g} pixels² left out"
        yield what, lambda table: drop_small(table, plan.min_area)
    if plan.shares:
        what = "divided by groups of images" if plan.group_by else "divided"
        yield what, lambda table: _divide(table, plan)


def _divide(table: DetectionTable, plan: Plan) -> DetectionTable:
    groups = None if plan.group_by is None else group_images(table, plan.group_by)
    return divide_shares(table, plan.shares, plan.seed, groups)


def _difference(before: DetectionTable, after: DetectionTable) -> str:
    """What there is after a step, and was before, in words; "" where nothing changed."""
    said = []
    was, now = ({n: rows.tolist() for n, rows in t.splits.items()} for t in (before, after))
    if was != now and len(before) == len(after):
        said.append(", ".join(f"{name} {len(rows)}" for name, rows in after.splits.items()))
    for what, old, new in (
        ("image", len(before), len(after)),
        ("box", len(before.boxes), len(after.boxes)),
        ("class", len(before.classes), len(after.classes)),
    ):
        if old != new:
            said.append(f"{counted(new, what)} instead of {old:,}")
    if before.classes != after.classes and len(before.classes) == len(after.classes):
        said.append(f"classes {', '.join(after.classes)}")
    return ", ".join(said)

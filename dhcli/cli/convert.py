"""`dh convert`: datasets as one in another format, or divided, thinned out, cut into tiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.completion import complete_format
from dhcli.cli.options import (
    DATASET,
    FollowLinks,
    JsonFlag,
    Overwrite,
    PlaceImages,
    SourceFormat,
    VocOffset,
)
from dhcli.errors import ConfigError
from dhcli.words import counted

if TYPE_CHECKING:
    from dhcli.data.table import DetectionTable

CHOOSE, DIVIDE, CUT = "What to keep", "Splits", "Tiles"
_SPLITS = ("train", "val", "test")


def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SRC", help=f"{DATASET} Several are merged into one."),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="New folder to write.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="FORMAT", help="Format to write.", autocompletion=complete_format
        ),
    ],
    from_: SourceFormat = None,
    voc_offset: VocOffset = "auto",
    predictions: Annotated[
        bool,
        typer.Option(
            "--predictions",
            help="Read boxes with a score as detections and keep the scores (default: off: boxes "
            "are ground truth; scores are dropped).",
        ),
    ] = False,
    images: PlaceImages = "copy",
    follow_links: FollowLinks = False,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Classes to keep, comma-separated, in this order.",
            rich_help_panel=CHOOSE,
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="OLD=NEW",
            help="Rename a class, or merge it into another; can be repeated.",
            rich_help_panel=CHOOSE,
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help="Classes to leave out, comma-separated.", rich_help_panel=CHOOSE
        ),
    ] = None,
    min_area: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="AREA",
            help="Drop boxes with a smaller area, in square pixels.",
            rich_help_panel=CHOOSE,
        ),
    ] = 0,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Keep only the first N images.", rich_help_panel=CHOOSE
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES",
            help="Make new splits with balanced classes: 0.8/0.2 (train/val), 0.7/0.2/0.1 "
            "(train/val/test), or with names: learn=0.9/look=0.1.",
            rich_help_panel=DIVIDE,
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|REGEX",
            help="Keep images of a group in one split: those with the same value in this column of "
            "a CSV file or field of COCO's images. Any other value is a regular expression, "
            "matched against each image's path. Images with the same match stay together; if it "
            "has a group in brackets, only the first such group counts. With '(.+)_[0-9]+', the "
            "frames `clip_0001.jpg`, `clip_0002.jpg` … stay together.",
            rich_help_panel=DIVIDE,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Random seed for --split.", rich_help_panel=DIVIDE),
    ] = 0,
    tile: Annotated[
        int | None,
        typer.Option(
            min=16,
            metavar="PIXELS",
            help="Cut images into square tiles with sides of this length.",
            rich_help_panel=CUT,
        ),
    ] = None,
    overlap: Annotated[
        float,
        typer.Option(
            min=0,
            max=0.9,
            metavar="SHARE",
            help="Overlap of neighbouring tiles, as a share of the tile's side.",
            rich_help_panel=CUT,
        ),
    ] = 0.2,
    visible: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="A box cut by a tile's edge becomes a region to ignore if less than this share of "
            "its area is in the tile.",
            rich_help_panel=CUT,
        ),
    ] = 0.5,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write one or more datasets as one, in any format; select, split and tile on the way.

    Lists and counts what the format cannot hold. DST appears only when it is complete.

    For example:
      dh convert photos/ photos-coco/ --to coco
      dh convert kitti/ tiny/ --to kitti --limit 75 --split 0.67/0.33 --map Van=Car
      dh convert day/ night/ both/ --to voc --split 0.8/0.1/0.1 --group-by '(.+)_[0-9]+'
      dh convert aerial/ tiles/ --to yolo --tile 1024 --overlap 0.2
    """
    from dhcli.atomic import require_free
    from dhcli.data.formats import describe, read_dataset, require_format
    from dhcli.data.tools.convert import Plan, apply_plan, write_plan
    from dhcli.report.console import err

    plan = Plan(
        renamed=dict(_renaming(text) for text in map_ or ()),
        classes=_names(classes),
        dropped=_names(drop),
        min_area=min_area,
        limit=limit,
        shares=_shares(split) if split else {},
        group_by=group_by,
        seed=seed,
        tile=tile,
        overlap=overlap,
        visible=visible,
    )
    if group_by is not None and split is None:
        raise ConfigError("needs --split, which is not given", where="--group-by")
    require_format(to)
    require_free(destination, overwrite=overwrite, inputs=sources)
    tables = []
    for source in sources:
        tables.append(
            read_dataset(source, format=from_, voc_offset=voc_offset, predictions=predictions)
        )
        err.print(f"{source}: {describe(tables[-1])}")
    table, lines = apply_plan(tables, plan)
    for line in lines:
        err.print(line)
    written, lost = write_plan(
        table, destination, to, images, plan, overwrite=overwrite, follow=follow_links
    )
    for line in lost:
        err.print(line)
    origins = {
        "sources": [str(source) for source in sources],
        "from": [one.format for one in tables],
    }
    losses = {"changed": list(lines), "lost": list(lost)}
    _conclude(written, destination, to, origins, losses, as_json=as_json)


def _conclude(
    written: DetectionTable,
    destination: Path,
    to: str,
    origins: dict[str, list[str]],
    losses: dict[str, list[str]],
    *,
    as_json: bool,
) -> None:
    """Say what was written; `origins` and `losses` are the beginning and end of the JSON."""
    from dhcli.data.formats import FORMATS
    from dhcli.report.console import err, out, print_json

    err.print(
        f"{destination}: {FORMATS[to].title}, {counted(len(written), 'image')}, "
        f"{counted(len(written.boxes), 'box')}, {counted(len(written.classes), 'class')}"
    )
    if not as_json:
        out.print(str(destination))
        return
    result = {
        "destination": str(destination),
        "to": to,
        "images": len(written),
        "boxes": len(written.boxes),
        "classes": list(written.classes),
        "splits": {name: len(rows) for name, rows in written.splits.items()},
    }
    print_json({**origins, **result, **losses})


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _renaming(text: str) -> tuple[str, str]:
    old, equals, new = (part.strip() for part in text.partition("="))
    if not (old and equals and new):
        raise ConfigError(f"expected OLD=NEW, got `{text}`", where="--map")
    return old, new


def _shares(text: str) -> dict[str, float]:
    """Names and shares of the splits to make."""
    parts = [part.strip() for part in text.split("/")]
    named = [part.partition("=") for part in parts] if "=" in text else []
    names = [name.strip() for name, _, _ in named] or list(_SPLITS[: len(parts)])
    values = [value for _, _, value in named] or parts
    try:
        shares = [float(value) for value in values]
    except ValueError:
        shares = []
    usual = ", ".join(_SPLITS)
    checks = (
        (not shares, "are not numbers between slashes"),
        (len(shares) == 1, "are one only: nothing is divided"),
        (len(names) < len(parts), f"are more than have a usual name ({usual})"),
        (len(set(names)) < len(names) or not all(names), "name a split twice, or not at all"),
        (min(shares, default=0) <= 0, "must be above 0"),
        (abs(sum(shares) - 1) > 1e-6, "must add up to 1"),
    )
    if wrong := next((what for is_wrong, what in checks if is_wrong), None):
        hint = "write two or three, such as 0.8/0.2, or with names: train=0.9/val=0.1"
        raise ConfigError(f"shares in `{text}` {wrong}", where="--split", hint=hint)
    return dict(zip(names, shares, strict=True))

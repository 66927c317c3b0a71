"""`dh convert`: a dataset in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dhcli.cli.options import JsonFlag

FormatName = Literal[
    "voc",
    "imagenet",
    "kitti",
    "coco",
    "datumaro",
    "via",
    "createml",
    "supervisely",
    "labelme",
    "cvat",
    "openimages",
    "csv",
    "retinanet",
    "dota",
    "mot",
    "widerface",
    "yolo",
]
"""The names in `dhcli.data.formats.FORMATS`, which a test compares; it loads too slowly here."""


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Dataset: a folder or annotation file.")
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="DST", help="Folder to make; it must not be there yet.")
    ],
    to: Annotated[FormatName, typer.Option("--to", help="Format to write.")],
    from_: Annotated[
        FormatName | None,
        typer.Option("--from", help="Format to read. Without it: found out by looking."),
    ] = None,
    voc_offset: Annotated[
        Literal["auto", "0", "1"],
        typer.Option(
            help="What Pascal VOC files call the first pixel; auto: 0 where any box begins at 0."
        ),
    ] = "auto",
    images: Annotated[
        Literal["copy", "link", "none"],
        typer.Option(help="Copy the images, link to them, or leave them out."),
    ] = "copy",
    json: JsonFlag = False,
) -> None:
    """Write a dataset in another format.

    Example: dh convert photos/ photos-coco/ --to coco

    Example: dh convert annotations.json boxes/ --to yolo --images link

    What the format cannot hold is listed. DST appears when it is complete.
    """
    from dhcli.data.formats import describe, read_dataset, write_dataset
    from dhcli.report.console import err, out, print_json

    table = read_dataset(source, format=from_, voc_offset=voc_offset)
    err.print(f"{source}: {describe(table)}")
    lost = write_dataset(table, destination, to, images=images)
    for line in lost:
        err.print(line)
    if json:
        print_json(
            {
                "source": str(source),
                "from": table.format,
                "destination": str(destination),
                "to": to,
                "images": len(table),
                "boxes": len(table.boxes),
                "classes": list(table.classes),
                "splits": {name: len(rows) for name, rows in table.splits.items()},
                "lost": list(lost),
            }
        )
    else:
        out.print(str(destination))

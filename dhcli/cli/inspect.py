"""`dh inspect`: what a dataset is like, in tables and pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dhcli.cli.options import Dataset, JsonFlag, Overwrite, SourceFormat, VocOffset, out_option


def inspect(
    data: Dataset,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Split to describe (default: all images).")
    ] = None,
    out: Annotated[
        Path | None, out_option("New folder for pictures and tables (default: none are written).")
    ] = None,
    from_: SourceFormat = None,
    voc_offset: VocOffset = "auto",
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Show what a dataset is like: classes, sizes, shapes, objects per image, splits.

    --out writes pictures (samples with their boxes, classes, sizes, where objects lie) and the
    tables as statistics.html.

    For example:
      dh inspect photos/
      dh inspect photos/ --split train --out look/
      dh inspect photos/ --json
    """
    from dhcli.atomic import require_free
    from dhcli.data.formats import describe, read_dataset
    from dhcli.data.tools.mend import fit_to_files
    from dhcli.data.tools.statistics import measure
    from dhcli.report.console import err, print_json
    from dhcli.report.dataset import MOST_CLASSES, statistics_sheets
    from dhcli.report.terminal import show

    if out is not None:
        require_free(out, overwrite=overwrite, inputs=[data])
    table = read_dataset(data, format=from_, voc_offset=voc_offset)
    err.print(f"{data}: {describe(table)}")
    table, lines = fit_to_files(table.split(split) if split else table)
    for line in lines:
        err.print(f"warning: {line}")
    numbers = measure(table)
    if as_json:
        print_json({"data": str(data), "format": table.format, **asdict(numbers)})
    else:
        show(*statistics_sheets(numbers), most=MOST_CLASSES)
    if out is not None:
        from dhcli.report.dataset_pictures import write_pictures

        names = write_pictures(table, numbers, out, overwrite=overwrite)
        err.print(f"{out}: {', '.join(names)}")

"""`dh inspect`: what a dataset is like, in tables and pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dhcli.cli.options import Dataset, JsonFlag, SourceFormat, VocOffset, out_option


def inspect(
    data: Dataset,
    split: Annotated[
        str | None, typer.Option(metavar="NAME", help="Look at this split alone.")
    ] = None,
    out: Annotated[Path | None, out_option("New folder for pictures.")] = None,
    from_: SourceFormat = None,
    voc_offset: VocOffset = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Say what a dataset is like: classes, sizes, shapes, objects an image, splits.

    With --out, a new folder of pictures too: samples with their boxes, classes, sizes, and where
    objects lie.

    For example:
      dh inspect photos/
      dh inspect photos/ --split train --out look/
      dh inspect photos/ --json
    """
    from dhcli.atomic import require_free
    from dhcli.data.formats import describe, read_dataset
    from dhcli.data.tools.statistics import measure
    from dhcli.report.console import err, print_json
    from dhcli.report.console import out as console
    from dhcli.report.dataset import statistics_tables

    if out is not None:
        require_free(out)
    table = read_dataset(data, format=from_, voc_offset=voc_offset)
    err.print(f"{data}: {describe(table)}")
    table = table.split(split) if split else table
    numbers = measure(table)
    if as_json:
        print_json({"data": str(data), "format": table.format, **asdict(numbers)})
    else:
        console.print(statistics_tables(numbers))
    if out is not None:
        from dhcli.report.dataset_pictures import write_pictures

        names = write_pictures(table, out)
        err.print(f"{out}: {', '.join(names)}")

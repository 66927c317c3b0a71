"""`dh weights`: detectors of other programs, in and out."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dhcli.cli.options import JsonFlag, Overrides
from dhcli.words import counted

if TYPE_CHECKING:
    from dhcli.weights.exchange import Imported

weights = typer.Typer(add_completion=False, no_args_is_help=True)


@weights.callback()
def group() -> None:
    """Detectors of other programs, in and out.

    For example:
      dh weights import dh_faster_rcnn_r50_fpn_1x_coco.pth -o model.safetensors
      dh weights export model.safetensors -o mmdet.pth --layout mmdet
    """


@weights.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Checkpoint: .pth or .safetensors.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Model file to write.")
    ] = Path("model.safetensors"),
    layout: Annotated[
        Literal["auto", "mmdet", "maskrcnn-benchmark", "torchvision", "detectron2"],
        typer.Option(help="Whose names the file has; auto: found out by looking."),
    ] = "auto",
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|FILE",
            help="Class names, comma between; or a file of them: .txt, or .json, whose category "
            "ids are kept if it is COCO's. Without it: the file's own, or COCO's.",
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a model file of another program's detector, with that program's conventions.

    MMDetection 2 and 3 (Double-Head, Faster R-CNN), maskrcnn-benchmark (the authors'
    Double-Head-Ext, Faster R-CNN), torchvision and detectron2 (Faster R-CNN), all with FPN.
    No code in the file is run. A tensor that is missing or unknown is an error.

    For example:
      dh weights import dh_faster_rcnn_R_50_FPN_1x.pth -o authors.safetensors
      dh weights import epoch_12.pth --classes instances_val2017.json
    """
    from dhcli.atomic import require_file
    from dhcli.report.console import err, print_json
    from dhcli.weights.class_names import parse_class_names
    from dhcli.weights.exchange import conventions, import_weights  # torch loads here
    from dhcli.weights.model_file import save_model

    require_file(out)
    named = None if classes is None else parse_class_names(classes)
    found = import_weights(source, None if layout == "auto" else layout, named, overrides or ())
    save_model(out, found.model)
    if as_json:
        document = {
            "file": str(source),
            "out": str(out),
            "title": found.title,
            "layout": found.model.metadata["origin"]["layout"],
            "rows": [asdict(row) for row in found.rows],
            "conventions": conventions(found.model.config),
            "classes": list(found.model.classes),
            "notes": found.notes,
        }
        print_json(document)
    else:
        _show(source, found)
    for note in found.notes:
        err.print(f"note: {note}")
    err.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


@weights.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Model file to export.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write, .pth.")],
    layout: Annotated[
        Literal["mmdet", "torchvision"], typer.Option(help="Whose names it is to have.")
    ],
) -> None:
    """Write a model's weights under another program's names.

    What was imported from there comes back byte for byte. Settings that the other program does
    not have, and that would change its detections, are named.

    For example:
      dh weights export model.safetensors -o mmdet.pth --layout mmdet
    """
    from dhcli.atomic import require_file
    from dhcli.report.console import err
    from dhcli.weights.exchange import export_weights  # torch loads here, not on --help

    require_file(out)
    for difference in export_weights(model, out, layout):
        err.print(f"warning: {difference}")
    err.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


def _show(source: Path, found: Imported) -> None:
    from rich import box
    from rich.table import Table

    from dhcli.report.console import out
    from dhcli.weights.exchange import conventions

    out.print(f"{source}: {found.title}, {counted(len(found.model.classes), 'class')}")
    table = Table("part", box=box.SIMPLE_HEAD)
    table.add_column("tensors", justify="right")
    table.add_column("how")
    for row in found.rows:
        table.add_row(row.part, str(row.tensors), row.how)
    out.print(table)
    out.print(f"conventions it brings: {', '.join(conventions(found.model.config))}")

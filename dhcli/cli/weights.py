"""`dh weights`: import and export checkpoints of other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dhcli.cli.options import (
    RUN,
    Boxes,
    JsonFlag,
    Overrides,
    Overwrite,
    Scores,
    model_argument,
)
from dhcli.errors import ConfigError
from dhcli.weights.layout_names import ExportName, LayoutName
from dhcli.words import counted

if TYPE_CHECKING:
    from dhcli.report.sheet import Sheet
    from dhcli.weights.exchange import Imported

weights = typer.Typer(add_completion=False, no_args_is_help=True)


@weights.callback()
def group() -> None:
    """Import and export checkpoints of MMDetection, torchvision and others; set a read-out.

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
        Literal["auto", LayoutName],
        typer.Option(help="Program that wrote SRC; auto: detected."),
    ] = "auto",
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES|FILE",
            help="Class names: comma-separated, or a .txt or .json file, of which COCO's category "
            "ids are kept (default: the names in SRC, or COCO's).",
        ),
    ] = None,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Make a model file from another program's detector. It keeps that program's conventions.

    Reads MMDetection 2 and 3 (Double-Head, Faster R-CNN, Cascade R-CNN, SABL, Sparse R-CNN,
    RetinaNet, FCOS, ATSS, PAA, VarifocalNet, YOLOF, YOLOX, DETR, Deformable DETR), transformers
    (DETR, Deformable DETR), maskrcnn-benchmark (the authors' Double-Head-Ext, Faster R-CNN),
    torchvision and detectron2 (Faster R-CNN), TSD's authors' code, and Megvii's YOLOX.
    No code in the file is run. A missing or unknown tensor is an error.

    For example:
      dh weights import dh_faster_rcnn_R_50_FPN_1x.pth -o authors.safetensors
      dh weights import epoch_12.pth --classes instances_val2017.json
    """
    from dhcli.atomic import require_free_file
    from dhcli.report.console import err, print_json
    from dhcli.weights.class_names import parse_class_names
    from dhcli.weights.exchange import import_weights  # torch loads here
    from dhcli.weights.model_file import save_model

    require_free_file(out, overwrite=overwrite, inputs=[source])
    named = None if classes is None else parse_class_names(classes)
    found = import_weights(source, None if layout == "auto" else layout, named, overrides or ())
    save_model(out, found.model)
    if as_json:
        print_json(_document(source, out, found))
    else:
        _show(source, found)
    for note in found.notes:
        err.print(f"note: {note}")
    err.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


@weights.command()
def export(
    model: Annotated[Path, model_argument(f"Model file, {RUN}.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Checkpoint to write, .pth.")
    ],
    layout: Annotated[ExportName, typer.Option(help="Program to write for.")],
    overwrite: Overwrite = False,
) -> None:
    """Write a model's weights as a checkpoint of another program.

    Weights imported from that program come back byte for byte. Warns of settings of the model that
    the program does not have and that would change its detections.

    For example:
      dh weights export model.safetensors -o mmdet.pth --layout mmdet
    """
    from dhcli.atomic import require_free_file
    from dhcli.report.console import err
    from dhcli.weights.exchange import export_weights  # torch loads here, not on --help

    require_free_file(out, overwrite=overwrite, inputs=[model])
    for difference in export_weights(model, out, layout):
        err.print(f"warning: {difference}")
    err.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


@weights.command("set-read-out")
def set_read_out(
    model: Annotated[Path, model_argument(f"Model file, {RUN}.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Model file to write.")],
    scores: Scores = None,
    boxes: Boxes = None,
    overwrite: Overwrite = False,
) -> None:
    """Store in a model whose scores and boxes it is read by; its weights stay as they are.

    Score thresholds and metrics that the model stores were measured with its former read-out, and
    are left out where that changes. `dh study read-outs` compares the read-outs of a model.

    For example:
      dh weights set-read-out model.safetensors --scores fc --boxes conv -o fc-conv.safetensors
    """
    from dhcli.atomic import require_free_file
    from dhcli.config.heads import choose_read_out
    from dhcli.metrics.operating import KEY
    from dhcli.report.console import err
    from dhcli.weights.model_file import read_model, save_model
    from dhcli.weights.set_read_out import set_read_out as store

    if scores is None and boxes is None:
        hint = "`dh study read-outs` compares those of a model"
        raise ConfigError("give --scores, --boxes or both", hint=hint)
    require_free_file(out, overwrite=overwrite, inputs=[model])
    before = read_model(model)
    after, gone = store(before, scores, boxes, measured=(KEY, "metrics"))
    was, now = (choose_read_out(one.config.model, None, None) for one in (before, after))
    save_model(out, after)
    err.print(f"{out}: scores {now.scores}, boxes {now.boxes}; was {was.scores}, {was.boxes}")
    if gone:
        names = " and ".join(f"`{name}`" for name in gone)
        err.print(f"note: {names} were measured with the former read-out, and are left out")
    err.print(f"wrote {out}, {out.stat().st_size / 1e6:.1f} MB")


def _document(source: Path, out: Path, found: Imported) -> dict[str, Any]:
    from dhcli.report.plain import json_rows
    from dhcli.weights.exchange import conventions

    return {
        "file": str(source),
        "out": str(out),
        "title": found.title,
        "layout": found.model.metadata["origin"]["layout"],
        "rows": json_rows(_sheet(found)),
        "conventions": conventions(found.model.config),
        "classes": list(found.model.classes),
        "notes": found.notes,
    }


def _show(source: Path, found: Imported) -> None:
    from dhcli.report.console import out
    from dhcli.report.terminal import show
    from dhcli.weights.exchange import conventions

    out.print(f"{source}: {found.title}, {counted(len(found.model.classes), 'class')}")
    show(_sheet(found))
    out.print(f"conventions it brings: {', '.join(conventions(found.model.config))}")


def _sheet(found: Imported) -> Sheet:
    """What became of the tensors of each part."""
    from dhcli.report.sheet import Column, Sheet

    columns = (Column("part"), Column("tensors", "count"), Column("how"))
    return Sheet("Tensors", columns, tuple((r.part, r.tensors, r.how) for r in found.rows))

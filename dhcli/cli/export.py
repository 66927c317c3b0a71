"""`dh export`: a model for other runtimes, compared with this one before it stays."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dhcli.cli.options import RUN, JsonFlag, Overwrite, model_argument, out_option

if TYPE_CHECKING:
    from dhcli.export.onnx import Agreement
    from dhcli.report.sheet import Sheet


def export(
    model: Annotated[Path, model_argument(f"Model file, {RUN}.")],
    to: Annotated[Literal["onnx"], typer.Option(help="Format to write.")] = "onnx",
    out: Annotated[
        Path | None, out_option("File to write (default: MODEL ending in .onnx).", "FILE")
    ] = None,
    opset: Annotated[int, typer.Option(metavar="N", help="ONNX operator set, 18 to 21.")] = 20,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            "-i",
            metavar="FILE",
            help="Image for the comparison; can be repeated (default: drawn images of three "
            "sizes).",
        ),
    ] = None,
    nms: Annotated[
        Literal["hard"] | None,
        typer.Option(
            "--nms",
            help="Write it with this NMS (default: the model's). ONNX has no Soft-NMS: a model "
            "with it needs `--nms hard`, which costs it a little AP.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a model for other runtimes. NMS is included, and images can have any size.

    Before writing, the model is run in ONNX Runtime and compared with torch. If the results
    disagree, no file is written and the exit code is 1. The file's metadata describes its inputs
    and outputs.

    For example:
      dh export model.safetensors --to onnx
      dh export model.safetensors --out detector.onnx --image photo.jpg
    """
    from dhcli.atomic import require_free_file
    from dhcli.errors import DhError
    from dhcli.export.onnx import export_onnx  # torch loads here, not on --help
    from dhcli.report.console import err, print_json
    from dhcli.report.terminal import show
    from dhcli.weights.model_file import read_model

    target = out or model.with_suffix(f".{to}")
    require_free_file(target, overwrite=overwrite, inputs=[model])
    content = read_model(model)
    rows = export_onnx(
        content,
        target,
        opset=opset,
        images=image or (),
        nms=nms,
        begin=lambda: err.print(f"exporting {model} to {target}; this takes a minute or two"),
    )
    good = all(row.good for row in rows)
    if as_json:
        pictures = [asdict(row) | {"good": row.good} for row in rows]
        print_json({"out": str(target) if good else None, "pictures": pictures})
    else:
        show(_sheet(rows))
    if not good:
        hint = "please report it, with the model and the versions that `dh env` prints"
        raise DhError("ONNX Runtime and torch disagree; nothing was written", hint=hint)
    if not any(row.torch for row in rows):
        err.print("warning: nothing was detected, so little was compared; name an --image")
    err.print(f"wrote {target}, {target.stat().st_size / 1e6:.1f} MB")


def _sheet(rows: list[Agreement]) -> Sheet:
    """What torch and ONNX Runtime found on each picture, and how far they are apart."""
    from dhcli.report.sheet import Column, Sheet

    return Sheet(
        "Agreement",
        (
            Column("picture"),
            *(Column(name, "count") for name in ("torch", "onnx", "the same")),
            Column("boxes differ by", "px error", heading="boxes\ndiffer by"),
            Column("scores differ by", "error", heading="scores\ndiffer by"),
            Column("verdict", heading=""),
        ),
        tuple(
            (
                f"{row.size[0]}×{row.size[1]}",
                *(row.torch, row.onnx, row.same),
                *(row.box, row.score),
                "good" if row.good else "BAD",
            )
            for row in rows
        ),
    )

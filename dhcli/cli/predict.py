"""`dh predict`: find the objects in images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.options import Boxes, Device, Gate, JsonFlag, Precision, Scores, Weights, out_option
from dhcli.errors import ConfigError, DhError, suggest
from dhcli.words import counted

if TYPE_CHECKING:
    from dhcli.inference.predict import Outcome

MOST_NAMED = 10
"""Unreadable images that are named; more are counted."""


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|GLOB", help="Images; of a folder, all that lie below it."
        ),
    ],
    weights: Weights,
    out: Annotated[
        Path | None, out_option("Folder to write. Without it: a new one, `predictions`.")
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAMES",
            help="Files to write: coco-json (without it), csv, yolo, voc, kitti, none; comma "
            "between.",
        ),
    ] = None,
    draw: Annotated[bool, typer.Option("--draw/--no-draw", help="Draw pictures.")] = True,
    score_threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SCORE",
            help="Lowest score that is written and drawn. "
            "Without it: written from the model's own (0.05), drawn from 0.3.",
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most N detections an image.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Only these classes; comma between.")
    ] = None,
    scores: Scores = None,
    boxes: Boxes = None,
    device: Device = "auto",
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Images at a time. Without it: 1 on the CPU, 8 on a GPU."
        ),
    ] = None,
    precision: Precision = "fp32",
    gate: Gate = None,
    as_json: JsonFlag = False,
) -> None:
    """Find the objects in images: drawn pictures, and files for programs.

    An image that cannot be read is named at the end; the rest is done, and the exit code is 1.
    Without --out, results go into a new folder `predictions`.

    For example:
      dh predict --weights model.safetensors photo.jpg
      dh predict --weights model.safetensors photos/ --out out/ --format csv
      dh predict --weights model.safetensors "a/**/*.png" --classes Car,Van
    """
    formats = _formats(_names(format or ["coco-json"]))
    names = None if classes is None else _names([classes])
    from dhcli.config.detecting import DetectOptions
    from dhcli.inference.predict import Request
    from dhcli.inference.predict import predict as run
    from dhcli.report.console import err, print_json
    from dhcli.report.counting import counting
    from dhcli.report.draw import write_drawing

    drawer = write_drawing if draw else None
    request = Request(
        images, weights, out, formats, drawer, score_threshold, top_k, names, scores, boxes
    )
    with counting("images") as progress:
        outcome = run(
            request,
            options=DetectOptions(gate=gate, device=device, precision=precision),
            batch_size=batch_size,
            say=err.print,
            progress=progress,
        )
    if as_json:
        print_json(outcome.as_dict())
    else:
        _show(outcome)
    _check_read(outcome)


def _names(texts: Sequence[str]) -> list[str]:
    """The different names in texts with commas between names, in their order."""
    names = (name.strip() for text in texts for name in text.split(","))
    return list(dict.fromkeys(name for name in names if name))


def _formats(names: list[str]) -> list[str]:
    from dhcli.inference.writers import FORMATS

    known = [*FORMATS, "none"]
    for name in names:
        if name not in known:
            hint = suggest(name, known)
            raise ConfigError(f"unknown format `{name}`", where="--format", hint=hint)
    if "none" in names and len(names) > 1:
        raise ConfigError("`none` stands alone", where="--format")
    return [name for name in names if name != "none"]


def _show(outcome: Outcome) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dhcli.report.console import out

    summary = outcome.summary
    counts = {outcome.lowest: summary.counts}
    counts.setdefault(outcome.shown, summary.shown)
    table = Table("class", box=box.SIMPLE_HEAD)
    for score in counts:
        table.add_column(f"from {score:g}", justify="right")
    for label, name in enumerate(outcome.classes):
        table.add_row(Text(name), *(f"{of_class[label]:,}" for of_class in counts.values()))
    table.add_section()
    table.add_row("all", *(f"{of_class.total():,}" for of_class in counts.values()))
    out.print(table)
    rate = summary.images / summary.seconds
    out.print(
        f"{counted(summary.images, 'image')} in {summary.seconds:.1f} s, {rate:.1f} a second on "
        f"{outcome.device}{f'; results in {outcome.folder}' if outcome.folder else ''}"
    )


def _check_read(outcome: Outcome) -> None:
    """Name the images that could not be read. Raises DhError where there are any."""
    from dhcli.report.console import err

    summary = outcome.summary
    unreadable = summary.unreadable
    if not unreadable:
        return
    for name, why in unreadable[:MOST_NAMED]:
        err.print(f"{name}: {why}")
    if len(unreadable) > MOST_NAMED:
        err.print(f"and {len(unreadable) - MOST_NAMED} more; --json names all")
    every = counted(summary.images + len(unreadable), "image")
    raise DhError(f"{len(unreadable)} of {every} could not be read; the rest is done")

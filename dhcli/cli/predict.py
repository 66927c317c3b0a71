"""`dh predict`: find the objects in images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.completion import complete_files
from dhcli.cli.options import (
    ANY_MODEL,
    DETECTIONS,
    AcrossClasses,
    Boxes,
    Device,
    Gate,
    JsonFlag,
    Nms,
    Overwrite,
    Precision,
    Processes,
    Scores,
    SeenSize,
    TopK,
    all_weights_option,
    batch_size_option,
    out_option,
)
from dhcli.cli.processes import say_of, shared_out, together
from dhcli.errors import ConfigError, DhError, suggest
from dhcli.words import counted, named

if TYPE_CHECKING:
    from dhcli.inference.predict import Outcome
    from dhcli.inference.thresholds import Score
    from dhcli.report.sheet import Row, Sheet

MOST_NAMED = 10
"""Unreadable images that are named; more are counted."""


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER|GLOB",
            help="Images, folders (with their subfolders), patterns such as '*.png', or .txt "
            "lists with one path per line.",
        ),
    ],
    weights: Annotated[list[Path], all_weights_option(ANY_MODEL)],
    out: Annotated[
        Path | None, out_option("Folder to write (default: a new one, predictions/).")
    ] = None,
    format: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            "-f",
            metavar="NAMES",
            help="Files to write, comma-separated: coco-json (default), csv, yolo, voc, kitti, or "
            "none.",
            autocompletion=complete_files,
        ),
    ] = None,
    draw: Annotated[
        bool, typer.Option("--draw/--no-draw", help="Draw the boxes on copies of the images.")
    ] = True,
    score_threshold: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE|best",
            help="Lowest score to write and to draw; best: the thresholds of best F1 that the "
            "model stores (default: the model's setting to write; to draw, best, or 0.3 if it "
            "stores none).",
            rich_help_panel=DETECTIONS,
        ),
    ] = None,
    top_k: TopK = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Classes to keep, comma-separated.",
            rich_help_panel=DETECTIONS,
        ),
    ] = None,
    scores: Scores = None,
    boxes: Boxes = None,
    image_size: SeenSize = None,
    nproc: Processes = None,
    device: Device = "auto",
    batch_size: Annotated[int | None, batch_size_option("1 on the CPU, 8 on a GPU")] = None,
    precision: Precision = "fp32",
    gate: Gate = None,
    across_classes: AcrossClasses = None,
    nms: Nms = None,
    side_by_side: Annotated[
        bool,
        typer.Option(
            "--side-by-side",
            help="Only draw what several models find (`--weights` more than once): one picture per "
            "image, a panel per model.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: JsonFlag = False,
) -> None:
    """Find the objects in images. Writes pictures with boxes, and files for other programs.

    An image that cannot be read does not stop the others: it is listed at the end, and the exit
    code is 1.

    For example:
      dh predict --weights model.safetensors photo.jpg
      dh predict --weights runs/train/custom photos/ --out out/ --format csv
      dh predict --weights model.safetensors "a/**/*.png" --classes Car,Van
      dh predict --weights a.safetensors --weights b.safetensors photos/ --side-by-side
    """
    one_only = {"--format": format, "--scores": scores, "--boxes": boxes, "--nproc": nproc}
    _check_models(weights, side_by_side, [*(k for k, v in one_only.items() if v)], draw)
    formats = _formats(_names(format or ["coco-json"]))
    names = None if classes is None else _names([classes])
    from dhcli.config.detecting import DetectOptions
    from dhcli.inference.predict import Request
    from dhcli.inference.predict import predict as run
    from dhcli.report.counting import counting
    from dhcli.report.draw import write_drawing, write_panels

    drawer = write_drawing if draw else None
    request = Request(
        images,
        weights[0],
        out,
        formats,
        drawer,
        None if score_threshold is None else _score(score_threshold),
        top_k,
        names,
        scores,
        boxes,
        overwrite,
    )
    asked = DetectOptions(
        gate=gate,
        across_classes=across_classes,
        nms=nms,
        image_size=image_size,
        device=device,
        precision=precision,
    )
    if side_by_side:
        from dhcli.inference.side_by_side import predict_side_by_side
        from dhcli.report.console import err

        with counting("images") as progress:
            outcomes = predict_side_by_side(
                request,
                weights,
                write_panels,
                options=asked,
                batch_size=batch_size,
                say=err.print,
                progress=progress,
            )
        _show_all(outcomes, as_json=as_json)
        return
    with together(nproc, device) as team:
        options = replace(asked, device=shared_out(team, device, weights[0]))
        with counting("images") if team.first else nullcontext() as progress:
            outcome = run(
                request,
                options=options,
                batch_size=batch_size,
                say=say_of(team),
                progress=progress,
                team=team,
            )
        if team.first:
            _conclude(outcome, as_json=as_json)


def _conclude(outcome: Outcome, *, as_json: bool) -> None:
    """Print what was found. Raises DhError where images could not be read."""
    from dhcli.report.console import print_json

    if as_json:
        print_json(outcome.as_dict())
    else:
        _show(outcome)
    _check_read(outcome)


def _check_models(
    weights: Sequence[Path], side_by_side: bool, of_one: Sequence[str], draw: bool
) -> None:
    """Raise ConfigError where several models are not wanted, or not to be had, in this way."""
    if not side_by_side:
        if len(weights) > 1:
            what = f"{len(weights)} models are given, but predictions are those of one"
            hint = "add `--side-by-side` to draw what each finds"
            raise ConfigError(what, where="--weights", hint=hint)
        return
    if len(weights) < 2:
        hint = "give `--weights` once for each model"
        raise ConfigError("compares several models", where="--side-by-side", hint=hint)
    refused = [*of_one, *([] if draw else ["--no-draw"])]
    if refused:
        what = f"draws pictures only, and cannot be combined with {', '.join(refused)}"
        raise ConfigError(what, where="--side-by-side")


def _show_all(outcomes: Mapping[str, Outcome], *, as_json: bool) -> None:
    """A column of drawn detections for each model, a row for each class."""
    from dhcli.report.console import out, print_json
    from dhcli.report.sheet import Column, Sheet
    from dhcli.report.terminal import show

    first = next(iter(outcomes.values()))
    if as_json:
        print_json({name: outcome.as_dict() for name, outcome in outcomes.items()})
    else:
        counts = [
            {name: one.summary.shown[k] for k, name in enumerate(one.classes)}
            for one in outcomes.values()
        ]
        names = dict.fromkeys(name for one in counts for name in one)
        rows: list[Row] = [(name, *(one.get(name) for one in counts)) for name in names]
        columns = (Column("class"), *(Column(name, "count") for name in outcomes))
        total: Row = ("all", *(sum(one.values()) for one in counts))
        show(Sheet("Detections drawn", columns, (*rows, total), sections={len(rows): ""}))
        summary = first.summary
        done = f"{counted(summary.images, 'image')} in {summary.seconds:.1f} s"
        out.print(f"{done}; pictures in {first.folder}")
    _check_read(first)


def _names(texts: Sequence[str]) -> list[str]:
    """The different names in texts with commas between names, in their order."""
    names = (name.strip() for text in texts for name in text.split(","))
    return list(dict.fromkeys(name for name in names if name))


def _score(text: str) -> Score:
    """A score in [0, 1], or `best`. Raises ConfigError for anything else."""
    if text == "best":
        return "best"
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        what = f"`{text}` is neither a number between 0 and 1 nor `best`"
        raise ConfigError(what, where="--score-threshold")
    return score


def _formats(names: list[str]) -> list[str]:
    from dhcli.inference.writers import FORMATS

    known = [*FORMATS, "none"]
    for name in names:
        if name not in known:
            hint = suggest(name, known)
            raise ConfigError(f"unknown format `{name}`", where="--format", hint=hint)
    if not names:
        hint = f"there are: {', '.join(known)}"
        raise ConfigError("no format given", where="--format", hint=hint)
    if "none" in names and len(names) > 1:
        raise ConfigError("`none` cannot be combined with others", where="--format")
    return [name for name in names if name != "none"]


def _show(outcome: Outcome) -> None:
    from dhcli.report.console import out
    from dhcli.report.terminal import show

    summary = outcome.summary
    show(_sheet(outcome))
    rate = summary.images / summary.seconds
    out.print(
        f"{counted(summary.images, 'image')} in {summary.seconds:.1f} s, {rate:.1f} per second on "
        f"{outcome.device}{f'; results in {outcome.folder}' if outcome.folder else ''}"
    )


def _sheet(outcome: Outcome) -> Sheet:
    """Detections of each class and of all, from each score that was written or drawn.

    Thresholds that differ by class stand in a column of their own.
    """
    from dhcli.report.sheet import Column, Sheet

    kept, drawn = outcome.kept_from, outcome.drawn_from
    counts = {} if kept.best else {f"from {kept.lowest:g}": outcome.summary.counts}
    done = "kept" if kept.best else "drawn"
    heading = f"from {drawn.lowest:g}" if drawn.is_one else done
    counts.setdefault(heading, outcome.summary.shown)
    own = [()] * len(outcome.classes) if drawn.is_one else [(x,) for x in drawn.least.tolist()]
    rows: list[Row] = [
        (name, *(of_class[label] for of_class in counts.values()), *own[label])
        for label, name in enumerate(outcome.classes)
    ]
    total = (of_class.total() for of_class in counts.values())
    return Sheet(
        "Detections",
        (
            Column("class"),
            *(Column(name, "count") for name in counts),
            *(Column(f"{done} from", "score") for _ in own[0]),
        ),
        (*rows, ("all", *total, *(None for _ in own[0]))),
        sections={len(outcome.classes): ""},
    )


def _check_read(outcome: Outcome) -> None:
    """Name the images that were read by a rule, and those that could not be read.

    Raises DhError where there are any of these.
    """
    from dhcli.data.tools.findings import CODES
    from dhcli.report.console import err

    summary = outcome.summary
    for code, names in summary.odd.items():
        err.print(f"{named(names, 'image')}: {CODES[code].meaning}; {CODES[code].training}")
    unreadable = summary.unreadable
    if not unreadable:
        return
    for name, why in unreadable[:MOST_NAMED]:
        err.print(f"{name}: {why}")
    if len(unreadable) > MOST_NAMED:
        err.print(f"and {len(unreadable) - MOST_NAMED} more; --json lists all")
    every = counted(summary.images + len(unreadable), "image")
    raise DhError(f"{len(unreadable)} of {every} could not be read; the rest is done")

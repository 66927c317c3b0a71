"""Options that several commands share, each declared once.

A path is not checked here: the rooms below say what is wrong with it, and with which exit
code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dhcli.cli.completion import (
    complete_boxes,
    complete_device,
    complete_format,
    complete_preset,
    complete_scores,
    complete_setting,
)

SETTINGS = "Settings"
"""Title of the part of the help that the options on the configuration stand in."""
DETECTIONS = "Detections"
"""Title of the part that the options on what counts as found, and how, stand in."""

DATASET = "Dataset: a folder or annotation file in any known format."
RUN = "or a run folder (its best model)"
FOREIGN = "another program's checkpoint (see `dh weights`)"
PUBLISHED = "torchvision:NAME (a detector that torchvision publishes)"
START = f"Model to start from: a model file, {FOREIGN}, {PUBLISHED}, {RUN}."
ANY_MODEL = f"Model file, exported .onnx, {FOREIGN}, {PUBLISHED}, {RUN}."


def preset_option(default: str) -> Any:
    """`--preset` of a command; `default` says what counts where it is not given."""
    return typer.Option(
        "--preset",
        "-p",
        metavar="NAME|FILE",
        help=f"Preset to start from; `dh presets` lists them (default: {default}).",
        autocompletion=complete_preset,
        rich_help_panel=SETTINGS,
    )


def out_option(help: str, metavar: str = "FOLDER") -> Any:
    """`--out` of a command."""
    return typer.Option("--out", "-o", metavar=metavar, help=help)


def short_option(
    name: str,
    metavar: str,
    help: str,
    settings: str,
    *,
    min: int | None = None,
    parser: Callable[[str], Any] | None = None,
) -> Any:
    """An option that is the short form of `settings` (see `dhcli.config.short`)."""
    return typer.Option(
        name,
        metavar=metavar,
        help=f"{help} Short for {settings}.",
        rich_help_panel=SETTINGS,
        min=min,
        parser=parser,
    )


def model_argument(help: str) -> Any:
    """MODEL of a command: a file, or the run folder that has it."""
    return typer.Argument(metavar="MODEL", help=help, callback=one_model)


def weights_option(help: str) -> Any:
    """`--weights` of a command: a file, or the run folder that has it."""
    return typer.Option("--weights", "-w", metavar="FILE|RUN", help=help, callback=one_model)


def all_weights_option(help: str) -> Any:
    """`--weights` of a command that takes several models: as `weights_option`."""
    return typer.Option(
        "--weights", "-w", metavar="FILE|RUN", help=f"{help} Can be repeated.", callback=all_models
    )


def batch_size_option(default: str) -> Any:
    """`--batch-size` of a command that detects."""
    return typer.Option(
        "--batch-size", min=1, metavar="N", help=f"Images per batch (default: {default})."
    )


def number_or_auto(text: str) -> int | str:
    """What `--batch-size` of a training says. Raises BadParameter where it says something else."""
    if text == "auto" or (text.isdecimal() and int(text) >= 1):
        return text if text == "auto" else int(text)
    raise typer.BadParameter(f"{text!r} is neither a number from 1 on nor 'auto'.")


def one_model(ctx: typer.Context, path: Path | None) -> Path | None:
    """The model of a run where its folder is named, which is said; all else as it is."""
    if ctx.resilient_parsing or path is None or not path.is_dir():
        return path
    from dhcli.cli.processes import speaks
    from dhcli.report.console import err
    from dhcli.weights.locate_model import locate_model

    model, line = locate_model(path)
    if speaks():
        err.print(line)
    return model


def all_models(ctx: typer.Context, paths: list[Path] | None) -> list[Path]:
    """`one_model` of each."""
    return [one for path in paths or () if (one := one_model(ctx, path)) is not None]


Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Delete the existing output file or folder and write a new one."
    ),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file of settings; they override the preset's. The config.yaml of a run repeats "
        "that run.",
        rich_help_panel=SETTINGS,
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one setting, such as train.clip_norm=10; can be repeated. Press Tab for the "
        "keys.",
        autocompletion=complete_setting,
        rich_help_panel=SETTINGS,
    ),
]

Data = Annotated[Path, typer.Option("--data", "-d", metavar="PATH", help=DATASET)]

Dataset = Annotated[Path, typer.Argument(metavar="DATA", help=DATASET)]

SourceFormat = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FORMAT",
        help="Format to read (default: detected).",
        autocompletion=complete_format,
    ),
]

VocOffset = Annotated[
    Literal["auto", "0", "1"],
    typer.Option(
        "--voc-offset",
        help="Whether pixel coordinates in Pascal VOC files start at 0 or 1 (auto: 0 if any box "
        "has xmin or ymin 0, else 1).",
    ),
]

PlaceImages = Annotated[
    Literal["copy", "link", "none"],
    typer.Option("--images", help="Copy the images, link to them, or leave them out."),
]

FollowLinks = Annotated[
    bool,
    typer.Option(
        "--follow-links", help="Also copy images that are links to files outside the dataset."
    ),
]

Weights = Annotated[Path, weights_option(ANY_MODEL)]

StartWeights = Annotated[Path, weights_option(START)]

Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Device to compute on: auto, cpu, cuda, cuda:0 … or mps.",
        autocompletion=complete_device,
    ),
]

Precision = Annotated[
    Literal["fp32", "bf16", "fp16", "auto"],
    typer.Option(
        "--precision",
        help="Number format of the network; boxes and scores stay fp32. auto: the fastest here.",
    ),
]

Gate = Annotated[
    float | None,
    typer.Option(
        "--gate",
        min=0,
        max=1,
        metavar="SCORE",
        help="Run the second branch only on proposals to which the first gives some class at least "
        "this score. Faster, but it can lower AP. Only with fused scores; 0: off "
        "(default: the model's setting).",
        rich_help_panel=DETECTIONS,
    ),
]

Nms = Annotated[
    Literal["hard", "soft", "guided"] | None,
    typer.Option(
        "--nms",
        help="What NMS does to two boxes of a class that overlap too much. hard: drops the one "
        "with the lower score; soft: lowers that score (Soft-NMS); guided: drops the one with the "
        "lower predicted IoU, where the model predicts it (default: the model's setting, usually "
        "hard).",
        rich_help_panel=DETECTIONS,
    ),
]

AcrossClasses = Annotated[
    float | None,
    typer.Option(
        "--across-classes",
        min=0,
        max=1,
        metavar="IOU",
        help="Of two boxes with an IoU above this, whatever their classes, drop the one with the "
        "lower score; 0: off (default: the model's setting, usually off).",
        rich_help_panel=DETECTIONS,
    ),
]

SeenSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        min=1,
        metavar="N",
        help="Resize images to a shortest side of N pixels; the limit of the longest side changes "
        "in proportion (default: as in training).",
        rich_help_panel=DETECTIONS,
    ),
]

Scores = Annotated[
    str | None,
    typer.Option(
        "--scores",
        metavar="BRANCH|FUSION",
        help="Which scores to use: fc, conv, or both fused by max, average or complementary "
        "(default: the model's setting).",
        autocompletion=complete_scores,
        rich_help_panel=DETECTIONS,
    ),
]

Boxes = Annotated[
    str | None,
    typer.Option(
        "--boxes",
        metavar="BRANCH",
        help="Which boxes to use: fc or conv (default: the model's setting).",
        autocompletion=complete_boxes,
        rich_help_panel=DETECTIONS,
    ),
]

TopK = Annotated[
    int | None,
    typer.Option(
        "--top-k",
        min=1,
        metavar="N",
        help="Keep at most N detections per image (default: the model's setting, usually 100).",
        rich_help_panel=DETECTIONS,
    ),
]

JsonFlag = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout instead of tables."),
]

ValFolder = Annotated[
    Path | None,
    typer.Option(
        "--val",
        metavar="PATH",
        help="Dataset to validate on (default: the val split of the training data, or a part of "
        "it).",
    ),
]

Cache = Annotated[
    Literal["none", "ram", "disk"] | None,
    typer.Option(
        "--cache",
        help="Decode every image once, before training: into memory, or into a file in the run "
        "folder (default: none).",
    ),
]

Epochs = Annotated[
    int | None,
    short_option(
        "--epochs",
        "N",
        "Number of epochs. The lr milestones move in proportion.",
        "--set train.epochs=N",
        min=1,
    ),
]

BatchSize = Annotated[
    str | None,  # which the parser turns into a number, where it is one
    short_option(
        "--batch-size",
        "N|auto",
        "Images per batch in each process. The preset's lr is multiplied by the same factor. auto: "
        "as many as fit into memory, with the images per step that the preset's lr is for.",
        "--set train.batch_size=N",
        parser=number_or_auto,
    ),
]

LearningRate = Annotated[
    float | None,
    short_option(
        "--lr",
        "RATE",
        "Learning rate, not scaled with the batch size.",
        "--set train.lr=RATE --set train.scale_lr=false",
    ),
]

ImageSize = Annotated[
    int | None,
    short_option(
        "--image-size",
        "N",
        "Resize images to a shortest side of N pixels.",
        "--set input.min_size=N; input.max_size, augment.min_sizes and augment.batch_sizes change "
        "in proportion",
        min=1,
    ),
]

Freeze = Annotated[
    int | None,
    short_option(
        "--freeze",
        "N",
        "Do not train the first N parts of the backbone (ResNet: 1 = stem, 2 = stem and stage 1, … "
        "5 = all; 0 = train all).",
        "--set model.backbone.frozen_stages=N",
        min=0,
    ),
]

Seed = Annotated[
    int | None,
    short_option(
        "--seed",
        "N",
        "Random seed, for initial weights, image order and augmentation.",
        "--set train.seed=N",
        min=0,
    ),
]

Workers = Annotated[
    int | None,
    short_option(
        "--workers",
        "N",
        "Number of processes that load images (-1: one per free core, at most 8).",
        "--set train.workers=N",
        min=-1,
    ),
]

Processes = Annotated[
    int | None,
    typer.Option(
        "--nproc",
        metavar="N",
        min=1,
        help="Number of processes on this machine, each with a GPU of its own or a share of the "
        "CPU's cores. torchrun starts them on several machines.",
    ),
]

MaxRestarts = Annotated[
    int,
    typer.Option(
        "--max-restarts",
        metavar="N",
        min=0,
        help="If one of several processes dies, start all again from the last state, up to N "
        "times. Needs --out or --resume.",
    ),
]

RunFolder = Annotated[
    Path | None, out_option("Run folder (default: a new one under runs/; its path is printed).")
]

TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard files.")]

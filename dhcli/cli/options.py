"""Options that several commands share, each declared once.

A path is not checked here: the rooms below say what is wrong with it, and with which exit
code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dhcli.config.presets import preset_names

SETTINGS = "Settings"
"""Title of the part of the help that the options on the configuration stand in."""


def complete_preset(incomplete: str) -> list[str]:
    """Names of presets that begin with `incomplete`, for the shell."""
    return [name for name in preset_names() if name.startswith(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """Names of dataset formats that begin with `incomplete`, for the shell."""
    from dhcli.data.formats import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


def preset_option(default: str) -> Any:
    """`--preset` of a command; `default` says what counts where it is not given."""
    return typer.Option(
        "--preset",
        "-p",
        metavar="NAME|FILE",
        help=f"Settings to start from, see `dh presets` (default: {default}).",
        autocompletion=complete_preset,
        rich_help_panel=SETTINGS,
    )


def out_option(help: str, metavar: str = "FOLDER") -> Any:
    """`--out` of a command."""
    return typer.Option("--out", "-o", metavar=metavar, help=help)


Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace what is already at the place to write to, whole."),
]

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file applied over the preset; a run's config.yaml alone repeats the run.",
        rich_help_panel=SETTINGS,
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one setting, such as train.lr=0.005; can be repeated.",
        rich_help_panel=SETTINGS,
    ),
]

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        help="Dataset: a folder or annotation file in any known format.",
    ),
]

Dataset = Annotated[
    Path, typer.Argument(metavar="DATA", help="Dataset: a folder or annotation file.")
]

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
        help="First pixel in Pascal VOC files; auto: 0 if any box begins at 0, else 1.",
    ),
]

PlaceImages = Annotated[
    Literal["copy", "link", "none"],
    typer.Option("--images", help="Copy the images, link to them, or leave them out."),
]

FollowLinks = Annotated[
    bool,
    typer.Option("--follow-links", help="Copy images that are links out of the dataset, too."),
]

Weights = Annotated[
    Path,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Model file, an exported .onnx, another program's checkpoint (see `dh weights`), or "
        "torchvision:NAME, a detector that torchvision publishes.",
    ),
]

Device = Annotated[
    str,
    typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:0 … or mps."),
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
        help="With fused scores: drop proposals that the first branch scores below this, before "
        "the second branch runs. 0 changes no result; `dh eval` shows what more costs.",
    ),
]

Scores = Annotated[
    str | None,
    typer.Option(
        "--scores",
        metavar="BRANCH|FUSION",
        help="Which scores to use: fc, conv, or both fused by max, average or complementary "
        "(default: the model's setting).",
    ),
]

Boxes = Annotated[
    str | None,
    typer.Option(
        "--boxes",
        metavar="BRANCH",
        help="Which boxes to use: fc or conv (default: the model's setting).",
    ),
]

JsonFlag = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout instead of tables."),
]

ValFolder = Annotated[
    Path | None,
    typer.Option(
        "--val", metavar="PATH", help="Dataset to validate on (default: a split of the data)."
    ),
]

Cache = Annotated[
    Literal["none", "ram", "disk"] | None,
    typer.Option(
        "--cache",
        help="Decode every image once, before training: into memory, or a file in the run folder.",
    ),
]

RunFolder = Annotated[
    Path | None, out_option("Run folder (default: a new one under runs/; its path is printed).")
]

TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files too.")]

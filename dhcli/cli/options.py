"""Options that several commands share, each declared once.

A path is not checked here: the engine's errors say what is wrong with it, and with which exit code.
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


def preset_option(without: str) -> Any:
    """`--preset` of a command; `without` says what stands in its place."""
    return typer.Option(
        "--preset",
        "-p",
        metavar="NAME|FILE",
        help=f"Settings to start from; `dh presets` lists them. Without it{without}.",
        autocompletion=complete_preset,
        rich_help_panel=SETTINGS,
    )


def out_option(help: str, metavar: str = "FOLDER") -> Any:
    """`--out` of a command."""
    return typer.Option("--out", "-o", metavar=metavar, help=help)


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="YAML file over the preset, or a run's config.yaml alone to repeat it.",
        rich_help_panel=SETTINGS,
    ),
]

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="KEY=VALUE",
        help="Change one setting, such as train.lr=0.005; may be given again and again.",
        rich_help_panel=SETTINGS,
    ),
]

Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        metavar="PATH",
        help="Dataset: a folder or annotation file, of any known format.",
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
        help="Format to read. Without it: found out by looking.",
        autocompletion=complete_format,
    ),
]

VocOffset = Annotated[
    Literal["auto", "0", "1"],
    typer.Option(
        "--voc-offset",
        help="What Pascal VOC files call the first pixel; auto: 0 where any box begins at 0.",
    ),
]

PlaceImages = Annotated[
    Literal["copy", "link", "none"],
    typer.Option("--images", help="Copy the images, link to them, or leave them out."),
]

Weights = Annotated[
    Path,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Model file, such as model.safetensors; an exported .onnx; or another program's file "
        "(see `dh weights`).",
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
        help="What the network computes in; boxes and scores stay fp32. auto: the fastest here.",
    ),
]

Gate = Annotated[
    float | None,
    typer.Option(
        "--gate",
        min=0,
        max=1,
        metavar="SCORE",
        help="With fused scores: drop proposals that the first branch scores lower, before the "
        "second branch runs. 0 is exact; `dh eval` shows what another costs.",
    ),
]

Scores = Annotated[
    str | None,
    typer.Option(
        "--scores",
        metavar="BRANCH|FUSION",
        help="Whose scores: fc, conv, or both as max, average, complementary. "
        "Without it: as the model is configured.",
    ),
]

Boxes = Annotated[
    str | None,
    typer.Option(
        "--boxes",
        metavar="BRANCH",
        help="Whose boxes: fc or conv. Without it: as the model is configured.",
    ),
]

JsonFlag = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout instead of tables."),
]

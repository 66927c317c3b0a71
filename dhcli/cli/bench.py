"""`dh bench`: how fast a detector is on this machine, and where its time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dhcli.cli.completion import complete_preset
from dhcli.cli.options import (
    ANY_MODEL,
    Device,
    Gate,
    JsonFlag,
    Overrides,
    Precision,
    model_argument,
)
from dhcli.errors import ConfigError

if TYPE_CHECKING:
    from dhcli.config.detecting import DetectOptions
    from dhcli.config.schema import Config
    from dhcli.report.sheet import Sheet
    from dhcli.runtime.runner import Runner
    from dhcli.studies.speed import Speed

PRESET_CLASSES = 80
"""Classes of a detector that is made from a preset: COCO's."""

NUMBERS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What a precision computes in."""


def bench(
    model: Annotated[
        Path | None,
        model_argument(ANY_MODEL),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            "-p",
            metavar="NAME|FILE",
            help="Measure the detector of a preset instead, with random weights.",
            autocompletion=complete_preset,
        ),
    ] = None,
    overrides: Overrides = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Shortest side of a 4:3 photo after resizing, or height x width, in pixels "
            "(default: the model's setting).",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images per batch.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of batches to time.")
    ] = 10,
    device: Device = "auto",
    precision: Precision = "fp32",
    gate: Gate = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure speed: images per second, latency, time of each part, arithmetic and memory.

    The images are drawn, not photos. A matrix product and a memory copy are timed for comparison
    with what the machine can do. Random weights (--preset) find few objects, which takes less time.

    For example:
      dh bench model.safetensors
      dh bench model.safetensors --precision bf16 --image-size 800x1216
      dh bench --preset coco-r50-ext --json
      dh bench --preset light --set model.neck.channels=96
    """
    from dhcli.config.detecting import DetectOptions, check_gate
    from dhcli.config.heads import choose_read_out
    from dhcli.report.console import print_json
    from dhcli.studies.speed import drawn_pictures, measure_speed

    options = DetectOptions(gate=gate, device=device, precision=precision)
    runner = _open(model, preset, overrides or (), options)
    check_gate(runner.config.model, gate, [choose_read_out(runner.config.model, None, None)])
    height, width = _size(image_size, runner.config)
    pictures = drawn_pictures((height, width), batch_size, runner.divisor)
    speed = measure_speed(runner, pictures, repeats, options)
    about = {
        "model": str(model) if model else preset,
        "image": f"{height}x{width}",
        "batch_size": batch_size,
        "device": runner.place,
        "precision": NUMBERS[runner.precision],
        "gate": getattr(options.over(runner.config.model.detect), "gate", 0.0),
    }
    if as_json:
        print_json(about | speed.as_dict())
    else:
        _show(about, speed)


def _open(
    model: Path | None, preset: str | None, overrides: Sequence[str], options: DetectOptions
) -> Runner:
    if (model is None) == (preset is None):
        raise ConfigError("give either a model file or --preset", hint="see `dh bench --help`")
    if model is not None and overrides:
        what = "--set changes a preset, and a model file is measured as it is"
        raise ConfigError(what, hint="leave it out, or name a preset instead of the model")
    from dhcli.runtime.runner import open_runner

    if model is not None:
        return open_runner(model, options)
    from dhcli.runtime.eager import EagerRunner
    from dhcli.weights.configure import configure

    return EagerRunner.untrained(
        configure(preset, overrides=overrides).config, PRESET_CLASSES, options
    )


def _size(text: str | None, config: Config) -> tuple[int, int]:
    """Height and width from `800x1216`, or of a photo of 640 × 480 after resizing, to `800`."""
    if text is None or (text.isdecimal() and int(text)):
        from dhcli.config.short import resized
        from dhcli.data.loading.transforms import resized_size

        pixels = resized(config.input, int(text)) if text else config.input
        width, height = resized_size(640, 480, pixels)
        return height, width
    sides = [int(side) if side.isdecimal() else 0 for side in text.split("x")]
    if len(sides) != 2 or not all(sides):
        raise ConfigError(
            f"`{text}` is not a size", where="--image-size", hint="write it as 800 or 800x1216"
        )
    return sides[0], sides[1]


def _show(about: dict[str, Any], speed: Speed) -> None:
    from dhcli.report.console import out
    from dhcli.report.terminal import show

    out.print(", ".join(f"{key.replace('_', ' ')} {value}" for key, value in about.items()))
    if speed.parts:
        show(_sheet(speed))
    latency = ", ".join(f"{name} {s * 1e3:.1f} ms" for name, s in speed.latency.items())
    out.print(f"{speed.images_per_second:.2f} images per second; {latency}")
    own = ""
    if speed.gflop is not None and speed.gflop_per_second is not None:
        own = f"{speed.gflop:.1f} GFLOP per image, {speed.gflop_per_second:.1f} GFLOP/s; "
    out.print(
        f"{own}this machine's matrix product {speed.matmul:.1f} GFLOP/s, copy {speed.copy:.1f} GB/s"
    )
    out.print(f"{speed.memory / 1e9:.2f} GB at most; {speed.detections:.1f} detections per image")


def _sheet(speed: Speed) -> Sheet:
    """Time of each part of the detector for a batch, and of the whole."""
    from dhcli.report.sheet import Column, Sheet

    whole = sum(speed.parts.values())
    parts = ((name, seconds, seconds / whole) for name, seconds in speed.parts.items())
    return Sheet(
        "Time of a batch",
        (Column("part"), Column("time", "ms", heading="ms"), Column("share", "share", absent="")),
        (*parts, ("whole", whole, None)),
        sections={len(speed.parts): ""},
    )

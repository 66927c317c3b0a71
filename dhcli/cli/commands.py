"""The commands: where each lives and what the overview says of it. Nothing here imports one."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command's module and function (or Typer application), its panel in the help, its line."""

    module: str
    name: str
    panel: str
    line: str


_WORK, _FILES, _KNOW = "From images to a detector", "Models and datasets", "What there is"

COMMANDS = {
    "train": Command("dhcli.cli.train", "train", _WORK, "Train a detector on your images"),
    "finetune": Command(
        "dhcli.cli.finetune", "finetune", _WORK, "Teach a trained detector your classes"
    ),
    "eval": Command("dhcli.cli.eval", "eval_", _WORK, "Measure average precision on a dataset"),
    "predict": Command("dhcli.cli.predict", "predict", _WORK, "Find the objects in images"),
    "bench": Command("dhcli.cli.bench", "bench", _FILES, "Measure how fast a detector is here"),
    "export": Command("dhcli.cli.export", "export", _FILES, "Write a model for other runtimes"),
    "check": Command("dhcli.cli.check", "check", _FILES, "Find what is wrong with a dataset"),
    "convert": Command("dhcli.cli.convert", "convert", _FILES, "Write a dataset in another format"),
    "weights": Command(
        "dhcli.cli.weights", "weights", _FILES, "Detectors of other programs, in and out"
    ),
    "inspect": Command(
        "dhcli.cli.inspect", "inspect", _FILES, "Show a dataset in numbers and pictures"
    ),
    "info": Command("dhcli.cli.info", "info", _FILES, "Say what a model file holds"),
    "presets": Command("dhcli.cli.presets", "presets", _KNOW, "List the presets, or show one"),
    "env": Command("dhcli.cli.env", "env", _KNOW, "Say what is installed and what does not fit"),
    "demo": Command("dhcli.cli.demo", "demo", _KNOW, "Run all of it on a small drawn dataset"),
}

"""The commands: where each lives and what the overview says of it. Nothing here imports one."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command's module and function (or Typer application), its panel in the help, its line."""

    module: str
    name: str
    panel: str
    line: str


_WORK, _FILES, _KNOW = "From images to a detector", "Models and datasets", "Help and setup"

COMMANDS = {
    "train": Command("dhcli.cli.train", "train", _WORK, "Train a detector on your images"),
    "finetune": Command(
        "dhcli.cli.finetune", "finetune", _WORK, "Teach a trained detector your classes"
    ),
    "eval": Command("dhcli.cli.eval", "eval_", _WORK, "Measure average precision on a dataset"),
    "predict": Command("dhcli.cli.predict", "predict", _WORK, "Find the objects in images"),
    "bench": Command("dhcli.cli.bench", "bench", _FILES, "Measure how fast a detector is here"),
    "study": Command(
        "dhcli.cli.study", "study", _FILES, "Run one of the paper's analyses on a model"
    ),
    "export": Command("dhcli.cli.export", "export", _FILES, "Write a model for other runtimes"),
    "check": Command("dhcli.cli.check", "check", _FILES, "Find what is wrong with a dataset"),
    "convert": Command("dhcli.cli.convert", "convert", _FILES, "Write a dataset in another format"),
    "weights": Command(
        "dhcli.cli.weights",
        "weights",
        _FILES,
        "Import and export checkpoints of MMDetection, torchvision, …",
    ),
    "inspect": Command(
        "dhcli.cli.inspect", "inspect", _FILES, "Show a dataset in numbers and pictures"
    ),
    "info": Command("dhcli.cli.info", "info", _FILES, "Show what a model file holds"),
    "presets": Command("dhcli.cli.presets", "presets", _KNOW, "List the presets, or show one"),
    "env": Command("dhcli.cli.env", "env", _KNOW, "Check your installation (versions, GPU)"),
    "demo": Command("dhcli.cli.demo", "demo", _KNOW, "Try every step on a small drawn dataset"),
}

"""`dh presets`: the shipped presets, one of them resolved, and the JSON schema for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.options import ConfigFile, JsonFlag, Overrides, complete_preset
from dhcli.report.console import out, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from dhcli.config.schema import Config

presets = typer.Typer(add_completion=False, invoke_without_command=True)


@presets.callback()
def list_presets(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the presets: what each is for, and the AP that the paper reports for it.

    For example:
      dh presets
      dh presets show coco-r50-ext
      dh presets --json
    """
    if ctx.invoked_subcommand is not None:
        return
    from dhcli.config.load import load_config
    from dhcli.config.presets import preset_names

    configs = {name: load_config(name).config for name in preset_names()}
    if as_json:
        told = {"about", "paper_tables", "paper"}
        print_json([{"name": n, **c.model_dump(include=told)} for n, c in configs.items()])
        return
    out.print(_overview(list(configs.values())))


TITLES = {
    1: "Table 1: one head or two, on ResNet-50",
    2: "Table 2: depth of the conv-head",
    3: "Table 3: fusions of scores, see `dh eval --read-outs all`",
    4: "Table 4: beside the baselines",
    6: "Table 6: Pascal VOC 2007",
}
"""The tables of the paper that have presets."""


def _overview(configs: list[Config]) -> Table:
    """The presets for one's own data, then those of each table of the paper, by their AP."""
    from rich.table import Table

    table = Table("preset", "what it is for", box=None, padding=(0, 2, 0, 0))
    table.add_column("paper's AP", justify="right")
    for config in configs:
        if not config.paper_tables:
            table.add_row(config.name, config.about, "–")
    for number, title in TITLES.items():
        table.add_row()
        table.add_row(None, title, style="bold")
        rows = [config for config in configs if number in config.paper_tables]
        for config in sorted(rows, key=lambda config: config.paper["AP"]):
            table.add_row(config.name, config.about, f"{config.paper['AP']:.1f}")
    return table


@presets.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A preset, or the path of a YAML file; left out, with --config: that file alone.",
            autocompletion=complete_preset,
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print every setting of a preset, and behind each where its value comes from.

    What is printed is a configuration itself: `--config` reads it.

    For example:
      dh presets show coco-r50-ext
      dh presets show custom --set train.lr=0.005
      dh presets show --config runs/train/config.yaml
      dh presets show custom > my.yaml
    """
    from dhcli.config.load import config_to_dict, dump_config, load_config

    resolved = load_config(name, file=config, overrides=overrides or ())
    if as_json:
        print_json({"config": config_to_dict(resolved.config), "origins": resolved.origins})
    else:
        out.print(dump_config(resolved.config, resolved.origins), end="")


@presets.command()
def schema() -> None:
    """Print the JSON schema of a preset, with which an editor completes and checks the YAML.

    An editor with a YAML language server reads it from the first line of a preset:
      # yaml-language-server: $schema=dh-schema.json

    For example:
      dh presets schema > dh-schema.json
    """
    from dhcli.config.reference import json_schema

    print_json(json_schema())

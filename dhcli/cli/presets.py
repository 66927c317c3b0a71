"""`dh presets`: the shipped presets, one of them resolved, and the JSON schema for editors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.completion import complete_preset
from dhcli.cli.options import ConfigFile, JsonFlag, Overrides
from dhcli.report.console import out, print_json
from dhcli.report.sheet import Column, Row, Sheet
from dhcli.report.terminal import show as show_sheet

if TYPE_CHECKING:
    from dhcli.config.schema import Config

presets = typer.Typer(add_completion=False, invoke_without_command=True)


@presets.callback()
def list_presets(ctx: typer.Context, as_json: JsonFlag = False) -> None:
    """List the presets: what each is for, and the AP that the paper reports.

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
        shown = {"about", "paper_tables", "paper"}
        print_json([{"name": n, **c.model_dump(include=shown)} for n, c in configs.items()])
        return
    show_sheet(_overview(list(configs.values())))


TITLES = {
    1: "Table 1: one head or two, on ResNet-50",
    2: "Table 2: depth of the conv-head",
    3: "Table 3: fusions of scores, see `dh eval --read-outs all`",
    4: "Table 4: beside the baselines",
    6: "Table 6: Pascal VOC 2007",
}
"""The tables of the paper that have presets."""


def _overview(configs: list[Config]) -> Sheet:
    """The presets for one's own data, then those of each table of the paper, by their AP."""
    rows: list[Row] = [(c.name, c.about, None) for c in configs if not c.paper_tables]
    sections = {}
    for number, title in TITLES.items():
        sections[len(rows)] = title
        members = [config for config in configs if number in config.paper_tables]
        for config in sorted(members, key=lambda config: config.paper["AP"]):
            rows.append((config.name, config.about, config.paper["AP"] / 100))
    columns = (Column("preset"), Column("what it is for"), Column("paper's AP", "percent"))
    return Sheet("Presets", columns, tuple(rows), sections)


@presets.command()
def show(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Preset or YAML file to show (default: the file of --config).",
            autocompletion=complete_preset,
        ),
    ] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    as_json: JsonFlag = False,
) -> None:
    """Print every setting of a preset and where its value comes from.

    --config reads the output again.

    For example:
      dh presets show coco-r50-ext
      dh presets show custom --set train.lr=0.005
      dh presets show --config runs/train/config.yaml
      dh presets show custom > my.yaml
    """
    from dhcli.config.load import config_to_dict, dump_config
    from dhcli.weights.configure import configure

    resolved = configure(name, file=config, overrides=overrides or ())
    if as_json:
        print_json({"config": config_to_dict(resolved.config), "origins": resolved.origins})
    else:
        out.print(dump_config(resolved.config, resolved.origins), end="")


@presets.command()
def schema() -> None:
    """Print the JSON schema of presets: with it an editor completes and checks their YAML.

    Editors with a YAML language server find the schema by this first line of a preset:
      # yaml-language-server: $schema=dh-schema.json

    For example:
      dh presets schema > dh-schema.json
    """
    from dhcli.config.reference import json_schema

    print_json(json_schema())

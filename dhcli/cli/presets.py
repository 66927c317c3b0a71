"""`dh presets`: the shipped presets, one of them resolved, and the JSON schema for editors."""

from __future__ import annotations

from typing import Annotated

import typer

from dhcli.cli.options import ConfigFile, JsonFlag, Overrides, complete_preset
from dhcli.report.console import out, print_json

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
        print_json([{"name": n, "about": c.about, "paper": c.paper} for n, c in configs.items()])
        return
    from rich.table import Table

    table = Table("preset", "what it is for", box=None, padding=(0, 2, 0, 0))
    table.add_column("paper's AP", justify="right")
    for name in sorted(configs, key=lambda name: "AP" in configs[name].paper):
        ap = configs[name].paper.get("AP")
        table.add_row(name, configs[name].about, "–" if ap is None else f"{ap:.1f}")
    out.print(table)


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

"""The command line. A file a command: it parses, does the work of one room, and prints."""

from __future__ import annotations

from typing import Annotated

import typer

from dhcli import __version__
from dhcli.cli.shell import HELP, Shell

app = typer.Typer(
    cls=Shell,
    help="From a folder of annotated images to a Double-Head Faster R-CNN detector.",
    context_settings={"help_option_names": HELP},
    invoke_without_command=True,
    pretty_exceptions_show_locals=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dh {__version__}")
        raise typer.Exit


@app.callback()
def start(
    ctx: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Without a command, show the overview."""
    if ctx.invoked_subcommand is None:
        ctx.get_help()


def main() -> None:
    """Entry point of `dh` and `dhcli`."""
    app()

"""The group of all commands: it imports a command when it runs, and says errors to people."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from errno import ENOMEM
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from dhcli.cli.commands import COMMANDS
from dhcli.data.io.progress import watched_by
from dhcli.errors import DhError
from dhcli.runtime.launch import HANGUP, end_signals

if TYPE_CHECKING:
    from rich.panel import Panel

HELP = ["-h", "--help"]
EXAMPLES = (
    ("dh demo", "everything once, without data of your own"),
    ("dh train --data photos/", "a detector from a folder of annotated images"),
    ("dh predict --weights model.safetensors photo.jpg", "the objects in a photo"),
)


class Shell(TyperGroup):
    """Lists commands without importing them; resolves one by importing its module."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, command in COMMANDS.items():
            self.add_command(TyperCommand(name, help=command.line))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if name and found else None, rest

    def invoke(self, ctx: Any) -> None:
        from dhcli.atomic import cleaning_told
        from dhcli.cli.processes import is_first
        from dhcli.report.console import err
        from dhcli.report.counting import LongSteps

        _require_current_folder()
        with watched_by(LongSteps()) if is_first() else nullcontext(), cleaning_told(err.print):
            super().invoke(ctx)  # what a command returns is no exit code

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The overview. Typer's own would import rich's Markdown and take twice as long."""
        from rich.text import Text

        from dhcli.report.console import out

        out.print(Text(f"\n Usage: {ctx.command_path} COMMAND [OPTIONS] …\n", style="bold"))
        out.print(f" {self.help}\n")
        for title in dict.fromkeys(command.panel for command in COMMANDS.values()):
            lines = [(name, c.line) for name, c in COMMANDS.items() if c.panel == title]
            out.print(_panel(title, lines, width=max(map(len, COMMANDS))))
        options = (param.get_help_record(ctx) for param in self.get_params(ctx))
        out.print(_panel("Options", [record for record in options if record]))
        out.print(_panel("Examples", EXAMPLES))

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, say what the user can mend as `error:` and `hint:`, and exit.

        Any other exception is a bug and keeps its traceback.
        """
        _open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what Typer itself prints
                stream.reconfigure(errors="backslashreplace")
        if "COMP_WORDS" in os.environ:
            from dhcli.cli.completion import join_words

            join_words(os.environ)
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args)
        with _ended_by_signals():
            status = _explained(lambda: _printed(partial(run, **extra)))
        if not standalone_mode:
            return status
        sys.exit(status)


def _open_closed_streams() -> None:
    """Have standard streams that the caller closed lead nowhere.

    A file that is opened would get the number of one, and then what is printed into it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _require_current_folder() -> None:
    """Raise DhError where the folder that this runs in was removed: libraries fail oddly there."""
    try:
        Path.cwd()
    except FileNotFoundError as error:
        what = "the folder that this runs in is no longer there"
        raise DhError(what, hint="change into another one, such as `cd ~`") from error


def _explained(run: Callable[[], Any]) -> Any:
    """What `run` returns, or the exit code of an error that is said."""
    try:
        return run()
    except DhError as error:
        _say(error, str(error), error.hint)
        return error.exit_code
    except typer.TyperException as error:  # a command line that Typer cannot read
        context = getattr(error, "ctx", None)
        message = error.format_message()
        hint = f"`{context.command_path} --help` shows what there is" if context else None
        if message:  # none where help was shown, as a group alone does
            _say(error, message[:1].lower() + message[1:], hint)
        return error.exit_code
    except typer.Abort:  # a question that was not answered
        return 130
    except (RuntimeError, MemoryError, OSError) as error:
        from dhcli.runtime.memory import is_shortage, shortage

        if not is_shortage(error):
            raise
        short = shortage(error)
        _say(short, str(short), short.hint)
        return short.exit_code


def _printed(run: Callable[[], Any]) -> Any:
    """What `run` returns, all that it printed being out. Raises DhError where that fails."""
    try:
        status = run()
        sys.stdout.flush()
    except OSError as error:
        if error.errno == ENOMEM:
            raise
        with suppress(OSError):  # nothing more is printed, at the end of Python for one
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # a reader that has seen enough
            return 0
        where = error.filename or "the output"
        raise DhError(error.strerror or str(error), where=where) from error
    return status


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what it was writing is cleaned up."""

    def end(number: int, _: FrameType | None) -> None:
        if number == HANGUP:  # another one would end the cleaning up
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [number for number in end_signals() if number != signal.SIGINT]  # Python's own
    before = {number: signal.signal(number, end) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load_command(name: str) -> Any:
    """Import the command `name` and make it ready to run."""
    from rich.markup import escape
    from typer.main import get_command

    entry = COMMANDS[name]
    target = getattr(import_module(entry.module), entry.name)
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(target)
        target = app
    command = get_command(target)
    for one in (command, *getattr(command, "commands", {}).values()):
        # `[a, b]` in an example is no markup, and rich_utils would take a last paragraph's
        # indentation away, were there no empty line before it.
        one.help = escape(_unwrap(one.help or "")).replace("\n\n", "\n\n\n", 1)
        _hide_types(one)
    return command


def _hide_types(command: Any) -> None:
    """Take `<bool>` from behind switches in the help, and `<path>` from behind arguments.

    A switch takes no value, and an argument is called by what it is.
    """
    for param in command.get_params(typer.Context(command, help_option_names=HELP)):
        if isinstance(param, TyperArgument) or param.is_flag:
            param.display_type_rich = lambda ctx: None


def _unwrap(text: str) -> str:
    """Paragraphs as one line each, for the terminal to wrap; indented lines stay as they are."""
    return re.sub(r"(?<=[^\n])\n(?=[^\s])", " ", text)


def _panel(title: str, lines: Iterable[tuple[str, str]], width: int | None = None) -> Panel:
    from rich.panel import Panel
    from rich.table import Table

    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(style="bold cyan", no_wrap=True, min_width=width)
    table.add_column(ratio=1)
    for line in lines:
        table.add_row(*line)
    return Panel(table, title=title, title_align="left", border_style="dim")


def _say(error: Exception, what: str, hint: str | None) -> None:
    """`error: …`, and after a blank line `hint: …`, on stderr; by one of several processes."""
    from dhcli.cli.processes import may_say

    if not may_say(error):
        return
    from rich.text import Text

    from dhcli.report.console import err

    err.print(Text.assemble(("error:", "bold red"), f" {what}"))
    if hint:
        err.print(Text.assemble(("\nhint:", "bold cyan"), f" {hint}"))

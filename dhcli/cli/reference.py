"""The reference page of all commands, made from their signatures and docstrings.

`python -m dhcli.cli.reference > docs/cli.md` writes the page anew.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import Parameter, cleandoc, signature
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo

from dhcli.cli.commands import COMMANDS

_INTRODUCTION = """\
# Every command

Written by `python -m dhcli.cli.reference` from the commands themselves; `dh COMMAND --help` says
the same in a terminal. [Every setting](configuration.md) is on a page of its own.

Results go to stdout, messages to stderr. The exit code is 0 if all is well, 2 for a command line or
a setting that cannot be used, 3 for data, 4 for a model, 1 for anything else, and 130, 143 or 129
after Ctrl-C, SIGTERM or SIGHUP (a terminal that closes). `dh --version` prints the version.

`dh --install-completion` sets up completion in your shell. Then Tab offers commands, options and
their choices: presets, formats, metrics, and every key of `--set` with its values.
"""
_DEFAULT = re.compile(r" \(default: ([^()]*)\)")


class Option(NamedTuple):
    """An option or argument of a command.

    info   what Typer is told of it
    name   the parameter's, in the function
    type   what a value is, without `| None`
    value  the function's default; `Parameter.empty` where it must be given
    """

    info: OptionInfo | ArgumentInfo
    name: str
    type: Any
    value: Any

    @property
    def metavar(self) -> str:
        """What stands for the value on the command line."""
        return self.info.metavar or self.name.upper()

    @property
    def names(self) -> list[str]:
        """`--out` and `-o`, as they are typed."""
        # Typer keeps the first as if it were a default.
        declared = (self.info.default, *(self.info.param_decls or ()))
        names = [name for name in declared if isinstance(name, str) and name.startswith("-")]
        return names or [f"--{self.name.replace('_', '-')}"]


def reference_page() -> str:
    """`docs/cli.md`: an overview, then every command by what it is for."""
    lines = [_INTRODUCTION]
    panels = dict.fromkeys(command.panel for command in COMMANDS.values())
    for panel in panels:
        lines += [f"**{panel}**\n", "| command | what it does |\n|---|---|"]
        named = [(name, one) for name, one in COMMANDS.items() if one.panel == panel]
        lines += [f"| [`dh {name}`](#dh-{name}) | {one.line} |" for name, one in named]
        lines.append("")
    for name, command in COMMANDS.items():
        target = getattr(import_module(command.module), command.name)
        for words, needed, function in _functions(f"dh {name}", target):
            lines += _command_lines(words, needed, function)
    return "\n".join(lines)


def options_of(function: Callable[..., Any]) -> list[Option]:
    """The options and arguments of a command's function, in their order."""
    hints = get_type_hints(function, include_extras=True)
    found = []
    for name, parameter in signature(function).parameters.items():
        kind, *marks = get_args(hints[name]) or (hints[name],)
        infos = [mark for mark in marks if isinstance(mark, OptionInfo | ArgumentInfo)]
        if infos:
            found.append(Option(infos[0], name, _given(kind), parameter.default))
    return found


def _functions(words: str, target: Any) -> Iterator[tuple[str, list[str], Callable[..., Any]]]:
    """The command as typed, what must follow, its function; of a group, also of its commands."""
    if not isinstance(target, typer.Typer):
        yield words, [], target
        return
    group = target.registered_callback
    if group is not None and group.callback is not None:
        needed = [] if target.info.invoke_without_command is True else ["COMMAND"]
        yield words, needed, group.callback
    for command in target.registered_commands:
        if command.callback is not None:
            yield f"{words} {command.name or command.callback.__name__}", [], command.callback


def _command_lines(words: str, needed: list[str], function: Callable[..., Any]) -> Iterator[str]:
    options = options_of(function)
    arguments = [one for one in options if isinstance(one.info, ArgumentInfo)]
    rest = [one for one in options if one not in arguments]
    panels = ["", *(one.info.rich_help_panel or "" for one in rest)]
    usage = [words, *needed, *(_usage(one) for one in arguments), *(["[OPTIONS]"] if rest else [])]
    yield f"## {words}\n"
    yield f"```\n{' '.join(usage)}\n```\n"
    yield _prose(cleandoc(function.__doc__ or ""))
    if arguments:
        yield "| argument | default | meaning |\n|---|---|---|"
        yield "\n".join(_row(f"`{_cell(one.metavar)}`", one) for one in arguments) + "\n"
    for panel in sorted({one.info.rich_help_panel or "" for one in rest}, key=panels.index):
        if panel:
            yield f"{panel}:\n"
        yield "| option | value | default | meaning |\n|---|---|---|---|"
        rows = (one for one in rest if (one.info.rich_help_panel or "") == panel)
        yield "\n".join(_row(f"{_names(one)} | {_value(one)}", one) for one in rows) + "\n"


def _usage(argument: Option) -> str:
    more = " …" if get_origin(argument.type) is list else ""
    required = argument.value is Parameter.empty
    return f"{argument.metavar}{more}" if required else f"[{argument.metavar}{more}]"


def _prose(text: str) -> str:
    """Paragraphs as they are; lines that are indented as code."""
    text = re.sub(r"(?m)((?:^  .*\n?)+)", lambda found: f"\n```\n{found[1].rstrip()}\n```\n", text)
    return re.sub(r"(?m)^  (?=\S)", "", text)


def _row(first: str, option: Option) -> str:
    meaning = option.info.help or ""
    default, said = _default(option), _DEFAULT.search(meaning)
    if said and not default:
        default, meaning = said[1], _DEFAULT.sub("", meaning, count=1)
    return f"| {first} | {_cell(default)} | {_cell(meaning)} |"


def _default(option: Option) -> str:
    if option.value is Parameter.empty:
        return "required"
    if option.value is None or option.value is False:
        return ""
    return "on" if option.value is True else f"`{option.value}`"


def _names(option: Option) -> str:
    return ", ".join(f"`{name}`" for name in option.names)


def _value(option: Option) -> str:
    """What may be written after the option; nothing after a switch."""
    kind = get_args(option.type)[0] if get_origin(option.type) is list else option.type
    if kind is bool:
        return ""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    return f"`{_cell(option.metavar)}`{_range(option.info.min, option.info.max)}"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f", at least {low:g}" if high is None else f", {low:g} to {high:g}"


def _given(kind: Any) -> Any:
    """`int` of `int | None`."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((one for one in kinds if one is not type(None)), kind)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


if __name__ == "__main__":
    sys.stdout.write(reference_page())

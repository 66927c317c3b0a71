"""`docs/cli.md` is what the commands say."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from dhcli.cli.commands import COMMANDS
from dhcli.cli.finetune import finetune
from dhcli.cli.reference import options_of, reference_page
from dhcli.cli.shell import load_command
from dhcli.cli.train import train

PAGE = Path(__file__).parents[2] / "docs/cli.md"


def functions_of(target: Any) -> list[Any]:
    """The function of a command, or those of a group's commands."""
    if isinstance(target, typer.Typer):
        return [one.callback for one in target.registered_commands]
    return [target]


FUNCTIONS = [
    function
    for one in COMMANDS.values()
    for function in functions_of(getattr(import_module(one.module), one.name))
]


def test_the_committed_page_is_current() -> None:
    committed = PAGE.read_text(encoding="utf-8")

    assert committed == reference_page(), "python -m dhcli.cli.reference > docs/cli.md"


def test_the_page_does_not_depend_on_the_terminal_and_is_written_without_torch() -> None:
    code = (
        "import sys; from dhcli.cli.reference import reference_page as p; p(); print(*sys.modules)"
    )

    narrow = subprocess.run(
        [sys.executable, "-m", "dhcli.cli.reference"],
        capture_output=True,
        env={"COLUMNS": "40", "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"},
        check=True,
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)

    assert narrow.stdout.decode() == PAGE.read_text("utf-8")
    assert not {b"torch", b"matplotlib"} & set(loaded.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_the_command_line_stands_on_the_page(name: str) -> None:
    command = load_command(name)

    for words, one in [(name, command), *sub_commands(name, command)]:
        section = reference_page().partition(f"\n## dh {words}\n")[2].partition("\n## ")[0]
        options = {opt for p in one.params for opt in (*p.opts, *p.secondary_opts) if opt[0] == "-"}
        assert set(re.findall(r"--?[a-z][a-z-]*(?=[`/])", section)) >= options, words


def sub_commands(name: str, command: Any) -> list[tuple[str, Any]]:
    return [(f"{name} {sub}", one) for sub, one in getattr(command, "commands", {}).items()]


def test_an_option_reads_alike_in_every_command() -> None:
    alike = {"--device", "--overwrite", "--json", "--precision", "--set", "--config", "--top-k"}
    helps: dict[str, set[str]] = {}
    for function in FUNCTIONS:
        for option in options_of(function):
            helps.setdefault(option.names[0], set()).add(option.info.help or "")

    assert {name for name in alike if len(helps[name]) != 1} == set()


def test_train_and_finetune_have_the_same_options_for_settings() -> None:
    def settings(function: Any) -> dict[str, str | None]:
        return {o.names[0]: o.info.help for o in options_of(function) if o.info.rich_help_panel}

    one, other = settings(train), settings(finetune)

    del one["--preset"], other["--preset"]  # each has its own default
    assert one == other


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda one: one.__name__)
def test_help_is_written_in_sentences(function: Any) -> None:
    helps = {option.names[0]: option.info.help or "" for option in options_of(function)}

    assert [name for name, text in helps.items() if not text.endswith(".")] == []
    assert [name for name, text in helps.items() if re.search(r"Without it|is no\b", text)] == []

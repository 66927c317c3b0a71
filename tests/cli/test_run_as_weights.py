"""A run folder is accepted wherever a command takes a model."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from dhcli.cli.commands import COMMANDS
from dhcli.cli.options import all_models, one_model
from dhcli.cli.reference import options_of
from dhcli.cli.weights import export as export_weights

TAKES_A_MODEL = {"train", "finetune", "eval", "predict", "bench", "export", "info"}


def models_of(function: Any) -> list[Any]:
    return [one for one in options_of(function) if one.name in ("weights", "model")]


@pytest.mark.parametrize("name", sorted(TAKES_A_MODEL))
def test_every_command_that_takes_a_model_takes_a_run(name: str) -> None:
    entry = COMMANDS[name]
    function = getattr(import_module(entry.module), entry.name)

    [option] = models_of(function)
    assert option.info.callback in (one_model, all_models)
    assert "a run folder (its best model)" in option.info.help


def test_so_does_the_export_to_another_program() -> None:
    [option] = models_of(export_weights)

    assert option.info.callback is one_model


def test_no_other_command_takes_a_model() -> None:
    others = {name: one for name, one in COMMANDS.items() if name not in TAKES_A_MODEL}
    functions = {n: getattr(import_module(c.module), c.name) for n, c in others.items()}

    plain = {n: f for n, f in functions.items() if n not in ("weights", "presets", "study")}
    assert [name for name, function in plain.items() if models_of(function)] == []

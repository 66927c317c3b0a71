"""`dh finetune`: a trained detector learns the classes of new data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from dhcli.cli.options import (
    Cache,
    ConfigFile,
    Device,
    JsonFlag,
    Overrides,
    Overwrite,
    RunFolder,
    TensorBoard,
    ValFolder,
    Weights,
    preset_option,
)
from dhcli.cli.session import conclude, make_session, option_settings
from dhcli.errors import ConfigError
from dhcli.weights.configure import configure

DEFAULT_PRESET = "finetune"

Folder = Annotated[
    Path, typer.Argument(metavar="DATA", help="Dataset to train on, any known format.")
]
Aliases = Annotated[
    list[str] | None,
    typer.Option(
        "--alias",
        metavar="NEW=KNOWN",
        help="Start class NEW from the weights of class KNOWN; can be repeated.",
    ),
]


def finetune(
    data: Folder,
    weights: Weights,
    val: ValFolder = None,
    alias: Aliases = None,
    preset: Annotated[str | None, preset_option(DEFAULT_PRESET)] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    out: RunFolder = None,
    overwrite: Overwrite = False,
    cache: Cache = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
    as_json: JsonFlag = False,
) -> None:
    """Teach a trained detector the classes of your images.

    What the weights were trained with comes from them: architecture, input size, normalisation.
    Everything else comes from the preset; --config and --set override both. The predictors of
    classes that the weights know, by name or --alias, start from theirs.

    For example:
      dh finetune photos/ --weights model.safetensors
      dh finetune kitti_tiny/ --weights coco.safetensors --preset kitti-tiny --alias Cyclist=bicycle
      dh finetune photos/ --weights model.safetensors --set model.backbone.frozen_stages=5

    """
    if preset is None and config is None:
        preset = DEFAULT_PRESET
    from dhcli.training.finetune import finetune as run
    from dhcli.training.inherit import inherited_settings
    from dhcli.weights.open import read_weights

    source = read_weights(weights)
    inherited = inherited_settings(source.config)
    own = [*alias_settings(alias or ()), *option_settings(data, val, cache), *(overrides or ())]
    resolved = configure(preset, file=config, overrides=own, weights=inherited)
    inputs = (data, val, weights, config)
    session = make_session("finetune", out, device, tensorboard, overwrite=overwrite, inputs=inputs)
    conclude(run(resolved.config, session, source, weights), as_json=as_json)


def alias_settings(pairs: Sequence[str]) -> list[str]:
    """`--alias NEW=KNOWN` in the form of `--set`. Raises ConfigError where one is not a pair."""
    aliases = {}
    for pair in pairs:
        new, equals, known = (part.strip() for part in pair.partition("="))
        if not (new and equals and known):
            what = f"`--alias {pair}` is not of the form NEW=KNOWN"
            raise ConfigError(what, hint="for example --alias Cyclist=bicycle")
        aliases[new] = known
    return [f"finetune.aliases={json.dumps(aliases)}"] if aliases else []

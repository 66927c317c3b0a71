"""`dh finetune`: a trained detector learns the classes of new data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from dhcli.cli.options import (
    BatchSize,
    Cache,
    ConfigFile,
    Dataset,
    Device,
    Epochs,
    Freeze,
    ImageSize,
    JsonFlag,
    LearningRate,
    MaxRestarts,
    Overrides,
    Overwrite,
    Processes,
    RunFolder,
    Seed,
    StartWeights,
    TensorBoard,
    ValFolder,
    Workers,
    preset_option,
)
from dhcli.cli.processes import together
from dhcli.cli.session import (
    begun_before,
    choose_preset,
    conclude,
    given,
    go_on,
    make_session,
    require_name,
)
from dhcli.config.presets import CPU_FINETUNE_PRESET, FINETUNE_PRESET
from dhcli.errors import ConfigError
from dhcli.weights.configure import configure

WHERE_NONE = f"{FINETUNE_PRESET}, or {CPU_FINETUNE_PRESET} without a GPU; with --config: none"

Aliases = Annotated[
    list[str] | None,
    typer.Option(
        "--alias",
        metavar="NEW=KNOWN",
        help="Start class NEW from the weights of class KNOWN; can be repeated.",
    ),
]


def finetune(
    data: Dataset,
    weights: StartWeights,
    val: ValFolder = None,
    alias: Aliases = None,
    preset: Annotated[str | None, preset_option(WHERE_NONE)] = None,
    config: ConfigFile = None,
    overrides: Overrides = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: LearningRate = None,
    image_size: ImageSize = None,
    freeze: Freeze = None,
    seed: Seed = None,
    workers: Workers = None,
    out: RunFolder = None,
    overwrite: Overwrite = False,
    nproc: Processes = None,
    max_restarts: MaxRestarts = 0,
    cache: Cache = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
    as_json: JsonFlag = False,
) -> None:
    """Teach a trained detector the classes of your images.

    Network, input size and normalisation are those the weights were trained with. All other
    settings come from the preset. --config, --set and options such as --epochs override either. A
    class that the model already has, under its own name or by --alias, starts from that class's
    weights.

    For example:
      dh finetune photos/ --weights model.safetensors
      dh finetune kitti_tiny/ --weights coco.safetensors --preset kitti-tiny --alias Cyclist=bicycle
      dh finetune photos/ --weights runs/train/custom --freeze 5 --epochs 3

    """
    require_name(max_restarts, out)
    short = given(
        data=str(data),
        val=val and str(val),
        alias=aliases_of(alias) if alias else None,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        image_size=image_size,
        freeze=freeze,
        seed=seed,
        workers=workers,
        cache=cache,
    )
    with together(nproc, device, max_restarts) as team:
        session = partial(make_session, "finetune", out, device, tensorboard, team)
        if broken_off := begun_before(out):
            conclude(go_on(broken_off, session()), team, as_json=as_json)
            return
        chosen, notes = choose_preset(
            preset, config, device, gpu=FINETUNE_PRESET, cpu=CPU_FINETUNE_PRESET
        )
        from dhcli.training.finetune import finetune as run
        from dhcli.training.inherit import inherited_settings
        from dhcli.weights.open import read_weights

        source = read_weights(weights)
        inherited = inherited_settings(source.config)
        resolved = configure(
            chosen, file=config, overrides=overrides or (), options=short, weights=inherited
        )
        inputs = (data, val, weights, config)
        start = session(overwrite=overwrite, inputs=inputs, notes=notes)
        conclude(run(resolved.config, start, source, weights), team, as_json=as_json)


def aliases_of(pairs: Sequence[str]) -> dict[str, str]:
    """The classes of `--alias NEW=KNOWN`. Raises ConfigError where one is not a pair."""
    aliases = {}
    for pair in pairs:
        new, equals, known = (part.strip() for part in pair.partition("="))
        if not (new and equals and known):
            what = f"`--alias {pair}` is not of the form NEW=KNOWN"
            raise ConfigError(what, hint="for example --alias Cyclist=bicycle")
        aliases[new] = known
    return aliases

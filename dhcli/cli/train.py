"""`dh train`: from annotated images to a model, in a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dhcli.cli.options import (
    DATASET,
    START,
    BatchSize,
    Cache,
    ConfigFile,
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
    TensorBoard,
    ValFolder,
    Workers,
    preset_option,
    weights_option,
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
from dhcli.config.presets import CPU_PRESET, DEFAULT_PRESET
from dhcli.errors import ConfigError
from dhcli.weights.configure import configure

if TYPE_CHECKING:
    from dhcli.config.load import Resolved
    from dhcli.training.loop import TrainingResult
    from dhcli.training.run import Session

WHERE_NONE = f"{DEFAULT_PRESET}, or {CPU_PRESET} without a GPU; with --config: none"
TrainFolder = Annotated[Path | None, typer.Option("--data", "-d", metavar="PATH", help=DATASET)]
SameWeights = Annotated[
    Path | None,
    weights_option(
        f"{START} Its classes must be those of the dataset; for other classes, use `dh finetune`. "
        "Its network, input size and normalisation are kept."
    ),
]
ResumeRun = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        help="Resume the run in this folder; use --data if its data has moved. You can change "
        "settings under `train.`, but not batch_size, accumulate, seed, optimizer, spare_norms, "
        "lr_multipliers, ema or repeat_below.",
    ),
]


def train(
    data: TrainFolder = None,
    val: ValFolder = None,
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
    weights: SameWeights = None,
    resume: ResumeRun = None,
    out: RunFolder = None,
    overwrite: Overwrite = False,
    nproc: Processes = None,
    max_restarts: MaxRestarts = 0,
    cache: Cache = None,
    device: Device = "auto",
    tensorboard: TensorBoard = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a detector on your images.

    For example:
      dh train --data photos/
      dh train --data photos/ --preset small --epochs 12 --out runs/first
      dh train --data photos/ --weights runs/first --image-size 512 --lr 0.001
      dh train --resume runs/first

    """
    if resume is not None:
        begun = {"--preset": preset, "--config": config, "--weights": weights, "--out": out}
        _refuse_beside_resume({**begun, "--overwrite": overwrite or None})
        config = _config_of(resume)
    require_name(max_restarts, out or resume)
    short = given(
        data=data and str(data),
        val=val and str(val),
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
        session = partial(make_session, "train", out, device, tensorboard, team)
        if broken_off := begun_before(out):
            conclude(go_on(broken_off, session()), team, as_json=as_json)
            return
        chosen, notes = choose_preset(preset, config, device, gpu=DEFAULT_PRESET, cpu=CPU_PRESET)
        settle = partial(configure, chosen, file=config, overrides=overrides or (), options=short)
        resolved = settle()  # before torch is imported
        inputs = (data, val, weights, config)
        start = session(overwrite=overwrite, inputs=inputs, notes=notes)
        if resume is not None:
            from dhcli.training import resume as resuming

            outcome = resuming.resume(resume, resolved.config, start, origins=resolved.origins)
        else:
            known = resolved if preset or config else None
            outcome = _start(settle, start, weights, known)
        conclude(outcome, team, as_json=as_json)


def _start(
    settle: Callable[..., Resolved],
    session: Session,
    weights: Path | None,
    named: Resolved | None,
) -> TrainingResult:
    """A new run, from `weights` if there are any; they must fit a configuration that was named."""
    from dhcli.training.run import train as run

    if weights is None:
        return run(settle().config, session)
    from dhcli.training.inherit import inherited_settings, require_same_network
    from dhcli.weights.open import read_weights

    source = read_weights(weights)
    if named is not None:
        require_same_network(named.config, source)
    resolved = settle(weights=inherited_settings(source.config))
    return run(resolved.config, session, source, weights)


def _refuse_beside_resume(options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        what = f"{', '.join(given)} cannot be used with --resume, which keeps the run's settings"
        raise ConfigError(what, hint="`--epochs` and `--set train.…` change how it goes on")


def _config_of(run: Path) -> Path:
    path = run / "config.yaml"
    if not path.is_file():
        hint = "name the folder of a run of `dh train` or `dh finetune`"
        if (begun := run / "command.txt").is_file():
            hint = (
                f"the run ended before it trained: start it again, as {begun} says, with this --out"
            )
        raise ConfigError("is not a run folder: it has no config.yaml", where=run, hint=hint)
    return path

"""From a configuration to a trained model in a run folder."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dhcli.config.load import dump_config
from dhcli.config.schema import Config
from dhcli.data.tools.statistics import describe_crowd
from dhcli.errors import ConfigError, DhError
from dhcli.models.build import build_detector
from dhcli.models.contract import Detector
from dhcli.runtime.memory import TRAINING, is_shortage, keep_freed_memory
from dhcli.runtime.team import Team
from dhcli.training.data import TrainingData, load_data
from dhcli.training.decoded import decoded_once
from dhcli.training.fit_anchors import with_fitted_anchors
from dhcli.training.fit_batch import with_fitted_batch
from dhcli.training.inherit import inheritance_lines, with_learned_order
from dhcli.training.journal import Journal
from dhcli.training.loop import Trainer, TrainingResult
from dhcli.training.optimizer import kept_per_weight
from dhcli.training.run_folder import (
    CHECKPOINT,
    COMMAND,
    CONFIG,
    MACHINE,
    RunFolder,
    make_run,
    require_new_run,
    resume_command,
)
from dhcli.training.schedule import (
    describe_rate,
    describe_step,
    images_per_step,
    micro_batch,
    odd_milestones,
    warmup_iterations,
)
from dhcli.training.step import seed_all
from dhcli.weights.model_file import ModelFile
from dhcli.weights.pretrained import load_backbone
from dhcli.weights.transfer import Transfer, transfer
from dhcli.words import counted


@dataclass(frozen=True)
class Session:
    """Where and how a training runs, beside its configuration.

    command      "train" or "finetune", for the place of the run folder
    line         the command line, as it could be typed again
    environment  versions and hardware that a result may depend on, for env.json
    out          the run folder, None to choose one
    tensorboard  write for TensorBoard too
    overwrite    replace what is in `out`, whole
    notes        what was decided for the user, a line each
    team         the processes that train; `journal` is of the same team
    """

    command: str
    line: str
    environment: Mapping[str, Any]
    device: torch.device
    journal: Journal
    out: Path | None = None
    tensorboard: bool = False
    overwrite: bool = False
    notes: Sequence[str] = ()
    team: Team = field(default_factory=Team.alone)


def train(
    config: Config,
    session: Session,
    source: ModelFile | None = None,
    weights: Path | None = None,
) -> TrainingResult:
    """Train a new detector, from `source` (a model of the same classes, of the file `weights`).

    Raises DhError before the first iteration where data, weights or the run folder cannot be used.
    """
    session.team.from_first(lambda: require_new_run(session.out, overwrite=session.overwrite))
    config = with_absolute_paths(config)
    known = source.classes if source else None
    team, journal = session.team, session.journal
    data = team.from_first(lambda: load_data(config.data, config.train.seed, journal, known))
    config = with_fitted_anchors(config, data.train, journal)
    seed_all(config.train.seed)
    detector = build_detector(config, len(data.train.classes))
    if source is None:  # the others get them from the first, as all of its weights
        team.from_first(lambda: _start_backbone(config, detector, journal))
    else:
        copied = _load_same_classes(detector, source, weights, data)
        config = with_learned_order(config, data, source)
        journal.say(f"weights: {weights}, {copied.summary()}")
        for line in (*copied.rest_lines(), *inheritance_lines(config, source.config)):
            journal.say(line)
    return start_run(config, detector, data, session)


def start_run(
    config: Config, detector: Detector, data: TrainingData, session: Session
) -> TrainingResult:
    """Train `detector` in a new run folder, which the first process of the team makes.

    As many images at a time as fit, where the configuration leaves that open.
    """
    team, device = session.team, session.device
    config = with_fitted_batch(config, detector, data.train, device, session.journal, team)
    run = team.from_first(lambda: _new_run(config, session))
    return train_in(run, config, detector, data, session)


def _new_run(config: Config, session: Session) -> RunFolder:
    run = make_run(session.command, config.name, session.out, overwrite=session.overwrite)
    run.write_text(COMMAND, session.line + "\n")
    machine = {**session.environment, "device": str(session.device)}
    run.write_text(MACHINE, json.dumps(machine, indent=2) + "\n")
    return run


def train_in(
    run: RunFolder,
    config: Config,
    detector: Detector,
    data: TrainingData,
    session: Session,
    prepare: Callable[[Trainer], None] | None = None,
) -> TrainingResult:
    """Train `detector` in the folder `run`; `prepare` is called before its first step.

    Raises DhError where something is missing or goes wrong, and logs it.
    """
    journal, team = session.journal, session.team
    if session.device.type == "cpu":
        keep_freed_memory(TRAINING)
    try:
        journal.open(run, tensorboard=session.tensorboard)
        with decoded_once(data, config, run.path, journal, team) as images:
            trainer = Trainer(config, detector, images, run, journal, session.device, team=team)
            if prepare is not None:
                prepare(trainer)
            team.from_first(lambda: _claim_space(trainer))
            _introduce(trainer, session)
            result = _train_or_explain(trainer)
    except DhError as error:
        with contextlib.suppress(DhError):  # the log may be what cannot be written
            journal.note(f"error: {error}")
            journal.event("error", what=str(error))
        raise
    else:
        journal.event(result.status, total_iteration=trainer.iteration)
        return result
    finally:
        journal.close()


def _claim_space(trainer: Trainer) -> None:
    """Write the configuration, if the disk has room for what will follow it."""
    trainer.run.require_space(_bytes_to_write(trainer))
    trainer.run.write_text(CONFIG, dump_config(trainer.config))


def _train_or_explain(trainer: Trainer) -> TrainingResult:
    """Train; if that fails, say which state is left, and turn lack of memory into a DhError."""
    try:
        return trainer.train()
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        what = (
            f"{trainer.device} has too little memory for "
            f"{counted(micro_batch(trainer.config.train), 'image')}"
        )
        hint = "the same recipe with fewer images at a time: halve `train.batch_size`, double "
        hint += "`train.accumulate`; or lower `input.max_size`"
        raise DhError(what, hint=hint) from error
    except DhError:
        if (trainer.run.path / CHECKPOINT).exists():
            way_on = f"resume with: {resume_command(trainer.run.path)}"
            trainer.journal.display.say(f"the last good state is kept; {way_on}")
        raise


def with_absolute_paths(config: Config) -> Config:
    """`config` with data paths that mean the same in every working folder."""
    data = config.data
    paths = {
        name: str(Path(value).expanduser().absolute())
        for name, value in (("train", data.train), ("val", data.val))
        if value is not None
    }
    return config.model_copy(update={"data": data.model_copy(update=paths)})


def _introduce(trainer: Trainer, session: Session) -> None:
    """Say what is about to happen."""
    say, train = session.journal.say, trainer.config.train
    for line in session.notes:
        say(line)
    val = f"{len(trainer.data.val)} to validate on" if trainer.data.val else "none to validate on"
    say(f"{counted(len(trainer.data.train), 'image')} to train on, {val}")
    if trainer.repeats is not None:
        say(trainer.repeats.describe())
    epochs = trainer.total / trainer.epoch_length  # the last one may be cut short
    say(
        f"epochs: {epochs:.4g} of {counted(trainer.epoch_length, 'iteration')}, "
        f"{trainer.total:,} in all, on {trainer.device} in {trainer.precision.name}"
    )
    processes = trainer.team.size
    if images_per_step(train, processes) > micro_batch(train):
        say(describe_step(train, processes))
    say(describe_rate(train, processes))
    for line in trainer.detector.notes():
        say(line)
    limit = trainer.config.model.detect.max_detections
    crowd = describe_crowd(trainer.data.train, limit)
    odd = odd_milestones(trainer.schedule, trainer.epoch_length)
    for line in filter(None, [crowd, odd, *trainer.loader.lines]):
        session.journal.warn(line)
    warmup = warmup_iterations(trainer.schedule, trainer.epoch_length)
    if warmup < trainer.schedule.warmup:
        say(
            f"warm-up: {counted(warmup, 'iteration')}, a third of this short training, "
            f"instead of {trainer.schedule.warmup} (train.schedule.warmup)"
        )
    say(f"run folder: {trainer.run.path}")
    if trainer.iteration:
        say(
            f"resumed after iteration {trainer.position.iteration} of epoch "
            f"{trainer.position.epoch + 1}: {session.line}"
        )
    session.journal.event(
        "started", total_iteration=trainer.iteration, iterations=trainer.total, line=session.line
    )


def _start_backbone(config: Config, detector: Detector, journal: Journal) -> None:
    """Load the backbone's pretrained weights, where the detector has such a part."""
    features = detector.features()
    if features is None:
        journal.say("weights: none, the detector starts from random weights")
    else:
        journal.say(f"backbone weights: {load_backbone(features, config.model.backbone)}")


def _load_same_classes(
    detector: Detector, source: ModelFile, path: Path | None, data: TrainingData
) -> Transfer:
    """Copy the weights of a model file whose classes are those of the data, in any order."""
    classes = data.train.classes
    if set(source.classes) != set(classes):
        raise ConfigError(
            f"was trained on other classes ({', '.join(source.classes)}) than the data has "
            f"({', '.join(classes)})",
            where=path,
            hint="use `dh finetune` to start from a model with other classes",
        )
    state, copied = transfer(source, detector, classes, {})
    detector.load_state_dict(state)
    return copied


def _bytes_to_write(trainer: Trainer) -> int:
    """About the bytes the run still adds: two models, two states, and one that is being written."""
    model = _size(trainer.model.state_dict().values())
    trained = _size(weight for weight in trainer.detector.parameters() if weight.requires_grad)
    kept = kept_per_weight(trainer.config.train)
    state = model * (2 if trainer.ema else 1) + trained * kept
    there = sum(file.stat().st_size for file in trainer.run.place(".").iterdir() if file.is_file())
    return max(2 * model + 3 * state - there, state)


def _size(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

"""Go on with a run from its last checkpoint: what may change then, and what may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dhcli.config.load import config_from_dict, config_to_dict
from dhcli.config.schema import Config
from dhcli.config.tree import as_tree, leaves
from dhcli.errors import ConfigError, DataError
from dhcli.models.build import build_detector
from dhcli.models.contract import Detector
from dhcli.training.checkpoint import choose_checkpoint, load_checkpoint
from dhcli.training.data import TrainingData, load_data
from dhcli.training.loop import Trainer, TrainingResult
from dhcli.training.run import Session, train_in, with_absolute_paths
from dhcli.training.run_folder import CHECKPOINT, RunFolder, resume_command
from dhcli.words import counted

START_ANEW = "start a new run from its model: `dh train --weights RUN/last.safetensors --data …`"
OTHER_CLASSES = "start from its model: `dh finetune DATA --weights RUN/last.safetensors`"

DIGESTS = {
    f"{use}_{part}": f"{words} of the {name} images"
    for use, name in (("train", "training"), ("val", "validation"))
    for part, words in (("names", "names"), ("sizes", "sizes"), ("objects", "boxes or labels"))
}
"""Parts of a fingerprint that say nothing as they are."""
KEPT_SECTIONS = ("data", "input", "augment", "model")
"""Sections of the configuration that decide what the saved state means."""
KEPT_ON_RESUME = (
    "batch_size",
    "accumulate",
    "seed",
    "optimizer",
    "spare_norms",
    "lr_multipliers",
    "ema",
    "repeat_below",
)
"""Settings of `train` that the place within an epoch, or the saved state, depends on.

All other settings of `train` may change, and the number of processes: `Trainer.restore` says what
that means.
"""


def resume(
    path: Path,
    config: Config,
    session: Session,
    build: Callable[[Config, int], Detector] = build_detector,
    origins: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Go on with the run in `path`, from its last checkpoint.

    `config` is the run's own, perhaps with other settings of `train`, and with other paths where
    the same data lies now; `build` makes the detector from it and the number of classes; `origins`
    says where a setting comes from, for the messages.
    Raises ConfigError for a change that cannot be made now, DataError where the data is not what it
    was, and DhError where another process is at the run.
    """
    run = RunFolder(path)
    session.team.from_first(run.claim)
    damage = session.team.from_first(lambda: choose_checkpoint(path / CHECKPOINT))
    if damage:
        session.journal.warn(damage)
    state = load_checkpoint(path / CHECKPOINT)
    config = with_absolute_paths(config)
    _check_changes(config_from_dict(state["config"]), config, origins or {})
    _check_there(config, path)
    data = session.team.from_first(
        lambda: load_data(config.data, config.train.seed, session.journal)
    )
    _check_data(state["data"], data)

    def restore(trainer: Trainer) -> None:
        trainer.restore(state)
        _check_unfinished(trainer)

    detector = build(config, len(data.train.classes))
    return train_in(run, config, detector, data, session, restore)


def _check_changes(before: Config, now: Config, origins: Mapping[str, str]) -> None:
    """Refuse what cannot change between a checkpoint and its continuation, and say who asked."""
    places = {"train": now.data.train, "val": now.data.val}  # the content is compared instead
    before = before.model_copy(update={"data": before.data.model_copy(update=places)})
    names = [name for name in KEPT_SECTIONS if getattr(before, name) != getattr(now, name)]
    names += [
        f"train.{name}"
        for name in KEPT_ON_RESUME
        if getattr(before.train, name) != getattr(now.train, name)
    ]
    if names:
        was, is_ = (dict(leaves(as_tree(config_to_dict(one), ""))) for one in (before, now))
        keys = (key for key in is_ if f"{key}.".startswith(f"{names[0]}."))
        changed = dict.fromkeys(origins.get(k, "") for k in keys if was.get(k) != is_[k])
        by = ", ".join(origin for origin in changed if origin.startswith("--"))
        what = f"`{names[0]}` cannot change when a run is resumed{f' ({by})' if by else ''}"
        raise ConfigError(what, hint=START_ANEW)


def _check_there(config: Config, path: Path) -> None:
    """Raise DataError where a dataset is no longer where it was."""
    for option, place in (("--data", config.data.train), ("--val", config.data.val)):
        if place is not None and not Path(place).exists():
            hint = f"if it has moved: `{resume_command(path)} {option} PATH`"
            raise DataError("the run's data is missing", where=place, hint=hint)


def _check_data(before: Mapping[str, Any], data: TrainingData) -> None:
    """Raise DataError that says what of the data is not as it was; where it lies is all the same.

    A state of an older dh tells less, and less is compared.
    """
    now = data.fingerprint()
    names = [name for name in now if name != "root" and before.get(name, now[name]) != now[name]]
    changed = [DIGESTS.get(name) or f"{name} {before[name]} → {now[name]}" for name in names]
    if changed:
        what = f"is not the data that the run started with: {', '.join(changed)}"
        same_classes = before.get("classes") == now["classes"]
        hint = START_ANEW if same_classes else OTHER_CLASSES
        raise DataError(what, where=data.train.root, hint=hint)


def _check_unfinished(trainer: Trainer) -> None:
    if trainer.is_finished:
        what = f"is finished: {trainer.position.epoch} of {counted(trainer.epochs, 'epoch')}"
        hint = "to train longer: `--epochs N`"
        raise ConfigError(what, where=trainer.run.path, hint=hint)
    if trainer.patience_is_over:
        what = f"was stopped early: {trainer.position.stale} validations without a better AP"
        raise ConfigError(
            what, where=trainer.run.path, hint="to continue training: `--set train.patience=0`"
        )

from __future__ import annotations

import csv
import errno
import json
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dhcli.config.load import config_from_dict, config_to_dict
from dhcli.config.schema import Config
from dhcli.data.loading.workers import LoadingError
from dhcli.errors import DataError, DhError
from dhcli.metrics.operating import KEY
from dhcli.training.checkpoint import load_checkpoint
from dhcli.training.loop import Trainer
from dhcli.training.schedule import learning_rate
from dhcli.training.validate import validation_losses
from dhcli.weights.model_file import read_metadata, read_model

MakeTrainer = Callable[..., Trainer]
MakeConfig = Callable[..., Config]


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    average = trainer.ema.module.state_dict() if trainer.ema else {}
    return trainer.detector.state_dict() | {f"ema.{name}": x for name, x in average.items()}


NAMES = ("best", "last")


def _assert_same(one: Trainer, other: Trainer) -> None:
    theirs = _weights(other)
    assert all(torch.equal(x, theirs[name]) for name, x in _weights(one).items())
    metrics = [(t.run.path / "metrics.csv").read_text() for t in (one, other)]
    assert metrics[0] == metrics[1]
    files = [read_metadata(t.run.path / "last.safetensors").metadata for t in (one, other)]
    assert files[0].get(KEY) == files[1].get(KEY)


def _stop_at(recorder: Any, epoch: int, iteration: int, number: int = signal.SIGINT) -> None:
    """Let a signal come when this iteration is done."""

    def on_tick(*place: int) -> None:
        if place == (epoch, iteration):
            signal.raise_signal(number)

    recorder.on_tick = on_tick


SETTINGS = [
    {},
    {"optimizer": "adamw", "ema": 0.9, "clip_norm": 0.5},
    {"accumulate": 2, "ema": 0.5, "schedule": {"kind": "cosine"}},
    {"precision": "fp16", "schedule": {"unit": "iteration", "length": 9}},
    {"workers": 2, "eval_every": 0},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: ",".join(settings) or "plain")
@pytest.mark.parametrize("place", [(1, 1), (2, 1), (2, 2)], ids=str)
def test_interrupted_and_resumed_equals_uninterrupted(
    settings: dict[str, Any],
    place: tuple[int, int],
    make_trainer: MakeTrainer,
    make_config: MakeConfig,
    recorder: Any,
) -> None:
    config = make_config(**settings)
    straight = make_trainer(config, "straight")
    straight.train()

    _stop_at(recorder, *place)
    stopped = make_trainer(config, "stopped").train()
    resumed = make_trainer(config, "stopped")
    resumed.restore(load_checkpoint(resumed.run.path / "checkpoint.pt"))
    recorder.on_tick = lambda *_: None
    finished = resumed.train()

    assert (stopped.status, stopped.signal) == ("interrupted", signal.SIGINT)
    assert (finished.status, finished.signal) == ("finished", None)
    _assert_same(straight, resumed)


def test_workers_do_not_change_the_weights(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainers = [make_trainer(make_config(workers=n), f"workers{n}") for n in (0, 2)]

    for trainer in trainers:
        trainer.train()

    _assert_same(*trainers)


def test_validation_does_not_change_the_weights(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    with_val = make_trainer(make_config(), "with")
    without = make_trainer(make_config(), "without", val=False)

    with_val.train()
    without.train()

    assert all(torch.equal(x, _weights(without)[name]) for name, x in _weights(with_val).items())


def test_validation_losses_are_drawn_alike_every_time(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(trainer._validate(_NoStop()))

    assert found[0] == pytest.approx(found[1], rel=0, abs=0, nan_ok=True)
    assert trainer.journal.display.validated == (7, 7)
    assert found[0]["val_loss"] == found[0]["val_loss_cls"] + found[0]["val_loss_reg"]


class _NoStop:
    def check(self) -> None:
        pass


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "INT"), (signal.SIGTERM, "TERM")])
def test_signal_ends_after_the_iteration_and_saves(
    number: int, name: str, make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    _stop_at(recorder, 2, 3, number)
    handlers = signal.getsignal(number)

    outcome = make_trainer(make_config()).train()

    state = load_checkpoint(outcome.run.path / "checkpoint.pt")
    assert (state["position"]["epoch"], state["position"]["iteration"]) == (1, 3)
    assert outcome.signal == number
    assert read_metadata(outcome.run.path / "last.safetensors").metadata["iteration"] == 7
    assert signal.getsignal(number) == handlers


@pytest.mark.parametrize(("call", "place"), [(5, (1, 4)), (9, (2, 4))], ids=["second", "last"])
def test_signal_in_validation_repeats_the_validation(
    call: int,
    place: tuple[int, int],
    make_trainer: MakeTrainer,
    make_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    straight = make_trainer(make_config(), "straight")
    straight.train()
    trainer = make_trainer(make_config(), "stopped")
    detect, calls = trainer.detector.detect, []

    def interrupted(images: Any, options: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return detect(images, options)

    monkeypatch.setattr(trainer.detector, "detect", interrupted)
    outcome = trainer.train()
    resumed = make_trainer(make_config(), "stopped")
    resumed.restore(load_checkpoint(resumed.run.path / "checkpoint.pt"))

    assert (outcome.position.epoch, outcome.position.iteration) == place
    assert not resumed.is_finished
    resumed.train()
    assert resumed.is_finished
    _assert_same(straight, resumed)


def test_a_training_made_longer_goes_on_within_the_epoch_that_its_end_cut_short(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    short, long = (
        make_config(schedule={"unit": "iteration", "length": length}) for length in (6, 11)
    )
    straight = make_trainer(long, "straight")
    straight.train()
    make_trainer(short, "longer").train()
    resumed = make_trainer(long, "longer")
    resumed.restore(load_checkpoint(resumed.run.path / "checkpoint.pt"))

    assert resumed.iteration == 6
    resumed.train()

    theirs = _weights(straight)
    assert all(torch.equal(x, theirs[name]) for name, x in _weights(resumed).items())
    assert [row["iteration"] for row in resumed.position.history] == [4, 6, 8, 11]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_setting_of_the_optimiser_that_changes_on_resuming_takes_effect(
    optimizer: str, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(optimizer=optimizer, weight_decay=1e-4))
    trainer.train()
    changed = make_trainer(make_config(optimizer=optimizer, weight_decay=0.5))

    changed.restore(trainer.state())

    assert changed.updater.optimizer.param_groups[0]["weight_decay"] == 0.5
    before, now = (t.updater.optimizer.state_dict()["state"] for t in (trainer, changed))
    assert before
    for number, moments in before.items():
        assert all(torch.equal(value, now[number][name]) for name, value in moments.items())


def test_rate_is_that_of_the_schedule(make_trainer: MakeTrainer, make_config: MakeConfig) -> None:
    config = make_config(log_every=1, lr=0.08, batch_size=2, reference_batch=4)
    trainer = make_trainer(config)

    trainer.train()

    rates = [interval.rate for interval in trainer.journal.display.intervals]
    schedule = config.train.schedule
    assert rates == [learning_rate(i, 0.04, schedule, epoch_length=4) for i in range(12)]


def test_best_model_is_the_one_of_the_best_epoch(
    make_trainer: MakeTrainer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.2, 0.5, 0.5, float("nan"), 0.3])
    stats = {"AP50": 0.0, "AP75": 0.0}
    monkeypatch.setattr(
        "dhcli.training.loop.validation_ap", lambda *_: ({"AP": next(values), **stats}, {})
    )
    trainer = make_trainer(make_config(schedule={"length": 5}))

    outcome = trainer.train()

    best = read_model(outcome.run.path / "best.safetensors")
    last = read_model(outcome.run.path / "last.safetensors")
    assert (outcome.position.best_ap, outcome.position.best_epoch) == (0.5, 2)
    assert (best.metadata["epoch"], last.metadata["epoch"]) == (2, 5)
    assert best.metadata["metrics"]["AP"] == 0.5
    assert best.classes == ("dot",)
    assert torch.equal(last.state["cls.weight"], trainer.detector.cls.weight)


def test_the_best_and_the_last_model_have_the_points_of_their_validation(
    make_trainer: MakeTrainer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([(0.2, {"f1": 1}), (0.5, {"f1": 2}), (0.4, {"f1": 3}), (0.3, {})])
    monkeypatch.setattr(
        "dhcli.training.loop.validation_ap",
        lambda *_: ({"AP": (now := next(values))[0], "AP50": 0.0, "AP75": 0.0}, now[1]),
    )
    trainer = make_trainer(make_config(schedule={"length": 3}))

    outcome = trainer.train()

    best, last = (read_metadata(outcome.run.path / f"{name}.safetensors") for name in NAMES)
    assert (best.metadata[KEY], last.metadata[KEY]) == ({"f1": 2}, {"f1": 3})
    longer = make_trainer(make_config(schedule={"length": 4}))
    longer.restore(load_checkpoint(outcome.run.path / "checkpoint.pt"))
    longer.save()
    assert read_metadata(outcome.run.path / "last.safetensors").metadata[KEY] == {"f1": 3}
    longer.train()
    assert KEY not in read_metadata(outcome.run.path / "last.safetensors").metadata
    assert "f1" not in (outcome.run.path / "metrics.csv").read_text()


def test_a_state_from_before_there_were_points_is_resumed(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())
    state = trainer.state()
    del state["position"]["points"]

    trainer.restore(state)

    assert trainer.position.points == {}


def test_patience_ends_training(
    make_trainer: MakeTrainer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.2, 0.1, 0.1, 0.1])
    stats = {"AP50": 0.0, "AP75": 0.0}
    monkeypatch.setattr(
        "dhcli.training.loop.validation_ap", lambda *_: ({"AP": next(values), **stats}, {})
    )

    outcome = make_trainer(make_config(schedule={"length": 9}, patience=2, save_every=0)).train()

    assert (outcome.status, outcome.position.epoch) == ("early", 3)
    assert load_checkpoint(outcome.run.path / "checkpoint.pt")["position"]["stale"] == 2


@pytest.mark.parametrize(("every", "validated"), [(0, [5]), (2, [2, 4, 5]), (1, [1, 2, 3, 4, 5])])
def test_validations_are_due(
    every: int, validated: list[int], make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(schedule={"length": 5}, eval_every=every))

    outcome = trainer.train()

    rows = list(csv.DictReader((outcome.run.path / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [int(row["epoch"]) for row in rows if row["AP"]] == validated
    assert all(float(row["train_loss"]) > 0 for row in rows)
    assert [bool(row["val_loss"]) for row in rows] == [bool(row["AP"]) for row in rows]


@pytest.mark.parametrize(("every", "saves"), [(0, [5]), (2, [2, 4, 5]), (1, [1, 2, 3, 4, 5])])
def test_state_is_saved_when_due_and_at_the_end(
    every: int, saves: list[int], make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    config = make_config(schedule={"length": 5}, save_every=every, eval_every=0)

    outcome = make_trainer(config).train()

    lines = (outcome.run.path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["epoch"] for event in events if event["event"] == "saved"] == saves
    assert load_checkpoint(outcome.run.path / "checkpoint.pt")["position"]["epoch"] == 5


def test_average_is_what_is_validated_and_saved(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(ema=0.9))

    outcome = trainer.train()

    saved = read_model(outcome.run.path / "last.safetensors").state["cls.weight"]
    assert torch.equal(saved, trainer.ema.module.cls.weight)
    assert not torch.equal(saved, trainer.detector.cls.weight)
    losses = [
        validation_losses(detector, trainer.val_loader, trainer.precision, lambda _: None)["loss"]
        for detector in (trainer.ema.module, trainer.detector)
    ]
    assert outcome.position.history[-1]["val_loss"] == losses[0] != losses[1]


def test_every_validated_model_is_kept_when_asked(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    outcome = make_trainer(make_config(keep_epochs=True)).train()

    kept = sorted(file.name for file in outcome.run.path.glob("epoch_*.safetensors"))
    assert kept == ["epoch_001.safetensors", "epoch_002.safetensors", "epoch_003.safetensors"]


def test_events_are_json_lines_with_every_loss_part(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())

    outcome = trainer.train()

    lines = (outcome.run.path / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    intervals = [event for event in events if event["event"] == "interval"]
    assert [event["total_iteration"] for event in intervals] == list(range(1, 13))
    for event in intervals:
        losses = event["losses"]
        assert losses["loss"] == pytest.approx(losses["loss_cls"] + losses["loss_reg"])
    epochs = [event for event in events if event["event"] == "epoch"]
    values = [event["losses"]["loss_cls"] for event in intervals]
    assert [event["train_loss_cls"] for event in epochs] == pytest.approx(
        [sum(values[start : start + 4]) / 4 for start in (0, 4, 8)]
    )


def _poison(trainer: Trainer, images: set[int]) -> None:
    """Make the loss of these images NaN."""
    update = trainer.updater.update

    def poisoned(batches: list[Any], *rest: Any) -> Any:
        for batch in batches:
            for place, image in enumerate(batch.indices):
                if image in images:
                    boxes = torch.full((1, 4), float("nan"))
                    batch.targets[place].boxes = boxes.expand(1, 4)
        return update(batches, *rest)

    losses = trainer.detector.losses

    def with_nan(batch: Any, targets: list[Any]) -> Any:
        found = losses(batch, targets)
        spoiled = sum(target.boxes.sum() for target in targets) * 0
        return found | {"loss_cls": found["loss_cls"] + spoiled}

    trainer.updater.update = poisoned
    trainer.detector.losses = with_nan


def test_non_finite_loss_stops_and_names_images_and_parts(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())
    _poison(trainer, {3})

    with pytest.raises(DhError) as caught:
        trainer.train()

    assert "3.png" in caught.value.where
    assert len(caught.value.where.split(", ")) <= 2
    assert "loss_cls nan" in caught.value.what
    assert "loss_reg 0." in caught.value.what
    assert all(x.isfinite().all() for x in trainer.detector.state_dict().values())


def test_non_finite_loss_is_skipped_when_asked(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(non_finite="skip", schedule={"length": 11}))
    _poison(trainer, {3})

    outcome = trainer.train()

    assert outcome.status == "finished"
    assert len(trainer.journal.display.warnings) == 11  # once an epoch
    assert all("3.png" in warning for warning in trainer.journal.display.warnings)
    assert all(x.isfinite().all() for x in trainer.detector.state_dict().values())
    assert all(row["train_loss"] > 0 for row in outcome.position.history)


def test_ten_skipped_in_a_row_stop(make_trainer: MakeTrainer, make_config: MakeConfig) -> None:
    trainer = make_trainer(make_config(non_finite="skip", schedule={"length": 9}))
    _poison(trainer, set(range(7)))

    with pytest.raises(DhError, match="10 in a row were skipped"):
        trainer.train()

    assert len(trainer.journal.display.warnings) == 9


def test_full_disk_keeps_the_last_good_checkpoint(
    make_trainer: MakeTrainer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(make_config())
    fsync, good = os.fsync, {}

    def full(descriptor: int) -> None:
        path = trainer.run.path / "checkpoint.pt"
        if path.exists():
            good[path] = path.read_bytes()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(DhError, match="No space left on device"):
        trainer.train()

    path = trainer.run.path / "checkpoint.pt"
    assert path.read_bytes() == good[path]
    assert load_checkpoint(path)["position"]["epoch"] == 1
    assert not list(trainer.run.path.glob(".*"))


class _Explode(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("inf")


def _explode(trainer: Trainer, updates: range) -> None:
    """Make the gradient, not the loss, of these updates infinite."""
    losses, done = trainer.detector.losses, []

    def steep(batch: Any, targets: list[Any]) -> Any:
        found = losses(batch, targets)
        if trainer.detector.training:
            done.append(1)
            if len(done) - 1 in updates:
                found["loss_cls"] = _Explode.apply(found["loss_cls"])
        return found

    trainer.detector.losses = steep


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_gradient_that_is_not_finite_stops_before_the_weights_move(
    clip_norm: float, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(clip_norm=clip_norm))
    _explode(trainer, range(7, 8))  # the last of epoch 2

    with pytest.raises(DhError, match="gradient is not finite at epoch 2, iteration 4") as caught:
        trainer.train()

    assert ".png" in caught.value.where
    kept = load_checkpoint(trainer.run.path / "checkpoint.pt")
    assert kept["position"]["epoch"] == 1
    assert all(x.isfinite().all() for x in kept["model"].values())


def test_epoch_of_nothing_but_skipped_steps_is_neither_validated_nor_saved(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(non_finite="skip", schedule={"length": 4}))
    _explode(trainer, range(4, 10))  # epoch 2 whole, half of epoch 3

    outcome = trainer.train()

    events = [json.loads(line) for line in (trainer.run.path / "events.jsonl").open()]
    assert [row["epoch"] for row in outcome.position.history if "AP" in row] == [1, 3, 4]
    assert [event["epoch"] for event in events if event["event"] == "saved"] == [1, 3, 4]
    assert any("nothing trained" in line for line in trainer.journal.display.lines)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_state_that_is_not_finite_never_replaces_a_finite_one(
    ema: float, make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    trainer = make_trainer(make_config(ema=ema))

    def spoil(epoch: int, iteration: int) -> None:
        if (epoch, iteration) == (2, 4):
            net = trainer.ema.module if trainer.ema else trainer.detector
            net.norm.running_mean[0] = float("nan")

    recorder.on_tick = spoil

    with pytest.raises(DhError, match="weights are not finite after iteration 4 of epoch 2"):
        trainer.train()

    kept = load_checkpoint(trainer.run.path / "checkpoint.pt")
    assert kept["position"]["epoch"] == 1
    for name in ("best", "last"):
        state = read_model(trainer.run.path / f"{name}.safetensors").state
        assert all(x.isfinite().all() for x in state.values())


def test_validation_loss_that_is_not_finite_is_an_error(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())
    losses = trainer.detector.losses

    def overflowing(batch: Any, targets: list[Any]) -> Any:
        factor = 1.0 if trainer.detector.training else float("inf")
        return {name: value * factor for name, value in losses(batch, targets).items()}

    trainer.detector.losses = overflowing

    with pytest.raises(DhError, match=r"validation loss is not finite after epoch 1 .loss_cls inf"):
        trainer.train()

    assert not (trainer.run.path / "last.safetensors").exists()


@pytest.mark.parametrize("error", [LoadingError("a process died"), DataError("cannot be read")])
def test_images_that_do_not_come_leave_the_state_of_the_last_step(
    error: DhError, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())
    epoch = trainer.loader.epoch

    def failing(number: int, start: int = 0, *, plain: bool) -> Any:
        batches = epoch(number, start, plain=plain)
        if number == 1:
            yield from (next(batches) for _ in range(3))
            raise error
        yield from batches

    trainer.loader.epoch = failing

    with pytest.raises(type(error)):
        trainer.train()

    kept = load_checkpoint(trainer.run.path / "checkpoint.pt")
    assert (kept["position"]["epoch"], kept["position"]["iteration"]) == (1, 3)


def test_signal_is_heard_while_waiting_for_a_batch(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config())
    epoch = trainer.loader.epoch

    def waiting(number: int, start: int = 0, *, plain: bool) -> Any:
        batches = epoch(number, start, plain=plain)
        yield next(batches)
        signal.raise_signal(signal.SIGTERM)
        trainer.loader.heed()
        raise AssertionError("waited on")

    trainer.loader.epoch = waiting

    outcome = trainer.train()

    assert (outcome.status, outcome.signal) == ("interrupted", signal.SIGTERM)
    assert load_checkpoint(trainer.run.path / "checkpoint.pt")["position"]["iteration"] == 1


def test_run_folder_that_goes_away_ends_the_training(
    make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    trainer = make_trainer(make_config())
    path = trainer.run.path

    def move(epoch: int, iteration: int) -> None:
        if (epoch, iteration) == (2, 4):
            path.rename(path.with_name("elsewhere"))

    recorder.on_tick = move

    with pytest.raises(DhError, match="the run folder is no longer there"):
        trainer.train()

    assert not path.exists()


def test_state_is_saved_by_the_clock_within_an_epoch(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    config = make_config(save_minutes=2, save_every=0)
    straight, trainer = make_trainer(make_config(), "straight"), make_trainer(config)
    trainer.watch.now, trainer.saved_at = lambda: trainer.iteration * 50.0, 0.0  # seconds

    straight.train()
    trainer.train()

    events = [json.loads(line) for line in (trainer.run.path / "events.jsonl").open()]
    saved = [event["total_iteration"] for event in events if event["event"] == "saved"]
    assert saved == [3, 6, 9, 12, 12]
    _assert_same(straight, trainer)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_go_away_in_mid_run_are_left_out_where_asked(
    workers: int, make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    config = make_config(workers=workers)
    data = config.data.model_copy(update={"on_bad_image": "skip"})
    trainer = make_trainer(config.model_copy(update={"data": data}))
    path = trainer.data.train.path(3)

    def lose(epoch: int, iteration: int) -> None:
        if (epoch, iteration) == (1, 4):
            path.unlink()

    recorder.on_tick = lose

    outcome = trainer.train()

    assert outcome.status == "finished"
    assert f"{path}: no such image; left out of its batch (data.on_bad_image)" in recorder.warnings
    events = [json.loads(line) for line in (trainer.run.path / "events.jsonl").open()]
    # in the validations of three epochs, twice each, and in the training of two
    assert sum(event["event"] == "image_left_out" for event in events) == 8
    assert [row["iteration"] for row in outcome.position.history] == [4, 8, 12]


def test_share_that_is_gone_for_good_ends_the_training(
    make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    config = make_config(schedule={"length": 9})
    data = config.data.model_copy(update={"on_bad_image": "skip"})
    trainer = make_trainer(config.model_copy(update={"data": data}), val=False)

    def lose(epoch: int, iteration: int) -> None:
        if (epoch, iteration) == (2, 2):
            for image in range(7):
                trainer.data.train.path(image).unlink()

    recorder.on_tick = lose

    with pytest.raises(DataError, match="no image could be read in 10 steps in a row"):
        trainer.train()

    assert load_checkpoint(trainer.run.path / "checkpoint.pt")


@pytest.mark.parametrize(("asked", "every"), [(50, 2), (1, 1)])
def test_lines_come_ten_times_an_epoch_at_least(
    asked: int, every: int, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(log_every=asked))
    trainer.epoch_length = 25

    assert trainer.log_every == every


def test_first_line_comes_within_seconds(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainer = make_trainer(make_config(log_every=100, schedule={"length": 2}))
    trainer.epoch_length, trainer.total = 40, 80
    trainer.watch.now, trainer.watch.begun = lambda: trainer.iteration * 2.0, 0.0
    batch = next(make_trainer(make_config(), "other").loader.epoch(0))
    trainer.loader = SimpleNamespace(epoch=lambda *_, **__: iter([batch] * 40), whole=40)  # type: ignore[assignment]

    trainer._train_epoch(_NoStop())

    told = trainer.journal.display.intervals
    assert [interval.iteration for interval in told] == [2, 4, 8, *range(12, 41, 4)]
    assert told[0].eta == 2.0 * 78
    assert not trainer.journal.display.warnings


@pytest.mark.parametrize("name", ["custom", "small"])
def test_what_a_long_training_on_a_cpu_costs_is_said_at_once(
    name: str, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    config = make_config(log_every=100).model_copy(update={"name": name})
    trainer = make_trainer(config, val=False)
    trainer.watch.now, trainer.watch.begun = lambda: trainer.iteration * 3600.0, 0.0

    trainer.train()

    [warning] = trainer.journal.display.warnings
    assert warning.startswith("on this CPU the training takes about 11 hours")
    assert ("--preset light" in warning) == (name == "custom")


def test_state_that_was_read_is_saved_the_same(
    make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    _stop_at(recorder, 2, 3)
    stopped = make_trainer(make_config())
    stopped.train()
    resumed = make_trainer(make_config())

    resumed.restore(load_checkpoint(stopped.run.path / "checkpoint.pt"))

    groups = [t.state()["optimizer"]["param_groups"] for t in (stopped, resumed)]
    assert groups[0] == groups[1]


def test_the_last_epochs_are_plain_and_the_detector_is_told_once_and_after_resuming(
    make_trainer: MakeTrainer, make_config: MakeConfig, recorder: Any
) -> None:
    config = config_from_dict(
        {
            **config_to_dict(make_config(ema=0.5, ema_ramp=5)),
            "input": {"min_size": 32, "max_size": 32, "letterbox": 114},
            "augment": {"mosaic": 1, "mixup": 1, "plain_epochs": 1, "batch_sizes": [32, 64]},
        }
    )
    straight = make_trainer(config, "straight")
    asked: list[tuple[int, bool]] = []
    told: list[int] = []
    epoch = straight.loader.epoch

    def seen(number: int, start: int = 0, *, plain: bool = False) -> Any:
        asked.append((number, plain))
        return epoch(number, start, plain=plain)

    straight.loader.epoch = seen  # type: ignore[method-assign]
    straight.detector.settle = lambda: told.append(straight.position.epoch)  # type: ignore[method-assign]
    straight.train()
    _stop_at(recorder, 3, 2)
    make_trainer(config, "stopped").train()
    resumed = make_trainer(config, "stopped")
    resumed.restore(load_checkpoint(resumed.run.path / "checkpoint.pt"))
    recorder.on_tick = lambda *_: None
    resumed.train()

    assert asked == [(0, False), (1, False), (2, True)]
    assert told == [2]
    _assert_same(straight, resumed)

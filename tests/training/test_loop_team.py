"""Several trainers of one team: each decision is the same in all of them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.schema import Config
from dhcli.data.loading.loader import EvalLoader
from dhcli.data.table import DetectionTable, make_table
from dhcli.errors import ConfigError, DataError, DhError
from dhcli.models.contract import Detector
from dhcli.ops.batch import Detections, ImageBatch
from dhcli.runtime.eager import EagerRunner
from dhcli.runtime.precision import Precision
from dhcli.runtime.team import Team
from dhcli.training.checkpoint import load_checkpoint
from dhcli.training.data import TrainingData
from dhcli.training.journal import Journal, Silence
from dhcli.training.loop import Trainer
from dhcli.training.meters import LossMeter
from dhcli.training.run_folder import RunFolder
from dhcli.training.validate import validation_ap, validation_losses
from tests.forked import forked
from tests.threads import together
from tests.training.conftest import Recorder, TinyDetector

CPU = torch.device("cpu")
MakeTrainer = Callable[..., Trainer]
MakeConfig = Callable[..., Config]


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in trainer.detector.state_dict().items()}


def _poison(trainer: Trainer, iteration: int) -> None:
    """Make the loss of this iteration of the whole training NaN."""
    losses = trainer.detector.losses

    def with_nan(images: Any, targets: Any) -> Any:
        found = losses(images, targets)
        wrong = float("nan") if trainer.iteration == iteration else 0.0
        return found | {"loss_cls": found["loss_cls"] + wrong}

    trainer.detector.losses = with_nan


@pytest.mark.parametrize("bad", [0, 1])
def test_a_loss_that_is_not_finite_in_one_process_is_skipped_by_all(
    bad: int, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    config = make_config(non_finite="skip", eval_every=0)
    trainers: dict[int, Trainer] = {}
    before: dict[int, dict[str, Tensor]] = {}

    def work(team: Team) -> str:
        trainer = trainers[team.rank] = make_trainer(config, val=False, team=team)
        if team.rank == bad:
            _poison(trainer, 1)
        update = trainer.updater.update

        def watched(group: Any, *rest: Any) -> Any:
            weights = _weights(trainer)
            result = update(group, *rest)
            if not result.moved:
                assert bool(result.bad) == (team.rank == bad)
                before[team.rank] = weights
                for name, value in _weights(trainer).items():
                    assert torch.equal(value, weights[name]) or "num_batches" in name
            return result

        trainer.updater.update = watched
        return trainer.train().status

    assert together(2, work) == ["finished", "finished"]
    assert before.keys() == {0, 1}
    warnings = trainers[0].journal.display.warnings
    assert len(warnings) == 1
    assert ".png" in warnings[0]
    assert "loss_cls nan" in warnings[0]
    for trainer in trainers.values():
        assert all(x.isfinite().all() for x in _weights(trainer).values())


def test_a_loss_that_is_not_finite_stops_all_with_the_same_words(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    def work(team: Team) -> None:
        trainer = make_trainer(make_config(), team=team)
        if team.rank == 1:
            _poison(trainer, 1)
        trainer.train()

    first, other = together(2, work)

    assert isinstance(first, DhError)
    assert isinstance(other, DhError)
    assert "loss_cls nan" in first.what
    assert (first.what, first.where) == (other.what, other.where)
    assert first.where is not None
    assert len(first.where.split(", ")) <= 2  # the images of the one that saw it, not of both


@pytest.mark.parametrize("asked", [0, 1])
def test_a_signal_to_one_process_stops_all_and_the_state_is_saved(
    asked: int, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    trainers: dict[int, Trainer] = {}

    def work(team: Team) -> Any:
        trainer = trainers[team.rank] = make_trainer(make_config(log_every=1), team=team)
        update = trainer.updater.update

        def interrupted(group: Any, *rest: Any) -> Any:
            if team.rank == asked and trainer.iteration == 2:
                signal.raise_signal(signal.SIGTERM)
            return update(group, *rest)

        trainer.updater.update = interrupted
        result = trainer.train()
        return result.status, result.signal, result.position.epoch, result.position.iteration

    said = together(2, work, main=asked)

    assert said == [("interrupted", signal.SIGTERM, 1, 1)] * 2
    position = load_checkpoint(trainers[0].run.path / "checkpoint.pt")["position"]
    assert (position["epoch"], position["iteration"]) == (1, 1)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("part", ["losses", "detect"])
def test_a_signal_in_validation_stops_all_though_their_shares_are_uneven(
    part: str, size: int, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    """Seven images are four batches, so with three processes one has two and the others one."""

    def work(team: Team) -> Any:
        trainer = make_trainer(make_config(), team=team)
        asked, calls = getattr(trainer.detector, part), []

        def interrupted(*given: Any) -> Any:
            if not trainer.detector.training:
                calls.append(1)
                if team.rank == 0 and len(calls) == 2:
                    signal.raise_signal(signal.SIGINT)
            return asked(*given)

        setattr(trainer.detector, part, interrupted)
        result = trainer.train()
        return result.status, result.signal, result.position.epoch

    assert together(size, work) == [("interrupted", signal.SIGINT, 0)] * size


@pytest.mark.parametrize("size", [2, 3])
def test_only_the_first_writes_and_speaks(
    size: int, make_trainer: MakeTrainer, make_config: MakeConfig, tmp_path: Path
) -> None:
    trainers: dict[int, Trainer] = {}

    def work(team: Team) -> Any:
        config = make_config(keep_epochs=True, ema=0.5)
        trainer = trainers[team.rank] = make_trainer(config, f"run{team.rank}", team=team)
        result = trainer.train()
        trainer.journal.close()
        return result.position

    positions = together(size, work)

    assert {f.name for f in (tmp_path / "run0").iterdir()} >= {
        *("best.safetensors", "last.safetensors", "checkpoint.pt", "metrics.csv"),
        *("train.log", "events.jsonl", "epoch_001.safetensors"),
    }
    for rank in range(1, size):
        assert not list((tmp_path / f"run{rank}").iterdir())
        assert not trainers[rank].journal._early
        assert isinstance(trainers[rank].journal.display, Silence)
        assert str(positions[rank]) == str(positions[0])
    assert len(trainers[0].journal.display.intervals) == len(
        (tmp_path / "run0/events.jsonl").read_text().split('"event": "interval"')[1:]
    )


def test_early_stopping_and_the_best_model_are_the_teams(
    make_trainer: MakeTrainer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process alone would find another AP: what the first one scores counts for all."""
    values = iter([0.2, 0.5, 0.1, 0.1, 0.9, 0.9])
    stats = {"AP50": 0.0, "AP75": 0.0}
    monkeypatch.setattr(
        "dhcli.training.validate.coco_ap",
        lambda *_: type("Result", (), {"stats": {"AP": next(values), **stats}}),
    )

    def work(team: Team) -> Any:
        config = make_config(schedule={"length": 9}, patience=2)
        result = make_trainer(config, team=team).train()
        return result.status, result.position.best_epoch, result.position.best_ap

    assert together(2, work) == [("early", 2, 0.5)] * 2


def test_a_full_disk_ends_every_process_at_once(
    make_trainer: MakeTrainer, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    for error in together(3, lambda team: make_trainer(make_config(), team=team).train()):
        assert isinstance(error, DhError)
        assert "No space left on device" in str(error)


def test_a_state_that_several_have_saved_holds_the_losses_of_all() -> None:
    def add(meter: LossMeter, value: float) -> None:
        meter.add({"loss_cls": torch.tensor(value)})

    def work(team: Team) -> Any:
        meter, later = LossMeter(team), LossMeter(team)
        add(meter, 1.0 + team.rank)
        meter.interval()
        add(meter, 5.0 + 2 * team.rank)
        state = meter.state_dict()
        later.load_state_dict(state)
        for one in (meter, later):
            add(one, 3.0)
        assert later.state_dict() == meter.state_dict()
        return state["count"], meter.interval(), later.interval(), meter.epoch(), later.epoch()

    interval = {"loss_cls": (5 + 7 + 3 + 3) / 4, "loss": (5 + 7 + 3 + 3) / 4}
    epoch = {"loss_cls": (1 + 2 + 5 + 7 + 3 + 3) / 6, "loss": (1 + 2 + 5 + 7 + 3 + 3) / 6}
    assert together(2, work) == [(4, interval, interval, epoch, epoch)] * 2


def _trained(config: Config, table: DetectionTable, folder: Path, team: Team) -> Any:
    """The losses of every iteration, the weights and their average."""
    path = folder / f"of{team.size}"
    path.mkdir(exist_ok=True)
    run, shown = RunFolder(path), Recorder()
    torch.manual_seed(0)
    journal, data = Journal(shown, team), TrainingData(table, None)
    trainer = Trainer(config, TinyDetector(), data, run, journal, CPU, team=team)
    trainer.train()
    kept = {n: x for n, x in _weights(trainer).items() if "num_batches" not in n}
    assert trainer.ema
    average = {n: x for n, x in trainer.ema.module.state_dict().items() if n in kept}
    return [x.losses for x in shown.intervals], kept, average


@pytest.mark.parametrize(("size", "accumulate"), [(2, 4), (3, 3)])
def test_several_processes_train_as_one_with_the_same_images_per_step(
    size: int, accumulate: int, table: DetectionTable, tmp_path: Path, make_config: MakeConfig
) -> None:
    """Seven images are four batches: in an epoch's last step some process may have none."""
    config = make_config(
        schedule={"length": 20},
        accumulate=accumulate,
        log_every=1,
        ema=0.5,
        lr=0.01,
        eval_every=0,
        save_every=0,
    )
    work = partial(_trained, config, table, tmp_path)

    losses, weights, average = work(Team.alone())
    (seen, *first), *others = forked(size, work)

    assert len(losses) >= 20
    assert len(seen) == len(losses)
    for now, then in zip(seen, losses, strict=True):
        assert now == pytest.approx(then, rel=1e-5)
    for name, value in weights.items():
        if "running" not in name:  # of these the processes have the mean of their own
            torch.testing.assert_close(first[0][name], value, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(first[1][name], average[name], rtol=1e-5, atol=1e-6)
    for _, *other in others:
        for own, theirs in zip(first, other, strict=True):
            assert all(torch.equal(own[n], theirs[n]) for n in own)


def test_a_run_goes_on_exactly_in_more_processes_with_the_same_images_per_step(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    config = make_config(accumulate=2)
    whole = make_trainer(config, "whole")
    whole.train()
    begun = make_trainer(config, "begun")
    begun.journal.display.on_tick = lambda epoch, k: (
        signal.raise_signal(signal.SIGTERM) if (epoch, k) == (2, 1) else None
    )
    begun.train()
    state = load_checkpoint(begun.run.path / "checkpoint.pt")
    assert (state["position"]["epoch"], state["position"]["iteration"]) == (1, 1)

    def work(team: Team) -> Any:
        trainer = make_trainer(config, "begun", team=team)
        trainer.restore(load_checkpoint(begun.run.path / "checkpoint.pt"))
        trainer.train()
        return _weights(trainer), getattr(trainer.journal.display, "lines", None)

    (weights, lines), _ = together(2, work)  # type: ignore[misc]
    assert lines[0] == "2 processes instead of 1, and the same 4 images per step: exact"
    for name, value in _weights(whole).items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=1e-7)


def test_a_run_that_goes_on_with_other_images_per_step_says_so(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    state = make_trainer(make_config()).state()
    state["position"] |= {"epoch": 1, "iteration": 3}  # six of the seven images

    def resume(config: Config) -> Any:
        def work(team: Team) -> Any:
            trainer = make_trainer(config, team=team)
            trainer.restore(state)
            return trainer.position, getattr(trainer.journal.display, "warnings", None)

        return together(2, work)

    (position, warnings), _ = resume(make_config())
    assert (position.epoch, position.iteration) == (1, 1)  # after four of them
    assert "2 processes instead of 1, 4 images per step instead of 2: not what" in warnings[0]
    for error in resume(make_config(schedule={"unit": "iteration", "length": 9})):
        assert isinstance(error, ConfigError)
        assert "the schedule counts steps" in error.what
        assert error.hint == "as many processes as before: `--nproc 1`; or `--epochs N`"


@pytest.mark.parametrize("size", [2, 3])
def test_an_image_that_one_process_cannot_read_ends_all_with_its_line_and_the_state_is_saved(
    size: int, table: DetectionTable, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    table.path(3).unlink()

    found = together(size, lambda team: make_trainer(make_config(), team=team).train())

    assert len({str(error) for error in found}) == 1
    assert isinstance(found[0], DataError)
    assert "3.png" in str(found[0])
    path = table.root.parent / "run/checkpoint.pt"
    assert load_checkpoint(path)["processes"] == size


@pytest.mark.parametrize("bad", [0, 2])
def test_an_image_that_cannot_be_read_in_validation_ends_all(
    bad: int, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    """Seven images are four batches: the first process has two, the others one."""

    def work(team: Team) -> None:
        trainer = make_trainer(make_config(), team=team)
        loader = trainer.val_loader
        assert loader is not None
        delivered = loader._delivered

        def broken() -> Any:
            batches = list(delivered())
            yield from batches[:-1]
            raise DataError("is broken", where=f"of {team.rank}")

        if team.rank == bad:
            loader._delivered = broken
        trainer.train()

    assert [str(error) for error in together(3, work)] == [f"of {bad}: is broken"] * 3


def test_a_process_whose_images_are_all_left_out_goes_along(
    table: DetectionTable, make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    """What it lacks is told by the first, once for each image; the mean is over the others."""
    for image in range(5):
        table.path(image).unlink()
    config = make_config(batch_size=1, eval_every=0)
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"on_bad_image": "skip"})}
    )
    trainers: dict[int, Trainer] = {}

    def work(team: Team) -> Any:
        trainer = trainers[team.rank] = make_trainer(config, val=False, team=team)
        return trainer.train().status, _weights(trainer)

    (status, weights), (_, other) = together(2, work)  # type: ignore[misc]

    assert status == "finished"
    assert all(torch.equal(x, other[n]) for n, x in weights.items() if "num_batches" not in n)
    said = [line.split(": ")[0] for line in trainers[0].journal.display.warnings]
    assert {Path(path).name for path in said} == {f"{n}.png" for n in range(5)}
    assert 3 * 5 <= len(said) <= 3 * 6  # of seven batches, one is loaded twice


def test_norms_over_all_processes_are_for_gpus(
    make_trainer: MakeTrainer, make_config: MakeConfig
) -> None:
    config = make_config(sync_bn=True)

    for error in together(2, lambda team: make_trainer(config, team=team)):
        assert "train.sync_bn: works on GPUs only, not on cpu" in str(error)
    make_trainer(config)  # alone there is nothing to do


class Recognises(Detector):
    """Finds an image's own boxes by its pixels, moved by as many pixels as its number."""

    def __init__(self, known: dict[int, tuple[int, float]]) -> None:
        super().__init__()
        self.known = known

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        found = []
        for pixels in images.pixels:
            number, side = self.known[int(pixels.sum())]
            box = torch.tensor([[2.0, 2.0, 2 + side, 2 + side]]) + number
            label = torch.zeros(1, dtype=torch.long)
            found.append(Detections(box, torch.tensor([1 / (1 + number)]), label))
        return [found]

    def losses(self, images: ImageBatch, _: Any) -> dict[str, Tensor]:
        noise = torch.rand(())
        return {"loss_cls": images.pixels.float().mean() * noise, "loss_reg": noise}


@pytest.fixture
def varied(table: DetectionTable) -> tuple[DetectionTable, Recognises]:
    """The images, each with a box of its own, and who knows them apart."""
    from PIL import Image

    sides = [6.0, 8, 10, 12, 14, 16, 18]
    boxes = [[2, 2, 2 + side, 2 + side] for side in sides]
    own = make_table(table.root, table.files, table.sizes, [1] * 7, boxes, [0] * 7, ["dot"])
    sums = [int(np.asarray(Image.open(own.path(i))).sum(dtype=np.int64)) for i in range(7)]
    return own, Recognises({total: (i, sides[i]) for i, total in enumerate(sums)})


def _validated(table: DetectionTable, detector: Detector, config: Config, team: Team) -> Any:
    loader = EvalLoader(table, config.input, batch_size=2, workers=0, share=team.share)
    runner = EagerRunner(detector.eval(), config, ("dot",), (1,), CPU)
    ticks = []

    def tick(_: int) -> None:
        ticks.append(1)
        assert not team.any(False)

    full = Precision("fp32", CPU)
    return (
        validation_losses(detector, loader, full, tick, team),
        validation_ap(runner, table, loader, tick, team),
        len(ticks),
    )


@pytest.mark.parametrize(
    ("size", "started"), [(1, together), (2, together), (6, together), (2, forked), (3, forked)]
)
def test_validation_in_shares_is_that_of_one_process(
    size: int, started: Any, varied: tuple[DetectionTable, Recognises], make_config: MakeConfig
) -> None:
    table, detector = varied
    work = partial(_validated, table, detector, make_config())

    (losses, (stats, points), ticks), *others = started(size, work)
    whole = EvalLoader(table, make_config().input, batch_size=2, workers=0)
    runner = EagerRunner(detector.eval(), make_config(), ("dot",), (1,), CPU)
    alone = validation_losses(detector, whole, Precision("fp32", CPU), lambda _: None)

    assert losses == pytest.approx(alone, rel=1e-6)
    whole_stats, whole_points = validation_ap(runner, table, whole, lambda _: None)
    assert str(stats) == str(whole_stats)  # to the digit, NaN and all
    assert points == whole_points
    assert 0 < points["all"]["f1"] < 1
    assert 0 < stats["AP"] < 1
    assert all(str(other) == str((losses, (stats, points), ticks)) for other in others)

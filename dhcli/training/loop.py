"""The training loop: steps, epochs, validations, and what is saved after them.

An iteration is a step, one move of the optimiser. What is decided here, the team decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch.nn.utils import get_total_norm

from dhcli.config.load import config_to_dict
from dhcli.config.presets import CPU_PRESET, LIGHT
from dhcli.config.schema import Config
from dhcli.data.loading.loader import Batch, EvalLoader, TrainLoader
from dhcli.data.loading.repeats import repeats_of
from dhcli.data.loading.workers import LoadingError
from dhcli.data.table import DetectionTable
from dhcli.errors import ConfigError, DataError, DhError
from dhcli.metrics.operating import KEY
from dhcli.models.contract import Detector
from dhcli.models.fast import prepare_for_training
from dhcli.models.norms import synchronise
from dhcli.models.state import load_state
from dhcli.runtime.eager import EagerRunner
from dhcli.runtime.memory import memory_used
from dhcli.runtime.precision import choose_precision
from dhcli.runtime.team import ALONE, Team
from dhcli.training.checkpoint import Position, save_checkpoint
from dhcli.training.data import TrainingData
from dhcli.training.ema import Ema
from dhcli.training.journal import Interval, Journal
from dhcli.training.meters import LossMeter, Stopwatch
from dhcli.training.optimizer import build_optimizer, set_rate
from dhcli.training.run_folder import CHECKPOINT, RunFolder
from dhcli.training.schedule import (
    base_rate,
    images_per_step,
    learning_rate,
    micro_batch,
    own_batches,
    plain_epochs,
    scheduled,
    total_iterations,
)
from dhcli.training.step import StepResult, Updater
from dhcli.training.stop import Stopped, StopRequest
from dhcli.training.validate import validation_ap, validation_losses
from dhcli.weights.locate_model import BEST, LAST
from dhcli.weights.model_file import ModelFile, save_model
from dhcli.words import counted

FIRST_NEWS = 3.0
"""Seconds after which the first iteration that ends is told of, with the time that is left."""
LONG = 4 * 3600.0
"""Seconds of training on a CPU that are worth a word."""
MOST_SKIPPED = 10
"""Iterations in a row whose loss or gradient is not finite, after which skipping ends."""

LOWER_RATE = "try a lower learning rate (`--lr`), or `--set train.clip_norm=10`"


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended: at its end, by early stopping, or by the signal `signal`."""

    run: RunFolder
    status: Literal["finished", "early", "interrupted"]
    position: Position
    signal: int | None = None


class Trainer:
    """Trains a detector into a run folder, as one of the processes of `team`.

    Everything that decides what comes next is in `position`, `meter`, and the states of model,
    optimiser, scaler and average; `state()` is all of it, and from `restore(state)` on training
    goes on as if it had never stopped.
    """

    def __init__(
        self,
        config: Config,
        detector: Detector,
        data: TrainingData,
        run: RunFolder,
        journal: Journal,
        device: torch.device,
        *,
        team: Team = ALONE,
    ) -> None:
        train = config.train
        self.skips = config.data.on_bad_image == "skip"
        self.config, self.data, self.run, self.journal = config, data, run, journal
        self.device, self.team = device, team
        self.detector = detector.to(device)
        team.copy_first(list(detector.state_dict().values()))
        if train.sync_bn and team.size > 1:
            synchronise(detector, device)
        prepare_for_training(self.detector)
        self.precision = choose_precision(train.precision, device)
        optimizer = build_optimizer(self.detector, train)
        self.updater = Updater(
            self.detector,
            optimizer,
            self.precision,
            train.clip_norm,
            team,
            halves=not (train.sync_bn and team.size > 1),  # its forward pass waits for the others
        )
        self.ema = Ema(self.detector, train.ema, train.ema_ramp) if train.ema else None
        self.accumulate = own_batches(train, team.size)
        self.repeats = repeats_of(data.train, train.repeat_below, config.data.difficult)
        self.loader = TrainLoader(
            data.train,
            config.input,
            config.augment,
            batch_size=micro_batch(train),
            seed=train.seed,
            workers=train.workers,
            share=team.share,
            difficult=config.data.difficult,
            cache=data.train_cache,
            held=self.accumulate,
            skip=self.skips,
            factors=self.repeats.factors if self.repeats else None,
        )
        self.val_loader = None if data.val is None else self._val_loader(data.val)
        self.epoch_length = math.ceil(len(self.loader) / self.accumulate)
        self.schedule = scheduled(train, self.epoch_length)
        self.total = total_iterations(self.schedule, self.epoch_length)
        self.epochs = math.ceil(self.total / self.epoch_length)
        self.plain_from = self.epochs - plain_epochs(config.augment, train)
        self.position, self.meter, self.watch = Position(), LossMeter(team), Stopwatch()
        self.saved_at, self.told = self.watch.now(), False
        self.left_out: list[tuple[str, str]] = []

    @property
    def iteration(self) -> int:
        """Iterations done in the whole training."""
        done = self.position.epoch * self.epoch_length + self.position.iteration
        return min(done, self.total)  # the last epoch may be cut short

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do: the last epoch is validated, too."""
        return self.iteration >= self.total and not self.position.iteration

    @property
    def log_every(self) -> int:
        """Iterations between lines: ten of them an epoch at least."""
        return max(1, min(self.config.train.log_every, self.epoch_length // 10))

    @property
    def model(self) -> Detector:
        """What is validated and saved: the moving average of the weights, if there is one."""
        return self.ema.module if self.ema else self.detector

    @property
    def patience_is_over(self) -> bool:
        """Whether no better AP has come for `train.patience` validations."""
        return 0 < self.config.train.patience <= self.position.stale

    def train(self) -> TrainingResult:
        """Train to the end, or until a signal or early stopping ends it; save the state.

        Raises DhError where a loss is not finite, an image cannot be read or a file not written.
        """
        with StopRequest(self.team) as stop:
            for loader in (self.loader, self.val_loader):
                if loader is not None:
                    loader.heed = stop.while_waiting
            self.loader.lost = partial(self._say_lost, self.data.train)
            if self.val_loader is not None and self.data.val is not None:
                self.val_loader.lost = partial(self._say_lost, self.data.val)
            try:
                while not self.is_finished and not self.patience_is_over:
                    self._train_epoch(stop)
                    self._finish_epoch(stop)
            except Stopped:
                self.save()
                return TrainingResult(self.run, "interrupted", self.position, stop.signal)
            except (LoadingError, DataError):  # in all, between two steps: the state is whole
                self.save()
                raise
        status: Literal["finished", "early"] = "finished" if self.is_finished else "early"
        return TrainingResult(self.run, status, self.position)

    def state(self) -> dict[str, Any]:
        """The whole state, of tensors and plain values; every process must ask for it."""
        return {
            "model": self.detector.state_dict(),
            "optimizer": self.updater.optimizer.state_dict(),
            "scaler": self.updater.scaler.state_dict(),
            "ema": self.ema and self.ema.state_dict(),
            "position": asdict(self.position),
            "meter": self.meter.state_dict(),
            "config": config_to_dict(self.config),
            "data": self.data.fingerprint(),
            "processes": self.team.size,
            "parts": self.updater.parts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, with the settings of the optimiser that are configured now."""
        load_state(self.detector, state["model"], self.run.path / CHECKPOINT)
        optimizer = self.updater.optimizer
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({**state["optimizer"], "param_groups": groups})
        if state["scaler"]:  # empty where the run began without fp16
            self.updater.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        self.updater.parts = state.get("parts", 1)  # 1 before they were counted
        self.position = Position(**state["position"])
        self.meter.load_state_dict(state["meter"])
        before = state.get("processes", 1)
        if before == self.team.size or self._keeps_step(before):
            self._reopen_epoch()
        if self.iteration:  # so that a state saved before the next step is the one that was read
            set_rate(optimizer, self._rate(self.iteration - 1))

    def save(self) -> None:
        """Write last.safetensors and the whole state, which takes the place of the one before.

        Raises DhError where it is not finite: the one before is then the last good one.
        """
        self._require_finite()
        self._save_model(LAST)
        state = self.state()
        self.team.from_first(lambda: save_checkpoint(self.run.place(CHECKPOINT), state))
        self.journal.event("saved", epoch=self.position.epoch, total_iteration=self.iteration)
        self.saved_at = self.watch.now()

    def _save_in_time(self) -> None:
        """Save in the middle of an epoch where `train.save_minutes` have gone by since the last."""
        minutes = self.config.train.save_minutes
        if self.team.any(0 < minutes <= (self.watch.now() - self.saved_at) / 60):
            self.save()

    def _keeps_step(self, before: int) -> bool:
        """Whether a step is what it was with `before` processes; say so, or find the place anew."""
        train, now = self.config.train, self.team.size
        was, is_ = images_per_step(train, before), images_per_step(train, now)
        steps = f"{counted(now, 'process')} instead of {before}"
        if was == is_:
            self.journal.say(f"{steps}, and the same {counted(was, 'image')} per step: exact")
            return True
        if train.schedule.unit == "iteration" and not train.epochs:
            what = f"with {steps} a step has {is_} images, not {was}, and the schedule counts steps"
            hint = f"as many processes as before: `--nproc {before}`; or `--epochs N`"
            raise ConfigError(what, hint=hint)
        position = self.position
        position.iteration = position.iteration * was // is_
        self.journal.warn(
            f"{steps}, {is_} images per step instead of {was}: not what the run would have been; "
            f"the learning rate follows, and epoch {position.epoch + 1} goes on after about as "
            "many images"
        )
        return False

    def _reopen_epoch(self) -> None:
        """Where a training is made longer whose end cut an epoch short, go on within that epoch."""
        position = self.position
        done = position.history[-1]["iteration"] if position.history else 0
        if not position.iteration and done < min(self.iteration, self.total):
            position.epoch, position.iteration = divmod(done, self.epoch_length)

    def _val_loader(self, table: DetectionTable) -> EvalLoader:
        train = self.config.train
        return EvalLoader(
            table,
            self.config.input,
            batch_size=micro_batch(train),
            workers=train.workers,
            share=self.team.share,
            difficult=self.config.data.difficult,
            cache=self.data.val_cache,
            sized=True,
            skip=self.skips,
        )

    def _train_epoch(self, stop: StopRequest) -> None:
        length = min(self.epoch_length, self.total - self.position.epoch * self.epoch_length)
        self.detector.train()
        if self._is_plain():
            self.detector.settle()
            self.model.settle()
        self.watch.restart()
        for group in self._groups(length):
            self._iterate(group)
            done = self.position.iteration
            self.journal.display.tick(self.position.epoch + 1, done, length)
            if done % self.log_every == 0 or done == length or self._is_first_news():
                self._tell(length)
            stop.check()
            self._save_in_time()

    def _is_plain(self) -> bool:
        """Whether this epoch is one of `augment.plain_epochs`."""
        return self.position.epoch >= self.plain_from

    def _is_first_news(self) -> bool:
        """Whether nothing was told yet, and it is time to: all of the team must ask alike."""
        waited = self.watch.now() - self.watch.begun
        return not self.told and self.team.any(waited > FIRST_NEWS)

    def _groups(self, length: int) -> Iterator[list[Batch]]:
        """The batches of each iteration that the epoch still has to do."""
        size = self.accumulate
        start = self.position.iteration * size
        batches = self.loader.epoch(self.position.epoch, start, plain=self._is_plain())
        while self.position.iteration < length:
            with self.watch.waiting():
                group = self.team.each(lambda: list(islice(batches, size)))
            yield group

    def _say_lost(self, table: DetectionTable, image: int, why: str) -> None:
        self.left_out.append((str(table.path(image)), why))
        if self.team.size == 1:
            self._tell_left_out()

    def _tell_left_out(self) -> None:
        """Warn of the images that were left out in any process: all must tell alike."""
        for path, why in self.team.gather(self.left_out):
            self.journal.warn(f"{path}: {why}; left out of its batch (data.on_bad_image)")
            self.journal.event(
                "image_left_out", total_iteration=self.iteration, image=path, why=why
            )
        self.left_out.clear()

    def _pass_over(self) -> None:
        """Not one image of a step could be read. Raises DataError where that goes on."""
        self.position.skipped += 1
        self.position.iteration += 1
        if self.position.skipped >= MOST_SKIPPED:
            what = f"no image could be read in {MOST_SKIPPED} steps in a row"
            raise DataError(
                what, where=self.data.train.root, hint="is the disk or share still there?"
            )

    def _counted(self, loaded: list[Batch]) -> dict[int, Batch]:
        """Of the batches of this process, those that count, by their numbers in the step of all.

        In an epoch's last step some process may have a batch that another had already, or none.
        With sync_bn it must take part in the forward pass: the batch then counts again.
        """
        size = self.team.size
        every = size == 1 or self.config.train.sync_bn
        first = self.position.iteration * self.accumulate * size
        numbered = {self.team.rank + k * size: batch for k, batch in enumerate(loaded)}
        return {
            number: batch
            for number, batch in numbered.items()
            if len(batch) and (every or first + number < self.loader.whole)
        }

    def _iterate(self, loaded: list[Batch]) -> None:
        numbered = self._counted(loaded)
        group, whole = list(numbered.values()), self.team.total(len(numbered))
        if not whole:
            self._pass_over()
            return
        if self.config.train.sync_bn and self.team.any(not group):
            what = "a process has no image left for this step, and train.sync_bn needs all of them"
            raise DataError(what, hint="`dh check --decode` lists images that cannot be read")
        seeds = [(self.config.train.seed, self.iteration, number) for number in numbered]
        parts = self.updater.parts
        result = self.updater.update(group, self._rate(self.iteration), whole, seeds)
        if self.updater.parts > parts:
            self._tell_halved()
        if not result.moved:
            self._refuse(group, result)
        else:
            self.position.skipped = 0
            self.meter.add(result.losses, len(group) / whole)
            if self.ema:
                self.ema.update(self.detector)
        self.position.iteration += 1
        self.watch.iterations += 1
        self.watch.images += sum(len(batch) for batch in group) * self.team.size

    def _tell_halved(self) -> None:
        size, parts = micro_batch(self.config.train), self.updater.parts
        at_a_time = counted(math.ceil(size / parts), "image")
        what = f"{self.device} has too little memory for {counted(size, 'image')} at a time: from "
        what += f"here on {at_a_time} at a time, and as many per step as before"
        self.journal.warn(what)
        self.journal.event("halved", total_iteration=self.iteration, parts=parts)

    def _refuse(self, group: list[Batch], result: StepResult) -> None:
        """A loss or gradient is not finite: name it and its images, stop or go on by rule."""
        is_loss = self.team.any(bool(result.bad))
        wrong = result.bad if is_loss else range(len(group))  # a gradient is that of all
        images = [i for number in wrong for i in group[number].indices]
        own = ", ".join(f"{name} {float(value):.4g}" for name, value in result.losses.items())
        paths = self.team.gather([str(self.data.train.path(i)) for i in images])
        parts = "; ".join(self.team.gather([own] if wrong else []))
        of = "loss" if is_loss else "gradient"
        what = f"the {of} is not finite at epoch {self.position.epoch + 1}, iteration "
        what += f"{self.position.iteration + 1} ({parts})"
        self.position.skipped += 1
        self.journal.event("non_finite", total_iteration=self.iteration, images=paths)
        where = ", ".join(paths)
        if self.config.train.non_finite == "stop":
            hint = f"{LOWER_RATE}, and look at these images; `--set train.non_finite=skip` skips "
            hint += "such batches"
            raise DhError(what, where=where, hint=hint)
        if self.position.skipped >= MOST_SKIPPED:
            what += f"; {MOST_SKIPPED} in a row were skipped"
            raise DhError(what, where=where, hint=LOWER_RATE)
        self.journal.warn(f"{where}: {what}; skipped")

    def _tell(self, length: int) -> None:
        images_per_second, data_share = self.watch.lap()
        interval = Interval(
            epoch=self.position.epoch + 1,
            epochs=self.epochs,
            iteration=self.position.iteration,
            length=length,
            rate=self._rate(self.iteration - 1),
            losses=self.meter.interval(),
            images_per_second=images_per_second,
            data_share=data_share,
            memory=memory_used(self.device),
            eta=self.watch.eta(self.total - self.iteration),
        )
        self.journal.interval(interval, self.iteration)
        self._tell_left_out()
        if not self.told:
            self._tell_cost(interval.eta)
        self.told = True

    def _tell_cost(self, eta: float) -> None:
        """Where a CPU would take very long, say so at the first iteration, and what is lighter."""
        if self.device.type != "cpu" or eta < LONG:
            return
        light = "" if self.config.name in LIGHT else f"; `--preset {CPU_PRESET}` is made for a CPU"
        self.journal.warn(f"on this CPU the training takes about {eta / 3600:,.0f} hours{light}")

    def _rate(self, iteration: int) -> float:
        """The learning rate of an iteration, counted from 0 over the whole training."""
        train = self.config.train
        base = base_rate(train, self.team.size)
        return learning_rate(iteration, base, self.schedule, self.epoch_length)

    def _finish_epoch(self, stop: StopRequest) -> None:
        """Validate if it is due, write the epoch's row, save if it is due.

        An epoch of nothing but skipped steps has brought nothing to validate or save.
        """
        position, train = self.position, self.config.train
        epoch = position.epoch + 1
        row = {"epoch": epoch, "iteration": self.iteration, "lr": self._rate(self.iteration - 1)}
        learned = self.meter.epoch()
        row |= {f"train_{name}": value for name, value in learned.items()}
        ends = self.iteration >= self.total
        due = ends or (learned and train.eval_every and epoch % train.eval_every == 0)
        self._require_finite()
        found = self._validate(stop) if due else {}
        position.history.append(row | found)
        position.epoch, position.iteration, self.meter = epoch, 0, LossMeter(self.team)
        if found:
            self._keep_best(epoch, found)
        self.team.from_first(lambda: self.run.write_metrics(position.history))
        self.journal.epoch(row | found, is_best=bool(found) and position.best_epoch == epoch)
        save_due = learned and train.save_every and epoch % train.save_every == 0
        if ends or self.patience_is_over or save_due:
            self.save()

    def _validate(self, stop: StopRequest) -> dict[str, float]:
        """Validation losses as val_<part>, and the twelve AP numbers; notes the points."""
        if self.val_loader is None or self.data.val is None:
            return {}
        table, loader, team = self.data.val, self.val_loader, self.team

        def tick(done: int) -> None:
            self.journal.display.validating(done, len(loader.images))
            stop.check()

        losses = validation_losses(self.model, loader, self.precision, tick, team)
        self._tell_left_out()
        if not math.isfinite(losses["loss"]):
            parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
            what = f"the validation loss is not finite after epoch {self.position.epoch + 1}"
            raise DhError(f"{what} ({parts})", hint=LOWER_RATE)
        stats, points = validation_ap(self._runner(), table, loader, tick, team)
        self.position.points = points
        return {f"val_{name}": value for name, value in losses.items()} | stats

    def _require_finite(self) -> None:
        """Raise DhError where a weight, a running statistic or an average is not finite."""
        every = {id(net): net.state_dict().values() for net in (self.detector, self.model)}
        floats = [x for of in every.values() for x in of if x.is_floating_point() and x.numel()]
        if self.team.any(not bool(get_total_norm(floats, float("inf")).isfinite())):
            epoch, iteration = self.position.epoch + 1, self.position.iteration
            what = f"the weights are not finite after iteration {iteration} of epoch {epoch}"
            raise DhError(what, hint=LOWER_RATE)

    def _runner(self) -> EagerRunner:
        """What is validated, as `dh eval` would run it."""
        table = self.data.train
        ids = tuple(table.category_ids.tolist())
        return EagerRunner(self.model, self.config, table.classes, ids, self.device)

    def _keep_best(self, epoch: int, found: dict[str, float]) -> None:
        """Save the model if its AP is the best so far, and count the validations since that."""
        position = self.position
        if self.config.train.keep_epochs:
            self._save_model(f"epoch_{epoch:03d}.safetensors")
        position.stale += 1
        if found["AP"] > (-1.0 if position.best_ap is None else position.best_ap):
            position.best_ap, position.best_epoch, position.stale = found["AP"], epoch, 0
            self._save_model(BEST)

    def _save_model(self, name: str) -> None:
        row = self.position.history[-1] if self.position.history else {}
        metadata = {
            "epoch": self.position.epoch,
            "iteration": self.iteration,
            "data": self.data.fingerprint(),
            "metrics": {key: value for key, value in row.items() if math.isfinite(value)},
        }
        if self.position.points:
            metadata[KEY] = self.position.points
        table = self.data.train
        ids = tuple(table.category_ids.tolist())
        state = self.model.state_dict()
        model = ModelFile(self.config, table.classes, ids, state, metadata)
        self.team.from_first(lambda: save_model(self.run.place(name), model))

"""How the learning rate moves and how long training lasts: pure functions of the iteration.

An iteration is one step, a move of the optimiser: `accumulate` micro-batches, which the processes
share. So batch size, processes and accumulation can be traded for one another without a change of
the recipe.
"""

from __future__ import annotations

import math

from dhcli.config.schema import Augment, Schedule, Train
from dhcli.words import counted


def learning_rate(iteration: int, base: float, schedule: Schedule, epoch_length: int) -> float:
    """The learning rate of `iteration`, counted from 0 over the whole training.

    base · warm-up · decay. Warm-up rises from `warmup_factor` to 1 with the share of it that is
    done, or the square of that. Decay is γ^(milestones passed), or
    floor + (1 − floor) (1 + cos πs) / 2, where s is the share of the iterations done from 0, or the
    end of `warmup_epochs`, to `flat` before the end.
    """
    warmup = _warmup(iteration, schedule, epoch_length)
    return base * warmup * _decay(iteration, schedule, epoch_length)


def scheduled(train: Train, epoch_length: int) -> Schedule:
    """The schedule that holds: as configured, or drawn out to `train.epochs`, in iterations."""
    schedule = train.schedule
    if not train.epochs:
        return schedule
    length = train.epochs * epoch_length
    steps = tuple(max(1, round(step * length / schedule.length)) for step in schedule.steps)
    flat = round(schedule.flat * length / schedule.length)
    drawn = {"unit": "iteration", "length": length, "steps": steps, "flat": flat}
    return schedule.model_copy(update=drawn)


def warmup_iterations(schedule: Schedule, epoch_length: int) -> int:
    """Iterations of warm-up: as configured, and never more than a third of the training."""
    wanted = schedule.warmup_epochs * epoch_length or schedule.warmup
    return min(wanted, total_iterations(schedule, epoch_length) // 3)


def total_iterations(schedule: Schedule, epoch_length: int) -> int:
    """Iterations of the whole training, `epoch_length` of them per epoch."""
    return schedule.length * _unit(schedule, epoch_length)


def plain_epochs(augment: Augment, train: Train) -> int:
    """The last epochs that are plain: as configured, or in proportion to `train.epochs`."""
    schedule = train.schedule
    if not train.epochs or schedule.unit == "iteration":
        return augment.plain_epochs
    return round(augment.plain_epochs * train.epochs / schedule.length)


def own_batches(train: Train, processes: int = 1) -> int:
    """Micro-batches of a step in each process: its share of `accumulate`, rounded, at least 1."""
    return max(1, round(train.accumulate / processes))


def micro_batch(train: Train) -> int:
    """Images of a micro-batch; before anything is trained, `fit_batch` has put it for `auto`."""
    assert train.batch_size != "auto"
    return train.batch_size


def images_per_step(train: Train, processes: int = 1) -> int:
    """Images behind one move of the optimiser."""
    return micro_batch(train) * own_batches(train, processes) * processes


def describe_step(train: Train, processes: int = 1) -> str:
    """How the images of a step come about, in one line."""
    own = own_batches(train, processes)
    parts = [counted(micro_batch(train), "image") + " at a time"]
    parts += [f"{own} times (train.accumulate {train.accumulate})"] if own > 1 else []
    parts += [f"in {counted(processes, 'process')}"] if processes > 1 else []
    return f"{counted(images_per_step(train, processes), 'image')} per step: {', '.join(parts)}"


def base_rate(train: Train, processes: int = 1) -> float:
    """The learning rate at its full height: in proportion to the images per step, if so set."""
    if not train.scale_lr:
        return train.lr
    return train.lr * images_per_step(train, processes) / train.reference_batch


def describe_rate(train: Train, processes: int = 1) -> str:
    """One line that says which learning rate is used, and why."""
    base, images = base_rate(train, processes), images_per_step(train, processes)
    if not train.scale_lr:
        return f"learning rate {base:g}, whatever the batch (train.scale_lr=false)"
    if images == train.reference_batch:
        return f"learning rate {base:g} for {counted(images, 'image')} per step"
    return (
        f"learning rate {base:g} = {train.lr:g} × {images} / {train.reference_batch}: "
        f"{counted(images, 'image')} per step, {train.lr:g} was tuned for {train.reference_batch} "
        "(train.scale_lr=false keeps it)"
    )


def odd_milestones(schedule: Schedule, epoch_length: int) -> str | None:
    """A warning where the learning rate falls before it has risen, or nowhere; None if all is well.

    So it is where `unit` or `length` was set and `steps` was left as the preset has it.
    """
    if schedule.kind != "step" or not schedule.steps:
        return None
    unit = _unit(schedule, epoch_length)
    first, warmup = min(schedule.steps), warmup_iterations(schedule, epoch_length)
    hint = "set `train.schedule.steps` too, or only `train.epochs` (`--epochs`), which moves them"
    if first * unit < warmup:
        where = f"{schedule.unit} {first}, within the warm-up of {counted(warmup, 'iteration')}"
        return f"the learning rate falls at {where} (train.schedule.steps): {hint}"
    if first >= schedule.length:
        where = f"{schedule.unit} {first}, and training ends at {schedule.length:,}"
        return f"the learning rate would fall at {where} (train.schedule.steps): {hint}"
    return None


def _unit(schedule: Schedule, epoch_length: int) -> int:
    return epoch_length if schedule.unit == "epoch" else 1


def _warmup(iteration: int, schedule: Schedule, epoch_length: int) -> float:
    warmup = warmup_iterations(schedule, epoch_length)
    if iteration >= warmup:
        return 1.0
    if schedule.warmup_shape == "quadratic":
        share = (iteration / warmup) ** 2
        return schedule.warmup_factor + (1 - schedule.warmup_factor) * share
    return schedule.warmup_factor + (1 - schedule.warmup_factor) * iteration / warmup


def _decay(iteration: int, schedule: Schedule, epoch_length: int) -> float:
    if schedule.kind == "cosine":
        return _cosine(iteration, schedule, epoch_length)
    unit = _unit(schedule, epoch_length)
    passed = sum(iteration >= milestone * unit for milestone in schedule.steps)
    return float(schedule.gamma**passed)


def _cosine(iteration: int, schedule: Schedule, epoch_length: int) -> float:
    flat = schedule.flat * _unit(schedule, epoch_length)
    first = warmup_iterations(schedule, epoch_length) if schedule.warmup_epochs else 0
    last = total_iterations(schedule, epoch_length) - flat
    share = min(max(iteration - first, 0) / max(last - first, 1), 1.0)
    height = (1 + math.cos(math.pi * share)) / 2
    return schedule.floor + (1 - schedule.floor) * height

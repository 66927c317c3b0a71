"""`train`: optimiser, schedule, and what is watched.

A step is one move of the optimiser; a micro-batch is what one forward/backward pass sees, and
`accumulate` of them in each process make a step. Keys and files call a step an iteration.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dhcli.config.schema.base import AtLeastOne, Count, Fraction, NonNegative, Positive, Section


class Schedule(Section):
    """How the learning rate moves, as a function of the iteration: the number of the step."""

    kind: Literal["step", "cosine"] = "step"
    """step: multiplied by gamma at each milestone; cosine: to zero along half a cosine."""
    unit: Literal["epoch", "iteration"] = "epoch"
    """What `length` and the milestones count. An iteration is one step of the optimiser."""
    length: AtLeastOne = 12
    """How long to train."""
    steps: tuple[AtLeastOne, ...] = (8, 11)
    """The milestones: when the learning rate is multiplied by gamma."""
    gamma: Positive = 0.1
    """Factor at each milestone."""
    warmup: Count = 500
    """Iterations over which the learning rate rises to its value; at most a third of all."""
    warmup_factor: Fraction = 0.001
    """Share of the learning rate that warm-up starts from."""


class Train(Section):
    """Training: optimiser, schedule, and what is watched.

    A step is one move of the optimiser; `accumulate` micro-batches in each process make a step.
    """

    lr: Positive = 0.01
    """Learning rate for `reference_batch` images per step."""
    batch_size: AtLeastOne = 2
    """Images per forward/backward pass in each process (micro-batch)."""
    reference_batch: AtLeastOne = 8
    """Images per step that `lr` was tuned for."""
    scale_lr: bool = True
    """Multiply lr by (images per step) / reference_batch. Images per step: batch_size × accumulate
    × processes."""
    accumulate: AtLeastOne = 1
    """Micro-batches per step; their gradients are averaged."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimiser."""
    momentum: Fraction = 0.9
    """Momentum of SGD; β1 of AdamW."""
    weight_decay: NonNegative = 1e-4
    """Weight decay. AdamW does not apply it to norm layers and biases."""
    clip_norm: NonNegative = 0.0
    """Clip the gradient to this norm (0: do not clip)."""
    schedule: Schedule = Schedule()
    epochs: Count = 0
    """Epochs to train, whatever `schedule.length` counts; the milestones move along (0: train for
    `schedule.length`)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the moving average of the weights that is validated and saved (0: no average)."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 or fp16 on GPUs that support it, fp32 on the CPU."""
    seed: Count = 0
    """Seed of weights, order and augmentation."""
    workers: Annotated[int, Field(ge=-1)] = -1
    """Processes that load images (-1: as many as there are spare cores, at most 8)."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Decode every image once, before training: into memory, or into a file in the run folder."""
    log_every: AtLeastOne = 50
    """Iterations between lines of the log; at most a tenth of an epoch."""
    eval_every: Count = 1
    """Epochs between validations (0: only at the end)."""
    patience: Count = 0
    """Validations without a better AP before training stops early (0: never)."""
    save_every: Count = 1
    """Epochs between checkpoints of the whole state (0: only at the end)."""
    save_minutes: NonNegative = 10.0
    """Minutes after which the whole state is saved within an epoch, too (0: never)."""
    keep_epochs: bool = False
    """Keep the model of every validation, not only best and last."""
    non_finite: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is not finite: stop, or skip the step (and stop after ten in a row)."""

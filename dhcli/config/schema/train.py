"""`train`: optimiser, schedule, and what is watched.

A step is one move of the optimiser; a micro-batch is what one forward/backward pass sees, and
`accumulate` of them, which the processes share, make a step. Keys and files call a step an
iteration.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dhcli.config.schema.base import (
    AtLeastOne,
    Count,
    Fraction,
    NonNegative,
    OrWord,
    Positive,
    Section,
)


class Schedule(Section):
    """How the learning rate changes from iteration to iteration."""

    kind: Literal["step", "cosine"] = "step"
    """step: multiply by gamma at each milestone; cosine: fall to zero along half a cosine, or to
    `floor`."""
    unit: Literal["epoch", "iteration"] = "epoch"
    """Unit of `length` and the milestones. An iteration is one step of the optimiser."""
    length: AtLeastOne = 12
    """How long to train, in `unit`."""
    steps: tuple[AtLeastOne, ...] = (8, 11)
    """The milestones, in `unit`: when the learning rate is multiplied by gamma."""
    gamma: Positive = 0.1
    """Factor at each milestone."""
    warmup: Count = 500
    """Iterations in which the learning rate rises to its value; at most a third of the training."""
    warmup_factor: Fraction = 0.001
    """Warm-up starts from this share of the learning rate."""
    warmup_shape: Literal["linear", "quadratic"] = "linear"
    """linear: the rate rises by the share of the warm-up that is done; quadratic: by its square."""
    warmup_epochs: Count = 0
    """Epochs of warm-up, in place of `warmup`; a cosine then begins after them."""
    floor: Fraction = 0.0
    """Share of the learning rate that a cosine ends at."""
    flat: Count = 0
    """How long before the end a cosine ends, in `unit`; the rate then stays."""


class Train(Section):
    """Training: optimiser, schedule, checkpoints.

    One step moves the weights once, after `accumulate` micro-batches, which the processes share.
    """

    lr: Positive = 0.01
    """Learning rate for `reference_batch` images per step."""
    batch_size: Annotated[AtLeastOne | Literal["auto"], OrWord("auto", "a number")] = 2
    """Images per forward/backward pass in each process (micro-batch). auto: as many as fit into
    memory, measured before training; `accumulate` follows, so that a step has `reference_batch`
    images. The run stores both numbers."""
    reference_batch: AtLeastOne = 8
    """Images per step that `lr` was tuned for."""
    scale_lr: bool = True
    """Multiply lr by (images per step) / reference_batch, where images per step are batch_size ×
    accumulate, or more where there are more processes than that."""
    accumulate: AtLeastOne = 1
    """Micro-batches per step; their gradients are averaged. Several processes share them: each has
    accumulate / processes, rounded, at least one."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """The optimiser."""
    lr_multipliers: dict[str, Positive] = Field(default_factory=dict)
    """Part of the detector → factor of its learning rate, such as `{backbone: 0.1}`. A part is a
    word between dots in the names of weights; a weight of several parts has all their factors."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; β1 of AdamW."""
    nesterov: bool = False
    """SGD: look ahead along the momentum."""
    weight_decay: NonNegative = 1e-4
    """Weight decay. AdamW does not apply it to norm layers and biases."""
    spare_norms: bool = False
    """SGD: no weight decay of norm layers and biases either."""
    clip_norm: NonNegative = 0.0
    """Clip the gradient to this norm (0: do not clip)."""
    schedule: Schedule = Schedule()
    epochs: Count = 0
    """Number of epochs, in place of `schedule.length`; the lr milestones move in proportion (0:
    train for `schedule.length`)."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights, which is validated and saved (0: no average)."""
    ema_ramp: Count = 0
    """After n steps its decay is ema · (1 − exp(−n / ema_ramp)) (0: at most (1 + n) / (10 + n))."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 or fp16 on GPUs that support it, fp32 on the CPU. bf16 is fp32 on a CPU that does
    not compute in it."""
    sync_bn: bool = False
    """With several processes on GPUs, batch norms (bn) take their statistics over the batches of
    all of them, not of each. Without it, running statistics are the mean over the processes."""
    repeat_below: Fraction = 0.0
    """Class-aware sampling: images of a class that fewer than this share of the images have come
    √(repeat_below / share) times per epoch, on average (LVIS; 0: every image once)."""
    seed: Count = 0
    """Random seed, for initial weights, image order and augmentation."""
    workers: Annotated[int, Field(ge=-1)] = -1
    """Number of processes that load images (-1: one per free core, at most 8)."""
    cache: Literal["none", "ram", "disk"] = "none"
    """Decode every image once, before training: into memory, or into a file in the run folder."""
    log_every: AtLeastOne = 50
    """Iterations between lines of the log; in a short epoch, a tenth of it."""
    eval_every: Count = 1
    """Epochs between validations (0: only at the end)."""
    patience: Count = 0
    """Stop early after this many validations without a better AP (0: never)."""
    save_every: Count = 1
    """Epochs between checkpoints of the whole state (0: only at the end)."""
    save_minutes: NonNegative = 10.0
    """Minutes between further checkpoints within an epoch (0: none)."""
    keep_epochs: bool = False
    """Keep the model of every validation, not only the best and the last."""
    non_finite: Literal["stop", "skip"] = "stop"
    """What to do if a loss or gradient is not finite: stop, or skip the step (stop after ten in a
    row)."""

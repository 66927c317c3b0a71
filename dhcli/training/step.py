"""One step: batches to losses to gradients to a move of the optimiser.

A step is one move of the optimiser; where it is counted it is called an iteration. The
forward/backward pass of one batch is a micro-batch: a step has `train.accumulate` of them, which
the processes share.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from dhcli.data.loading.loader import Batch
from dhcli.errors import DhError
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.memory import give_holes_back, is_gpu_shortage
from dhcli.runtime.precision import Precision
from dhcli.runtime.team import ALONE, Team
from dhcli.training.optimizer import set_rate
from dhcli.words import counted

_LONE = "Expected more than 1 value per channel"
"""What torch says where a norm is to take statistics of a single number."""


class HasLosses(Protocol):
    """What training asks of a detector."""

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted loss parts by name; the loss is their sum."""
        ...


class ForwardLosses(nn.Module):
    """A detector whose forward gives its losses, so that a wrapper such as DDP sees a forward."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        detector: HasLosses = self.detector  # type: ignore[assignment]
        return detector.losses(images, targets)


@contextmanager
def _lone_cells_explained(images: ImageBatch) -> Iterator[None]:
    """Turn torch's refusal to take statistics of a single number into a DhError."""
    try:
        yield
    except ValueError as error:
        if _LONE not in str(error):
            raise
        height, width = images.pixels.shape[2:]
        seen = f"{counted(len(images), 'image')} of {width}×{height} pixels"
        what = f"a norm cannot learn from a level of a single cell, of {seen}"
        hint = "larger images (`--image-size N`), more of them at a time (`--batch-size N`), or "
        hint += "instead of `norm: bn` one that does not need them (`norm: gn`, or `frozen_bn`)"
        raise DhError(what, hint=hint) from error


def seed_all(*numbers: int) -> None:
    """Seed Python's, NumPy's and torch's generators from `numbers`.

    Training does so for every micro-batch from (seed, iteration, its number in the step). What is
    drawn is then a pure function of these, as the learning rate is: it does not depend on what ran
    before (validation, another number of workers, an interruption) nor on which process runs it,
    and there is no hidden state to save.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class StepResult:
    """What a step gave.

    losses    name → () float32 on the device, means over this process's micro-batches, detached;
              {} where it has none
    bad       numbers of those micro-batches whose loss is not finite
    gradient  whether the gradient is finite
    moved     False where a loss or the gradient of any process is not finite: no process moved
    """

    losses: dict[str, Tensor]
    bad: list[int]
    gradient: bool
    moved: bool


class Updater:
    """Moves the weights of a detector by the gradient of a group of micro-batches.

    parts  each micro-batch is done in so many parts, of which every image counts alike. 1 until a
           GPU of the team has too little memory; then twice as many, from there on
    """

    def __init__(
        self,
        detector: nn.Module,
        optimizer: Optimizer,
        precision: Precision,
        clip_norm: float,
        team: Team = ALONE,
        *,
        halves: bool = True,
    ) -> None:
        self.losses_of = ForwardLosses(detector)
        self.team, self.halves = team, halves
        self.optimizer = optimizer
        self.precision = precision
        self.clip_norm = clip_norm
        self.scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.name == "fp16")
        self.weights = [weight for weight in detector.parameters() if weight.requires_grad]
        # Forward passes move running statistics; a batch that is thrown away must not leave a trace
        self.statistics = [x for x in detector.buffers() if x.is_floating_point()]
        self.kept = [x.clone() for x in self.statistics]
        self.parts = 1

    def update(
        self,
        batches: Sequence[Batch],
        rate: float,
        whole: int | None = None,
        seeds: Sequence[Sequence[int]] = (),
    ) -> StepResult:
        """Take one step with learning rate `rate`; the gradient is the micro-batches' mean.

        The mean is over the `whole` of them, of all processes (None: there are no others); a
        process may have none. `seeds` has the numbers for `seed_all` before each.
        If a loss or the gradient is not finite in any process, weights and statistics stay as they
        were in all. Raises DhError in all where a single image is too large for memory.
        """
        _copy(self.statistics, self.kept)
        while (results := self._tried(batches, whole or len(batches), seeds)) is None:
            self._halve(batches)
        names = results[0][0] if results else ()
        losses = {n: torch.stack([parts[n] for parts, _ in results]).mean() for n in names}
        bad = [number for number, (_, finite) in enumerate(results) if not finite()]
        if self.team.size > 1:
            self._add_up()
        gradient = self._gradient_is_finite()
        moved = not self.team.any(bool(bad) or not gradient)
        if moved:
            set_rate(self.optimizer, rate)
            self.scaler.step(self.optimizer)
        else:
            _copy(self.kept, self.statistics)
        self.scaler.update()
        return StepResult(losses, bad, gradient, moved)

    def _tried(
        self, batches: Sequence[Batch], whole: int, seeds: Sequence[Sequence[int]]
    ) -> list[_Passed] | None:
        """What came of each micro-batch; None where a GPU of the team had too little memory."""
        self.optimizer.zero_grad(set_to_none=True)
        short = False
        try:
            pairs = zip_longest(batches, seeds)
            results = [self._pass(batch, seed, whole) for batch, seed in pairs]
        except RuntimeError as error:
            if not (self.halves and is_gpu_shortage(error)):
                raise
            short = True  # no more of it is kept: it holds what is to be freed
        return None if self.halves and self.team.any(short) else results

    def _halve(self, batches: Sequence[Batch]) -> None:
        """From here on half as many images at a time; the step is yet to be done."""
        if not self.team.any(any(len(batch) > self.parts for batch in batches)):
            what = f"{self.precision.device} has too little memory for a single image"
            raise DhError(what, hint="lower `input.max_size` (`--image-size N`)")
        self.parts *= 2
        _copy(self.kept, self.statistics)
        if self.precision.device.type == "cuda":
            torch.cuda.empty_cache()

    def _pass(self, batch: Batch, seed: Sequence[int] | None, whole: int) -> _Passed:
        """Add the gradient of a micro-batch, in parts of equal weight per image."""
        cut = cut_batch(batch, self.parts)
        passed = []
        for number, part in enumerate(cut):
            if seed is not None:
                seed_all(*seed, *([number] if number else []))
            passed.append(
                self.backward(part, whole if part is batch else whole * len(batch) / len(part))
            )
        if len(passed) == 1:
            return passed[0][0], passed[0][1].read
        shares = [len(part) / len(batch) for part in cut]
        losses = {
            name: torch.stack(
                [own[name] * share for (own, _), share in zip(passed, shares, strict=True)]
            ).sum()
            for name in passed[0][0]
        }
        return losses, lambda: all(finite.read() for _, finite in passed)

    @torch.no_grad()
    def _add_up(self) -> None:
        """Give every process the gradient of all, and the mean of their running statistics.

        Also where a loss is not finite: so all scale alike afterwards.
        """
        self.scaler.scale(self.weights[0].new_zeros(()))  # a process without a batch has not yet
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        # Their moves, not they: what is fixed stays as it is, to the digit
        moves = list(torch._foreach_sub(self.statistics, self.kept)) if self.kept else []
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        self.team.add_up([*gradients, *moves])
        if moves:
            torch._foreach_div_(moves, self.team.size)
            _copy(list(torch._foreach_add(self.kept, moves)), self.statistics)

    def backward(self, batch: Batch, whole: float = 1.0) -> tuple[dict[str, Tensor], _Answer]:
        """Add the gradient of the batch's loss, divided by `whole`; its parts, and if it is finite.

        Nothing else of the step is done. Raises DhError where a norm has too little to learn from.
        """
        device = self.precision.device
        images, targets = batch.images.to(device), [target.to(device) for target in batch.targets]
        with self.precision.autocast(), _lone_cells_explained(images):
            losses = self.losses_of(images, targets)
        total = torch.stack(list(losses.values())).sum()
        finite = _Answer(torch.isfinite(total))
        if device.type == "cpu":
            give_holes_back()
        self.scaler.scale(total / whole).backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}, finite

    def _gradient_is_finite(self) -> bool:
        """Clip the gradient, and look at its norm; with fp16 the scaler answers for what overflows.

        It passes over such a step and halves its scale, down to 1: from there on no scale is to
        blame.
        """
        self.scaler.unscale_(self.optimizer)
        if self.clip_norm:
            norm = clip_grad_norm_(self.weights, self.clip_norm)
        else:
            norm = get_total_norm([w.grad for w in self.weights if w.grad is not None])
        return bool(norm.isfinite()) or self.scaler.get_scale() > 1


_Passed = tuple[dict[str, Tensor], Callable[[], bool]]
"""Losses of a micro-batch, and what tells whether they are finite."""


def cut_batch(batch: Batch, parts: int) -> list[Batch]:
    """The images of a batch in `parts`, or fewer where there are not as many; padded as it is."""
    if parts == 1 or len(batch) <= 1:
        return [batch]
    size = math.ceil(len(batch) / parts)
    x = batch.images
    return [
        Batch(
            ImageBatch(x.pixels[rows], x.sizes[rows], x.originals[rows]),
            batch.targets[rows],
            batch.indices[rows],
        )
        for start in range(0, len(batch), size)
        for rows in [slice(start, start + size)]
    ]


def _copy(source: list[Tensor], target: list[Tensor]) -> None:
    if source:  # a detector may have no buffers, and torch takes no empty lists
        torch._foreach_copy_(target, source)


class _Answer:
    """A yes or no that a GPU works out, read without waiting for what was queued after it."""

    def __init__(self, answer: Tensor) -> None:
        self.event = None
        if answer.is_cuda:
            answer = answer.to("cpu", non_blocking=True)
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.event.record()
        self.answer = answer

    def read(self) -> bool:
        if self.event is not None:
            self.event.synchronize()
        return bool(self.answer)

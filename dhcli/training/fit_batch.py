"""`train.batch_size: auto`: as many images at a time as fit into memory, in the same recipe."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from dhcli.config.schema import Config, Input
from dhcli.data.loading.batching import known_sizes
from dhcli.data.loading.loader import Batch
from dhcli.data.loading.transforms import padded_size
from dhcli.data.table import DetectionTable
from dhcli.errors import ConfigError, DhError
from dhcli.models.contract import Detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.runtime.launch import own_place
from dhcli.runtime.memory import (
    TRAINING,
    give_holes_back,
    is_shortage,
    keep_freed_memory,
    memory_free,
    memory_held,
    most_held,
)
from dhcli.runtime.precision import choose_precision
from dhcli.runtime.team import Team
from dhcli.training.ema import Ema
from dhcli.training.journal import Journal
from dhcli.training.optimizer import build_optimizer, kept_per_weight, set_rate
from dhcli.training.step import Updater
from dhcli.words import counted

T = TypeVar("T")
SPARED = 0.1
"""Share of the free memory that stays free: for what differs from step to step."""
PER_PIXEL = 1500
"""Bytes for each pixel of a step on a CPU. Measured: 1100 (`light`) to 2300 (`coco-r50-ext`)."""
LEAST_OBJECTS = 128
"""Objects of a measured image, at least: as many as give the paper's head all it may learn from."""
SMALLER = "lower `input.max_size` (`--image-size N`)"


class Fit(NamedTuple):
    """How many images fit at a time.

    images  that many
    each    bytes that one image more takes
    free    bytes that are free beside the network
    """

    images: int
    each: int
    free: int


class Shape(NamedTuple):
    """Height and width of a padded batch."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}×{self.height} pixels"


class Shapes(NamedTuple):
    """What one image measures at most, and several: one batch of an epoch mixes wide and high."""

    one: Shape
    several: Shape

    def of(self, images: int) -> Shape:
        """The largest shape of a batch of so many."""
        return self.one if images == 1 else self.several


def with_fitted_batch(
    config: Config,
    detector: Detector,
    table: DetectionTable,
    device: torch.device,
    journal: Journal,
    team: Team,
) -> Config:
    """`config` with numbers in place of `train.batch_size: auto`, and a line that says why.

    Where there is a number, a warning if memory is probably too small for it.

    A step has `reference_batch` images, or fewer if the processes cannot share them evenly, and at
    least one in each. Each process takes its own in micro-batches of equal size: as large as fit in
    all processes. Steps of a copy of `detector` measure that; it stays as it is, and so do the
    dice. Raises DhError where not even one image fits.
    """
    train = config.train
    if train.batch_size != "auto":
        _warn_of_shortage(train.batch_size, config, detector, table, device, journal)
        return config
    if device.type not in ("cpu", "cuda"):
        what = f"`train.batch_size: auto` cannot measure the memory of {device}"
        raise ConfigError(what, hint="give a number: `--batch-size N`")
    own = max(1, train.reference_batch // team.size)
    shapes = largest_shapes(config, table)
    free = _free(device)
    team.barrier()  # before any takes of it

    def probe() -> _Probe:
        return _Probe(config, detector, shapes, _most_objects(config, table), device)

    measured = team.each(lambda: _measure(probe, own, free, device, shapes.one))
    found = min(team.gather([measured]))
    size, images = found.images, own * team.size
    journal.say(_describe(found, images, team.size, shapes.one))
    numbers = {"batch_size": size, "accumulate": images // size}
    return config.model_copy(update={"train": train.model_copy(update=numbers)})


def largest_shapes(config: Config, table: DetectionTable) -> Shapes:
    """The largest padded image, and batch of several, that training may show of `table`."""
    sides = _shown_sizes(config, table)
    width, height = sides[sides.prod(axis=1).argmax()].tolist()
    widest, highest = sides.max(axis=0).tolist()
    return Shapes(Shape(height, width), Shape(highest, widest))


def fit(
    probe: Callable[[int], int | None], own: int, held: int, free: int, *, sure: bool
) -> tuple[int, int]:
    """Images at a time, a divisor of `own`, and the bytes that one more takes.

    `probe(n)` is what is held at most in a step of n images, None where that is too much; `held`
    what is held before it, `free` what there is beside. need(n) = probe(1) + (n − 1) · each, with
    each = probe(2) − probe(1); a tenth of what is free stays free. With `sure`, the answer is tried
    as well. The first is 0 if not one fits.
    """
    one = probe(1)
    if one is None or one - held > free:
        return 0, 0 if one is None else one - held
    each = one - held
    is_safe = sure or one + each <= held + free  # on a CPU, too much ends in a kill
    if own == 1 or not is_safe or (two := probe(2)) is None:
        return 1, each
    each, room = max(two - one, 1), held + free * (1 - SPARED)
    fits = [n for n in range(1, own + 1) if own % n == 0 and one + (n - 1) * each <= room]
    while sure and len(fits) > 1 and fits[-1] > 2 and probe(fits[-1]) is None:
        fits.pop()
    return max([1, *fits]), each


def estimated_bytes(images: int, shape: Shape, config: Config, detector: Detector) -> int:
    """About the bytes that a training takes beside its detector, on a CPU.

    Gradients, what the optimiser keeps, the average, and PER_PIXEL for the images of a step.
    """
    weights = [(x.numel() * x.element_size(), x.requires_grad) for x in detector.parameters()]
    trained = sum(size for size, learns in weights if learns)
    average = sum(size for size, _ in weights) if config.train.ema else 0
    held = trained * (1 + kept_per_weight(config.train)) + average
    return held + images * shape.height * shape.width * PER_PIXEL


def _free(device: torch.device) -> int:
    """Bytes that this process may take; those of the CPU are shared by all of this machine."""
    return memory_free(device, own_place().local_size if device.type == "cpu" else 1)


def _warn_of_shortage(
    images: int,
    config: Config,
    detector: Detector,
    table: DetectionTable,
    device: torch.device,
    journal: Journal,
) -> None:
    """Warn where a step on a CPU probably takes more than is free: there it ends in a kill."""
    if device.type != "cpu":
        return
    free = _free(device)
    side = max((config.input.max_size, *config.augment.min_sizes, *config.augment.batch_sizes))
    bound = side + -side % config.input.divisor  # of any dataset, known at once
    if estimated_bytes(images, Shape(bound, bound), config, detector) <= free:
        return
    shape = largest_shapes(config, table).of(images)
    needed = estimated_bytes(images, shape, config, detector)
    if needed <= free:
        return
    fewer = "`--batch-size auto`, or " if images > 1 else ""
    journal.warn(
        f"a step of {counted(images, 'image')} of {shape} takes about {_gigabytes(needed)}, and "
        f"{_gigabytes(free)} are free: {fewer}a smaller `--image-size`"
    )


def _describe(found: Fit, images: int, processes: int, shape: Shape) -> str:
    every = f" in {counted(processes, 'process')}" if processes > 1 else ""
    return (
        f"batch size {found.images} (train.batch_size auto): as many as fit of the "
        f"{counted(images, 'image')} per step{every}; one of {shape} takes "
        f"{_gigabytes(found.each)}, {_gigabytes(found.free)} are free"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _measure(
    make: Callable[[], _Probe], own: int, free: int, device: torch.device, shape: Shape
) -> Fit:
    """What fits into this process, `free` bytes of which could be had before; `shape` is of one.

    Raises DhError where not even one image fits.
    """
    if device.type == "cpu":
        keep_freed_memory(TRAINING)
    give_holes_back()
    before = memory_held(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        probe = _unless_short(make)
        give_holes_back()
        held = memory_held(device)
        free = max(0, free - (held - before))
        sure = device.type == "cuda"
        images, each = fit(probe, own, held, free, sure=sure) if probe else (0, 0)
        del probe
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if images:
        return Fit(images, each, free)
    needs = f"it needs {_gigabytes(each)}, and " if each else ""
    what = f"{device} has too little memory for a single image of {shape}: {needs}"
    raise DhError(f"{what}{_gigabytes(free)} are free", hint=SMALLER)


def _unless_short(work: Callable[[], T]) -> T | None:
    """What `work` gives; None where memory is too small for it. Nothing of it is kept then."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
    return None


class _Probe:
    """A copy of a detector in training, with all that training holds beside it, takes steps.

    What is held are gradients, the state of the optimiser, and the average.
    """

    def __init__(
        self,
        config: Config,
        detector: Detector,
        shapes: Shapes,
        objects: int,
        device: torch.device,
    ) -> None:
        train = config.train
        network = copy.deepcopy(detector).to(device).train()
        prepare_for_training(network)
        optimizer = build_optimizer(network, train)
        precision = choose_precision(train.precision, device)
        self.updater = Updater(network, optimizer, precision, train.clip_norm)
        for weight in self.updater.weights:
            weight.grad = torch.zeros_like(weight)
        set_rate(optimizer, 0.0)
        optimizer.step()
        self.average = Ema(network, train.ema, train.ema_ramp) if train.ema else None
        self.input, self.shapes, self.objects, self.device = config.input, shapes, objects, device

    def __call__(self, images: int) -> int | None:
        """Bytes held at most in a step of the largest `images`; None where that is too much."""
        batch = _drawn_batch(images, self.shapes.of(images), self.objects, self.input)
        most = _unless_short(lambda: most_held(self.device, lambda: self.updater.backward(batch)))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return most


def _shown_sizes(config: Config, table: DetectionTable) -> NDArray[np.int64]:
    """(n, 2) width, height: every size that training may show an image of `table` at, padded."""
    pixels, augment = config.input, config.augment
    stated = np.unique(known_sizes(table, upright=pixels.exif), axis=0).tolist()
    short = max((pixels.min_size, *augment.min_sizes))
    if augment.crop:  # which may leave any shape
        long = max(1, round(short * pixels.max_size / pixels.min_size))
        stated += [[long, short], [short, long]]
    shown = np.array([padded_size(w, h, pixels, short) for w, h in stated], np.int64)
    squares = np.array([[side, side] for side in augment.batch_sizes], np.int64).reshape(-1, 2)
    return np.concatenate([shown, squares])


def _drawn_batch(images: int, shape: Shape, objects: int, input: Input) -> Batch:
    """A batch of noise, with so many objects of the first class in each image."""
    height, width = shape
    dice = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (images, 3, height, width), dtype=torch.uint8, generator=dice)
    if input.interpolation == "float":
        pixels = pixels.float()
    sizes = torch.tensor([[height, width]] * images)
    targets = []
    for _ in range(images):
        corner, side = torch.rand((2, objects, 2), generator=dice)
        boxes = torch.cat([corner * 0.75, corner * 0.75 + 0.02 + side * 0.23], 1)
        boxes = boxes * torch.tensor([width, height, width, height])
        labels = torch.zeros(objects, dtype=torch.int64)
        targets.append(Target(boxes, labels, torch.zeros(0, 4)))
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    return Batch(ImageBatch(pixels, sizes, sizes), targets, list(range(images)))


def _most_objects(config: Config, table: DetectionTable) -> int:
    """Objects that training may show in one image."""
    shown = (4 if config.augment.mosaic else 1) + (1 if config.augment.mixup else 0)
    most = int(np.bincount(table.image_of_box, minlength=1).max())
    return max(LEAST_OBJECTS, most * shown)

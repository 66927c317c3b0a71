"""From a DetectionTable to batches of tensors, in this process or in workers.

A batch is made whole by one worker from its image numbers alone, so neither the number of workers
nor the way they are started can change it.
"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dhcli.config.schema import Augment, Input
from dhcli.data.io.image import Pixels, Values, read_image
from dhcli.data.loading.batching import (
    WHOLE,
    Batches,
    Share,
    evaluation_batches,
    image_dice,
    known_sizes,
    training_batches,
)
from dhcli.data.loading.cache import ImageCache
from dhcli.data.loading.pictures import Pictures, collate_pictures
from dhcli.data.loading.transforms import (
    Sample,
    augment_sample,
    clip_sample,
    prepare_augmentation,
    resize_sample,
)
from dhcli.data.strings import PackedStrings
from dhcli.data.table import DetectionTable
from dhcli.errors import DhError
from dhcli.ops.batch import ImageBatch, Target

MOST_WORKERS = 8


@dataclass
class Batch:
    """Images, what is to be found in them, and their numbers in the table."""

    images: ImageBatch
    targets: list[Target]
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""
        targets = [target.to(device) for target in self.targets]
        return type(self)(self.images.to(device), targets, self.indices)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; called by DataLoader."""
        targets = [target.pin_memory() for target in self.targets]
        return type(self)(self.images.pin_memory(), targets, self.indices)

    def __reduce__(self) -> tuple[Any, ...]:
        # A tensor sent by a worker costs an open file, and a thousand are soon open. Only the
        # pixels are worth one; the rest travels as bytes.
        images = self.images
        small = (images.sizes.numpy(), images.originals.numpy())
        targets = [(t.boxes.numpy(), t.labels.numpy(), t.ignore.numpy()) for t in self.targets]
        return _rebuild_batch, (images.pixels, small, targets, self.indices)


def _rebuild_batch(
    pixels: Tensor,
    small: tuple[NDArray[Any], NDArray[Any]],
    targets: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
    indices: list[int],
) -> Batch:
    images = ImageBatch(pixels, *map(torch.from_numpy, small))
    return Batch(images, [Target(*map(torch.from_numpy, parts)) for parts in targets], indices)


def collate_images(
    images: Sequence[Values], originals: Sequence[tuple[int, int]], divisor: int
) -> ImageBatch:
    """`collate_pictures` as tensors of the same memory."""
    return as_batch(collate_pictures(images, originals, divisor))


def as_batch(pictures: Pictures) -> ImageBatch:
    """The same memory as tensors."""
    return ImageBatch(
        torch.from_numpy(pictures.pixels).permute(0, 3, 1, 2),
        torch.from_numpy(pictures.sizes),
        torch.from_numpy(pictures.originals),
    )


def as_pictures(images: ImageBatch) -> Pictures:
    """The same memory as arrays; `images` are on the CPU."""
    return Pictures(
        images.pixels.permute(0, 2, 3, 1).numpy(), images.sizes.numpy(), images.originals.numpy()
    )


class TrainLoader:
    """Augmented batches, shuffled by (seed, epoch). See `training_batches` for the order.

    The stream depends on the seed, the epoch and the images, and on nothing else. Boxes flagged
    crowd or ignore, of no class, or (`difficult` "ignore") difficult become regions to ignore.
    `batch_size` and `share` are this process's; `workers` as in `count_workers`; a `cache` holds
    the images of `table`. Has one epoch under way at a time.
    """

    def __init__(  # noqa: PLR0913  (each is one fact of the run, and all but three need their name)
        self,
        table: DetectionTable,
        input: Input,
        augment: Augment,
        *,
        batch_size: int,
        seed: int,
        workers: int,
        share: Share = WHOLE,
        difficult: str = "ignore",
        cache: ImageCache | None = None,
    ) -> None:
        self._sizes = known_sizes(table, upright=input.exif)
        self._batch_size, self._seed = batch_size, seed
        self._share = share
        self._length = math.ceil(math.ceil(len(table) / batch_size) / share.size)
        self._plan = _Plan()
        maker = BatchMaker(table, input, augment, seed=seed, difficult=difficult, cache=cache)
        count = min(count_workers(workers), self._length)
        self._loader = _start_loader(maker, self._plan, count, keep=True)

    def __len__(self) -> int:
        """Batches per epoch, of this process."""
        return self._length

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `number` from batch `start` on; those before it are not loaded.

        Raises DataError naming an image that cannot be read.
        """
        self._plan.set(number, self._batches_of(number)[start:])
        return _received(self._loader)

    def _batches_of(self, epoch: int) -> Batches:
        every = training_batches(
            self._sizes, self._batch_size, seed=self._seed, epoch=epoch, shares=self._share.size
        )
        return self._share.of(every)


class EvalLoader:
    """Batches of every image once, resized and not augmented. See `evaluation_batches`.

    Each process has its share: no image twice, none missing, and so perhaps one batch more in one
    process than in another.

    images   (n,) int64, sorted: the numbers of the images of this share
    longest  batches of the process that has the most
    """

    def __init__(
        self,
        table: DetectionTable,
        input: Input,
        *,
        batch_size: int,
        workers: int,
        share: Share = WHOLE,
        difficult: str = "ignore",
        cache: ImageCache | None = None,
    ) -> None:
        sizes = known_sizes(table, upright=input.exif)
        every = evaluation_batches(sizes, batch_size, input)
        batches = share.of(every)
        self.images = np.sort(np.concatenate([np.zeros(0, np.int64), *batches]))
        self.longest = math.ceil(len(every) / share.size)
        self._length = len(batches)
        self._plan = _Plan()
        self._plan.set(0, batches)
        maker = BatchMaker(table, input, None, seed=0, difficult=difficult, cache=cache)
        count = min(count_workers(workers), len(batches))
        self._loader = _start_loader(maker, self._plan, count, keep=False)

    def __len__(self) -> int:
        """Batches of this process."""
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError naming an image that cannot be read."""
        return _received(self._loader)


def count_workers(workers: int) -> int:
    """`workers`, or where that is −1 the cores to spare beside each process that trains, ≤ 8."""
    if workers >= 0:
        return workers
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by torchrun
    return max(0, min(MOST_WORKERS, cores // processes - 1))


BatchKey = tuple[int, list[int]]
"""Epoch, image numbers."""


class BatchMaker(Dataset["Batch | DhError"]):
    """Makes a batch from (epoch, image numbers).

    Holds the table's columns as tensors: forked workers have their parent's, spawned ones get
    them in shared memory, and no worker comes to own a Python object per box or image.
    """

    def __init__(
        self,
        table: DetectionTable,
        input: Input,
        augment: Augment | None,
        *,
        seed: int,
        difficult: str,
        cache: ImageCache | None = None,
    ) -> None:
        self.root, self.input, self.augment, self.seed = table.root, input, augment, seed
        self.cache = cache
        files = table.files.in_memory()
        self.files = [torch.tensor(part) for part in (files.buffer, files.starts, files.stops)]
        self.offsets = torch.tensor(table.offsets)
        self.boxes = torch.tensor(table.boxes)
        self.labels = torch.tensor(table.labels.astype(np.int64))
        self.is_region = torch.tensor(~table.taught(difficult))

    def __getitem__(self, key: BatchKey) -> Batch | DhError:
        epoch, images = key
        try:
            return self.make(epoch, images)
        except DhError as error:  # returned, since DataLoader would rewrite its words
            return error

    def make(self, epoch: int, images: list[int]) -> Batch:
        """The batch of these image numbers. Raises DataError naming an unreadable image."""
        samples, originals = [], []
        for image in images:
            sample = self.read(image)
            originals.append((sample.image.shape[0], sample.image.shape[1]))
            samples.append(self._transform(sample, epoch, image))
        pixels = collate_images([sample.image for sample in samples], originals, self.input.divisor)
        return Batch(pixels, [_target(sample) for sample in samples], images)

    def read(self, image: int) -> Sample:
        """The image as it is on disk; boxes cut at its border."""
        rows = slice(int(self.offsets[image]), int(self.offsets[image + 1]))
        boxes, labels = self.boxes[rows].numpy(), self.labels[rows].numpy()
        region = self.is_region[rows].numpy()
        pixels = self._decode(image) if self.cache is None else self.cache[image]
        return clip_sample(Sample(pixels, boxes[~region], labels[~region], boxes[region]))

    def _decode(self, image: int) -> Pixels:
        files = PackedStrings(*(part.numpy() for part in self.files))
        path = self.root / str(files[image])
        return read_image(path, upright=self.input.exif, depth=self.input.depth)

    def _transform(self, sample: Sample, epoch: int, image: int) -> Sample:
        if self.augment is None:
            return resize_sample(sample, self.input)
        dice = image_dice(self.seed, epoch, image)
        return augment_sample(sample, self.input, self.augment, dice)


class _Plan(Sampler[BatchKey]):
    """What the DataLoader is to make next; changed between epochs while the workers live on."""

    def __init__(self) -> None:
        self._keys: list[BatchKey] = []

    def set(self, epoch: int, batches: Batches) -> None:
        self._keys = [(epoch, batch.tolist()) for batch in batches]

    def __iter__(self) -> Iterator[BatchKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _start_loader(
    maker: BatchMaker, plan: _Plan, workers: int, *, keep: bool
) -> DataLoader[Batch | DhError]:
    if maker.augment is not None:
        prepare_augmentation(maker.augment)
    return DataLoader(
        maker,
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        collate_fn=_as_made,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        persistent_workers=keep and workers > 0,
        generator=torch.Generator(),  # its own, or each epoch would advance the global one
    )


def _received(loader: DataLoader[Batch | DhError]) -> Iterator[Batch]:
    try:
        for batch in loader:
            if isinstance(batch, DhError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise DhError(
            f"a process that loads images died: {error}",
            hint="memory or /dev/shm may be short: `--set train.workers=0` needs neither",
        ) from error


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # Ctrl-C and the SIGTERM of `timeout` go to a whole group: they are for the main process to
    # handle, which would die with a worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()


def _as_made(batch: Any) -> Any:
    return batch


def _target(sample: Sample) -> Target:
    return Target(
        boxes=torch.from_numpy(sample.boxes.astype(np.float32)),
        labels=torch.from_numpy(sample.labels),
        ignore=torch.from_numpy(sample.ignore.astype(np.float32)),
    )

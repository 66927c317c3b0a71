"""From a DetectionTable to batches of tensors, in this process or in workers.

A batch is made whole by one worker from its image numbers alone, so neither the number of workers
nor the way they are started can change it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dhcli.config.schema import Augment, Input
from dhcli.data.io.depth import Depth
from dhcli.data.io.image import Pixels, Values, read_image
from dhcli.data.loading.batching import (
    WHOLE,
    Batches,
    Share,
    evaluation_batches,
    image_dice,
    known_sizes,
    mixing_dice,
    step_side,
    training_batches,
)
from dhcli.data.loading.cache import ImageCache
from dhcli.data.loading.mixing import change_hsv, mix_sample, nothing_seen, throw
from dhcli.data.loading.pictures import Pictures, collate_pictures
from dhcli.data.loading.repeats import epoch_images
from dhcli.data.loading.transforms import (
    Sample,
    augment_sample,
    clip_sample,
    prepare_augmentation,
    resize_sample,
)
from dhcli.data.loading.workers import (
    GLANCE,
    Workers,
    affordable,
    count_workers,
    describe_shortage,
    received,
    share,
    start_worker,
)
from dhcli.data.strings import PackedStrings
from dhcli.data.table import DetectionTable
from dhcli.errors import DataError, DhError
from dhcli.ops.batch import ImageBatch, Target

PAUSES = (0.3, 1.0)
"""Seconds before an image that could not be read is read again."""


@dataclass
class Batch:
    """Images, what is to be found in them, and their numbers in the table.

    `missing`: number of each image that could not be read, and why.
    """

    images: ImageBatch
    targets: list[Target]
    indices: list[int]
    missing: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""
        targets = [target.to(device) for target in self.targets]
        return type(self)(self.images.to(device), targets, self.indices, self.missing)

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; called by DataLoader."""
        targets = [target.pin_memory() for target in self.targets]
        return type(self)(self.images.pin_memory(), targets, self.indices, self.missing)

    def __reduce__(self) -> tuple[Any, ...]:
        # A tensor sent by a worker costs an open file, and a thousand are soon open. Only the
        # pixels are worth one; the rest travels as bytes.
        images = self.images
        small = (images.sizes.numpy(), images.originals.numpy())
        targets = [(t.boxes.numpy(), t.labels.numpy(), t.ignore.numpy()) for t in self.targets]
        return _rebuild_batch, (images.pixels, small, targets, self.indices, self.missing)


def _rebuild_batch(
    pixels: Tensor,
    small: tuple[NDArray[Any], NDArray[Any]],
    targets: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]],
    indices: list[int],
    missing: list[tuple[int, str]],
) -> Batch:
    images = ImageBatch(pixels, *map(torch.from_numpy, small))
    found = [Target(*map(torch.from_numpy, parts)) for parts in targets]
    return Batch(images, found, indices, missing)


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


class _Loader:
    """Batches that as many processes make as the memory they share has room for.

    lines  what a user should know of how images are loaded
    heed   is called every few seconds of waiting for a batch; may raise, to stop
    lost   is called with the number of an image that was left out, and why
    """

    def __init__(
        self, maker: BatchMaker, length: int, workers: int, size: int, *, held: int, keep: bool
    ) -> None:
        self._length = length
        self._plan = _Plan()
        count = min(count_workers(workers), length)
        number = affordable(count, size, held)
        self.lines = describe_shortage(count, number)
        self._loader = _start_loader(maker, self._plan, number, keep=keep)
        self.heed: Callable[[], None] = _go_on
        self.lost: Callable[[int, str], None] = _forget

    def __len__(self) -> int:
        """Batches of this process, per epoch."""
        return self._length

    def _delivered(self) -> Iterator[Batch]:
        for batch in received(self._loader, self.heed):
            for image, why in batch.missing:
                self.lost(image, why)
            yield batch


class TrainLoader(_Loader):
    """Augmented batches, shuffled by (seed, epoch). See `training_batches` for the order.

    The stream depends on the seed, the epoch and the images, and on nothing else. Boxes flagged
    crowd or ignore, of no class, or (`difficult` "ignore") difficult become regions to ignore.
    `batch_size` and `share` are this process's; `workers` as in `count_workers`; a `cache` holds
    the images of `table`; `held` batches are a step, and are kept at a time; with
    `skip`, an image that cannot be read is left out of its batch, which may then be empty.
    `factors` (I,) say how often each image comes per epoch, None: once. Has one epoch under way at
    a time.

    whole  batches per epoch of all processes, none counted twice
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
        held: int = 1,
        skip: bool = False,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        self._sizes = known_sizes(table, upright=input.exif)
        self._batch_size, self._seed, self._factors = batch_size, seed, factors
        self._share, self._augment, self._per_step = share, augment, held
        maker = BatchMaker(
            table,
            input,
            augment,
            seed=seed,
            difficult=difficult,
            cache=cache,
            sizes=self._sizes,
            skip=skip,
        )
        images = len(table) if factors is None else epoch_images(factors)
        self.whole = math.ceil(images / batch_size)
        length = math.ceil(self.whole / share.size)
        size = most_bytes(batch_size, input, augment)
        super().__init__(maker, length, workers, size, held=held, keep=True)

    def epoch(self, number: int, start: int = 0, *, plain: bool = False) -> Iterator[Batch]:
        """The batches of epoch `number` from batch `start` on; those before it are not loaded.

        `plain`: as in the epochs of `augment.plain_epochs`.

        Raises DataError naming an image that cannot be read, LoadingError where the processes that
        load fail.
        """
        batches = self._batches_of(number)
        looks = [self._look(number, place, plain) for place in range(len(batches))]
        self._plan.set(number, batches[start:], looks[start:])
        return self._delivered()

    def _look(self, epoch: int, place: int, plain: bool) -> Look:
        """How the images of batch `place` of an epoch are made."""
        augment = self._augment
        if plain or not augment.batch_sizes:
            return Look(plain)
        step = place // self._per_step
        sides, every = augment.batch_sizes, augment.batch_sizes_every
        return Look(plain, step_side(sides, every, seed=self._seed, epoch=epoch, step=step))

    def _batches_of(self, epoch: int) -> Batches:
        every = training_batches(
            self._sizes,
            self._batch_size,
            seed=self._seed,
            epoch=epoch,
            shares=self._share.size,
            factors=self._factors,
        )
        return self._share.of(every)


class EvalLoader(_Loader):
    """Batches of every image once, resized and not augmented. See `evaluation_batches`.

    Each process has its share: no image twice, none missing, and so perhaps one batch more in one
    process than in another. With `sized`, an image of another size than its table says is an error,
    as in training; `skip` as there.

    images   (n,) int64, sorted: the numbers of the images of this share
    longest  batches of the process that has the most
    """

    def __init__(  # noqa: PLR0913  (as above)
        self,
        table: DetectionTable,
        input: Input,
        *,
        batch_size: int,
        workers: int,
        share: Share = WHOLE,
        difficult: str = "ignore",
        cache: ImageCache | None = None,
        sized: bool = False,
        skip: bool = False,
    ) -> None:
        sizes = known_sizes(table, upright=input.exif)
        every = evaluation_batches(sizes, batch_size, input)
        batches = share.of(every)
        self.images = np.sort(np.concatenate([np.zeros(0, np.int64), *batches]))
        self.longest = math.ceil(len(every) / share.size)
        maker = BatchMaker(
            table,
            input,
            None,
            seed=0,
            difficult=difficult,
            cache=cache,
            sizes=sizes if sized else None,
            skip=skip,
        )
        size = most_bytes(batch_size, input, None)
        super().__init__(maker, len(batches), workers, size, held=1, keep=False)
        self._plan.set(0, batches)

    def __iter__(self) -> Iterator[Batch]:
        """Raises DataError naming an image that cannot be read; LoadingError as in training."""
        return self._delivered()


def most_bytes(batch_size: int, input: Input, augment: Augment | None) -> int:
    """Bytes of the pixels of a batch whose images are as large as the settings allow."""
    short = max((input.min_size, *(augment.min_sizes if augment else ())))
    longest = max((input.max_size, *(augment.batch_sizes if augment else ())))
    if augment and augment.batch_sizes:
        short, input = longest, input.model_copy(update={"max_size": longest})
    sides = (min(short, input.max_size), input.max_size)
    height, width = (side + -side % input.pad_to() for side in sides)
    return batch_size * height * width * 3 * (4 if input.interpolation == "float" else 1)


class Look(NamedTuple):
    """How the images of a batch are made.

    plain  without what the epochs of `augment.plain_epochs` lack
    side   of the square that they are fitted into; None: as configured
    """

    plain: bool = False
    side: int | None = None


BatchKey = tuple[int, list[int], Look]
"""Epoch, image numbers as in `Batches`, how they are made."""


class BatchMaker(Dataset["Batch | DhError"]):
    """Makes a batch from (epoch, image numbers).

    `sizes` (I, 2) is what the images must measure; None: what they measure is all the same. With
    `skip`, an image that cannot be read is left out of its batch.
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
        sizes: NDArray[np.int64] | None = None,
        skip: bool = False,
    ) -> None:
        self.skip = skip
        self.root, self.input, self.augment, self.seed = table.root, input, augment, seed
        self.cache = cache
        self.sizes = None if sizes is None else torch.tensor(sizes)
        files = table.files.in_memory()
        self.files = [torch.tensor(part) for part in (files.buffer, files.starts, files.stops)]
        self.offsets = torch.tensor(table.offsets)
        self.boxes = torch.tensor(table.boxes)
        self.labels = torch.tensor(table.labels.astype(np.int64))
        self.is_region = torch.tensor(~table.taught(difficult))

    def __getitem__(self, key: BatchKey) -> Batch | DhError:
        try:
            batch = self.make(*key)
            share(batch.images.pixels)
        except DhError as error:  # returned, since DataLoader would rewrite its words
            return error
        return batch

    def make(self, epoch: int, images: list[int], look: Look) -> Batch:
        """The batch of these image numbers. Raises DataError naming an unreadable image."""
        samples, originals = [], []
        indices, missing = [], []
        input, augment = self._looking(look)
        for number in images:
            image = number % (len(self.offsets) - 1)
            try:
                sample = self.read(image)
            except DataError as error:
                if not self.skip:
                    raise
                missing.append((image, error.what))
                continue
            indices.append(image)
            originals.append((sample.image.shape[0], sample.image.shape[1]))
            samples.append(self._transform(sample, (epoch, number), input, augment, missing))
        pixels = collate_images([sample.image for sample in samples], originals, input.pad_to())
        return Batch(pixels, [_target(sample) for sample in samples], indices, missing)

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
        pixels = _read_patiently(path, upright=self.input.exif, depth=self.input.depth)
        if self.sizes is not None:
            told, found = self.sizes[image].tolist(), pixels.shape[1::-1]
            if sorted(told) != sorted(found):  # EXIF may lay it on its side
                what = "is {} × {} pixels, but its boxes are for {} × {}: it has changed since"
                raise DataError(what.format(*found, *told), where=path)
        return pixels

    def _looking(self, look: Look) -> tuple[Input, Augment | None]:
        """The settings that hold for a batch."""
        input, augment = self.input, self.augment
        if look.side is not None:
            input = input.model_copy(update={"min_size": look.side, "max_size": look.side})
        return input, augment.plain() if augment and look.plain else augment

    def _transform(
        self,
        sample: Sample,
        place: tuple[int, int],
        input: Input,
        augment: Augment | None,
        missing: list[tuple[int, str]],
    ) -> Sample:
        """The sample as the network sees it; `place` is epoch and image number.

        Other images that it is mixed with and that cannot be read are added to `missing`.
        """
        if augment is None:
            return resize_sample(sample, input)
        if augment.mixes() or augment.hsv:
            dice = throw(mixing_dice(self.seed, *place), len(self.offsets) - 1)
            if augment.mixes():
                read = partial(self._read_partner, missing=missing)
                sample = mix_sample(sample, read, input, augment, dice)
            if augment.hsv:
                image = change_hsv(sample.image, augment.hsv, dice.colour)
                sample = replace(sample, image=image)
        return augment_sample(sample, input, augment, image_dice(self.seed, *place))

    def _read_partner(self, image: int, missing: list[tuple[int, str]]) -> Sample:
        """`read`; with `skip`, a grey pixel in place of an image that cannot be read."""
        try:
            return self.read(image)
        except DataError as error:
            if not self.skip:
                raise
            missing.append((image, error.what))
            return nothing_seen(self.input.letterbox or 0)


class _Plan(Sampler[BatchKey]):
    """What the DataLoader is to make next; changed between epochs while the workers live on."""

    def __init__(self) -> None:
        self._keys: list[BatchKey] = []

    def set(self, epoch: int, batches: Batches, looks: Sequence[Look] = ()) -> None:
        """`looks`: one for each of `batches`, or none: all as configured."""
        made = looks or [Look()] * len(batches)
        self._keys = [
            (epoch, batch.tolist(), look) for batch, look in zip(batches, made, strict=True)
        ]

    def __iter__(self) -> Iterator[BatchKey]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _start_loader(
    maker: BatchMaker, plan: _Plan, workers: Workers, *, keep: bool
) -> DataLoader[Batch | DhError]:
    if maker.augment is not None:
        prepare_augmentation(maker.augment)
    return DataLoader(
        maker,
        batch_size=None,
        sampler=plan,
        num_workers=workers.processes,
        prefetch_factor=workers.ahead if workers.processes else None,
        timeout=GLANCE if workers.processes else 0,
        collate_fn=_as_made,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
        persistent_workers=keep and workers.processes > 0,
        generator=torch.Generator(),  # its own, or each epoch would advance the global one
    )


def _read_patiently(path: Path, *, upright: bool, depth: Depth) -> Pixels:
    """`read_image`, more than once where it fails: a share may be gone for a moment."""
    for pause in PAUSES:
        try:
            return read_image(path, upright=upright, depth=depth)
        except DataError:
            time.sleep(pause)
    return read_image(path, upright=upright, depth=depth)


def _forget(image: int, why: str) -> None:
    """Nobody asks what was left out."""


def _go_on() -> None:
    """Nobody asks to stop."""


def _as_made(batch: Any) -> Any:
    return batch


def _target(sample: Sample) -> Target:
    return Target(
        boxes=torch.from_numpy(sample.boxes.astype(np.float32)),
        labels=torch.from_numpy(sample.labels),
        ignore=torch.from_numpy(sample.ignore.astype(np.float32)),
    )

"""Run a detector over images that need no annotations, in memory that does not grow with them.

Images are decoded in threads ahead of the detector, and pictures drawn in threads behind it.
"""

from __future__ import annotations

import math
import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from dhcli.config.detecting import DetectOptions
from dhcli.config.schema import Input
from dhcli.data.io.files import fold
from dhcli.data.io.image import Pixels, Values, read_image
from dhcli.data.io.progress import Count
from dhcli.data.loading.pictures import collate_pictures
from dhcli.data.loading.transforms import resize, resized_size
from dhcli.errors import DataError
from dhcli.inference.locate_images import ImageList
from dhcli.inference.writers import Least, Place, Prediction, Writer
from dhcli.runtime.runner import Found, Runner
from dhcli.runtime.team import ALONE, Team

T = TypeVar("T")
THREADS = min(8, os.cpu_count() or 1)
SENT = 16
"""Images, at least, that each of several processes does before it tells the others of them."""
NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Kept:
    """Which detections are kept.

    top     most detections per image; None: as many as the model gives
    labels  labels to keep; None: all
    shown   score from which a detection is drawn
    least   score from which it is kept, where the model gives more
    """

    top: int | None = None
    labels: tuple[int, ...] | None = None
    shown: Least = 0.3
    least: Least = 0.0

    def of(self, image: Prediction) -> Prediction:
        """The detections of an image that are kept, best first."""
        rows = image.reaching(self.least)
        if self.labels is not None:
            rows = rows[np.isin(image.labels[rows], self.labels)]
        return image.take(rows[: self.top])


@dataclass
class Summary:
    """What was read, found and not read.

    images      how many were read
    unreadable  name and reason of those that were not
    odd         by what is odd about them, names of images that were read all the same
    counts      detections of each label
    shown       those of them with a score to be drawn
    full        images with as many detections as are kept per image
    seconds     from the first image to the last result
    """

    images: int = 0
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    odd: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[int] = field(default_factory=Counter)
    shown: Counter[int] = field(default_factory=Counter)
    full: int = 0
    seconds: float = 0.0

    def add(self, seen: Seen, shown: Least, *, full: bool) -> None:
        """Count an image of which `seen.found` is what is kept."""
        for code in seen.odd:
            self.odd[code].append(seen.name)
        if isinstance(seen.found, DataError):
            hint = f" ({seen.found.hint})" if seen.found.hint else ""
            self.unreadable.append((seen.name, f"{seen.found.what}{hint}"))
            return
        labels = seen.found.labels
        self.images += 1
        self.full += full
        self.counts.update(labels.tolist())
        self.shown.update(labels[seen.found.reaching(shown)].tolist())

    def require_some(self, images: ImageList) -> None:
        """Raise DataError where none of `images` could be read."""
        if not self.images:
            name, problem = self.unreadable[0]
            what = f"no image could be read; the first of {len(images)}: {problem}"
            raise DataError(what, where=images.root / name)


@dataclass(frozen=True)
class Source:
    """An image to detect on: its name, and what reads it, a function with `read_image`'s settings.

    `read` is called in a thread; a DataError that it raises tells that the image is unreadable.
    """

    name: str
    read: Callable[..., Pixels]


@dataclass(frozen=True)
class Seen:
    """What was found in an image, or why it could not be read; codes of what is odd about it."""

    name: str
    found: Prediction | DataError
    odd: tuple[str, ...]


def detect_each(
    runner: Runner, sources: Iterable[Source], options: DetectOptions, batch_size: int = 1
) -> Iterator[Seen]:
    """Detect on images one after another, in order; few of them are in memory at a time.

    A batch holds images of one size only, so results do not depend on `batch_size`.
    """
    window = _window(batch_size)
    with _decode_ahead(sources, runner.config.input, ahead=window + THREADS) as decoded:
        while chunk := list(islice(decoded, window)):
            found = iter(_detect(runner, chunk, options, batch_size))
            for one in chunk:
                yield Seen(one.name, one.problem or next(found), one.odd)


def detect_images(  # noqa: PLR0913  (what, where to, how and by whom; most have a usual value)
    runner: Runner,
    images: ImageList,
    kept: Kept,
    writers: Sequence[Writer],
    *,
    options: DetectOptions,
    batch_size: int = 1,
    progress: Count | None = None,
    draw: Writer | None = None,
    team: Team = ALONE,
) -> Summary:
    """Detect on `images` and give what is kept of every image to the `writers`, in order.

    The processes of `team` share the images. Each calls `draw` with its own; the first calls the
    `writers` with those of all, without pixels where there are several processes.
    An image that cannot be read is noted, and the rest is done. Raises DataError where none could
    be read. See `detect_each`.
    """
    begun = time.perf_counter()
    summary, done = Summary(), 0
    limit = options.over(runner.config.model.detect).max_detections
    finish = partial(finish_image, kept, limit, draw, with_pixels=team.size == 1)
    for every in _rounds(runner, images, options, batch_size, team, finish):
        team.from_first(partial(_write, every, writers))
        for seen, full in every:
            summary.add(seen, kept.shown, full=full)
            done += 1
            if progress is not None:
                progress(done, len(images))
    summary.require_some(images)
    summary.seconds = time.perf_counter() - begun
    return summary


def finish_image(
    kept: Kept, limit: int, draw: Writer | None, seen: Seen, *, with_pixels: bool = True
) -> tuple[Seen, bool]:
    """An image with what is kept of it, drawn by `draw`; whether `limit` detections were found."""
    if isinstance(seen.found, DataError):
        return seen, False
    found = kept.of(seen.found)
    if draw is not None:
        draw(found)
    given = found if with_pixels else replace(found, pixels=NO_PIXELS)
    return replace(seen, found=given), len(seen.found) >= limit


def _write(every: Sequence[tuple[Seen, bool]], writers: Sequence[Writer]) -> None:
    for seen, _ in every:
        if isinstance(seen.found, Prediction):
            for write in writers:
                write(seen.found)


def _window(batch_size: int) -> int:
    """Images among which those of one size are looked for, to make a batch."""
    return 1 if batch_size == 1 else 2 * batch_size


def _rounds(
    runner: Runner,
    images: ImageList,
    options: DetectOptions,
    batch_size: int,
    team: Team,
    finish: Callable[[Seen], T],
) -> Iterator[list[T]]:
    """What `finish` makes of every image, in order, some images at a time: alike in all processes.

    Each of them has every size-th window of images: the batches are those that one alone makes.
    """
    window = _window(batch_size)
    numbers = [n for n in range(len(images)) if n // window % team.size == team.rank]
    files = (
        Source(name, partial(read_image, images.root / name))
        for name in map(images.names.__getitem__, numbers)
    )
    finished = map(finish, detect_each(runner, files, options, batch_size))
    own = zip(numbers, finished, strict=True)
    some = window if team.size == 1 else window * math.ceil(SENT / window)
    for _ in range(0, len(images), some * team.size):
        part = team.each(lambda: list(islice(own, some)))
        yield [result for _, result in sorted(team.gather(part), key=itemgetter(0))]


Drawer = Callable[[Prediction, Sequence[str], Path], None]
"""Draws what was found in an image, with the classes' names, to a file; called in threads."""


@contextmanager
def drawing(place: Place, draw: Drawer, lowest: Least) -> Iterator[Writer]:
    """A writer that has pictures drawn into `drawn/`, in threads; of scores from `lowest` up.

    See `drawn_path`.
    """
    with drawing_pool() as submit:

        def write(image: Prediction) -> None:
            shown = image.take(image.reaching(lowest))
            submit(draw, shown, place.classes, drawn_path(place.folder, image.name, place.taken))

        yield write


@contextmanager
def drawing_pool() -> Iterator[Callable[..., None]]:
    """A function that has a call made in a thread; few wait, and all are done in the end."""
    with ThreadPoolExecutor(THREADS, "draw") as pool:
        waiting: deque[Future[None]] = deque()

        def submit(*call: Any) -> None:
            if len(waiting) > THREADS:
                waiting.popleft().result()
            waiting.append(pool.submit(*call))

        yield submit
        for future in waiting:
            future.result()


def drawn_path(folder: Path, image: str, taken: frozenset[str] = frozenset()) -> Path:
    """Where the picture of `image` goes: its name, and its format if JPEG or PNG, else JPEG.

    Numbered where that is the name of another: `taken` are those of all, folded.
    """
    keeps = image.lower().endswith((".jpg", ".jpeg", ".png"))
    options = chain([f"{image}.jpg"], (f"{image}_{number}.jpg" for number in count(2)))
    name = image if keeps else next(each for each in options if fold(each) not in taken)
    return folder / "drawn" / name


@dataclass(frozen=True)
class _Decoded:
    """An image as it is and as the network wants it, and what is odd, or the problem with it."""

    name: str
    pixels: Pixels | None = None
    resized: Values | None = None
    problem: DataError | None = None
    odd: tuple[str, ...] = ()


@contextmanager
def _decode_ahead(
    sources: Iterable[Source], input: Input, ahead: int
) -> Iterator[Iterator[_Decoded]]:
    """The images in order, decoded in threads; at most `ahead` wait to be taken."""
    with ThreadPoolExecutor(THREADS, "decode") as pool:
        waiting: deque[Future[_Decoded]] = deque()

        def decoded() -> Iterator[_Decoded]:
            for source in sources:
                waiting.append(pool.submit(_decode, source, input))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

        try:
            yield decoded()
        finally:
            for future in waiting:
                future.cancel()


def _decode(source: Source, input: Input) -> _Decoded:
    odd: list[str] = []
    try:
        pixels = source.read(
            upright=input.exif, depth=input.depth, say=lambda code, _: odd.append(code)
        )
    except DataError as error:
        return _Decoded(source.name, problem=error)
    size = resized_size(pixels.shape[1], pixels.shape[0], input)
    return _Decoded(source.name, pixels, resize(pixels, size, input.interpolation), odd=tuple(odd))


def _detect(
    runner: Runner, chunk: Sequence[_Decoded], options: DetectOptions, batch_size: int
) -> list[Prediction]:
    """What is found in the images of `chunk` that could be read, in their order."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(chunk):
        if one.resized is not None:
            by_shape.setdefault(one.resized.shape, []).append(index)
    found: dict[int, Prediction] = {}
    for same in by_shape.values():
        for start in range(0, len(same), batch_size):
            part = same[start : start + batch_size]
            results = _detect_batch(runner, [chunk[i] for i in part], options)
            found.update(zip(part, results, strict=True))
    return [found[index] for index in sorted(found)]


def _detect_batch(
    runner: Runner, part: Sequence[_Decoded], options: DetectOptions
) -> list[Prediction]:
    originals = [one.pixels for one in part if one.pixels is not None]
    resized = [one.resized for one in part if one.resized is not None]
    sizes = [(x.shape[0], x.shape[1]) for x in originals]
    [results] = runner.detect(collate_pictures(resized, sizes, runner.divisor), options)
    return [
        _prediction(one.name, pixels, result)
        for one, pixels, result in zip(part, originals, results, strict=True)
    ]


def _prediction(name: str, pixels: Pixels, result: Found) -> Prediction:
    return Prediction(
        name,
        (pixels.shape[1], pixels.shape[0]),
        result.boxes.astype(np.float64),
        result.scores.astype(np.float64),
        result.labels,
        pixels,
    )

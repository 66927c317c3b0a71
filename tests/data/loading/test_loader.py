from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dhcli.config.schema import Augment, Input
from dhcli.data.io.image import read_image
from dhcli.data.loading.batching import Share
from dhcli.data.loading.cache import ImageCache, decode_to_file, decode_to_memory
from dhcli.data.loading.loader import (
    Batch,
    EvalLoader,
    TrainLoader,
    collate_images,
)
from dhcli.data.loading.workers import count_workers
from dhcli.data.table import ANY_CLASS, DetectionTable, Flag, make_table
from dhcli.errors import DataError

INPUT = Input(min_size=48, max_size=80)
FULL = Augment(flip=0.5, min_sizes=(32, 48, 64), colour=0.5, crop=0.5)
SIZES = [(60, 40), (40, 60), (50, 50), (64, 32)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # few cores


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that cannot be read is read again at once."""
    monkeypatch.setattr("dhcli.data.loading.loader.PAUSES", (0, 0))


@pytest.fixture
def table(tmp_path: Path) -> DetectionTable:
    """Eleven small noisy images with up to three boxes each."""
    rng = np.random.default_rng(5)
    files, sizes, counts, boxes = [], [], [], []
    for number in range(11):
        width, height = SIZES[number % 4]
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        corner = rng.uniform(0, 0.5, (number % 4, 2))
        far = corner + rng.uniform(0.2, 0.5, corner.shape)
        boxes.append(np.hstack([corner, far]) * (width, height, width, height))
        files.append(f"{number}.png")
        sizes.append((width, height))
        counts.append(number % 4)
    labels = rng.integers(0, 3, sum(counts))
    return make_table(tmp_path, files, sizes, counts, np.concatenate(boxes), labels, list("abc"))


def train_loader(table: DetectionTable, workers: int = 0, **changes: Any) -> TrainLoader:
    settings: dict[str, Any] = {"batch_size": 2, "seed": 3} | changes
    return TrainLoader(table, INPUT, FULL, workers=workers, **settings)


def fingerprint(batches: Iterable[Batch]) -> list[str]:
    """One hash a batch, of everything in it."""
    return [_hash(batch) for batch in batches]


def _hash(batch: Batch) -> str:
    tensors = [batch.images.pixels, batch.images.sizes, batch.images.originals]
    for target in batch.targets:
        tensors += [target.boxes, target.labels, target.ignore]
    parts = [str(batch.indices).encode(), *(tensor.numpy().tobytes() for tensor in tensors)]
    return hashlib.sha256(b"|".join(parts)).hexdigest()


def test_collate_pads_right_and_below_in_channels_last() -> None:
    images = [np.full((20, 33, 3), 7, np.uint8), np.full((30, 10, 3), 9, np.uint8)]

    batch = collate_images(images, [(40, 66), (60, 20)], 32)

    assert batch.pixels.shape == (2, 3, 32, 64)
    assert batch.pixels.dtype == torch.uint8
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
    assert batch.sizes.tolist() == [[20, 33], [30, 10]]
    assert batch.originals.tolist() == [[40, 66], [60, 20]]
    assert int(batch.pixels.sum()) == 3 * (20 * 33 * 7 + 30 * 10 * 9)
    assert (batch.pixels[0, :, :20, :33] == 7).all()
    assert (batch.pixels[1, :, :30, :10] == 9).all()


@pytest.mark.parametrize("workers", [2, 3])
def test_stream_is_the_same_for_every_number_of_workers(
    table: DetectionTable, workers: int
) -> None:
    alone, shared = train_loader(table), train_loader(table, workers)

    for epoch in (0, 1):
        assert fingerprint(shared.epoch(epoch)) == fingerprint(alone.epoch(epoch))


def test_stream_differs_between_epochs_and_seeds(table: DetectionTable) -> None:
    first, other = train_loader(table), train_loader(table, seed=4)

    streams = [fingerprint(loader.epoch(epoch)) for loader in (first, other) for epoch in (0, 1)]

    assert len(set().union(*streams)) == 4 * 6
    assert streams[0] == fingerprint(first.epoch(0))


def test_an_image_is_augmented_alike_whatever_its_batch(table: DetectionTable) -> None:
    pairs, singles = train_loader(table, batch_size=2), train_loader(table, batch_size=1)

    def images(loader: TrainLoader) -> dict[int, bytes]:
        found = {}
        for batch in loader.epoch(2):
            for index, pixels, (h, w) in zip(
                batch.indices, batch.images.pixels, batch.images.sizes.tolist(), strict=True
            ):
                found[index] = pixels[:, :h, :w].numpy().tobytes()
        return found

    assert images(pairs) == images(singles)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_streams_are_the_same_from_a_cache(
    table: DetectionTable, tmp_path: Path, place: str, workers: int
) -> None:
    plain = [fingerprint(train_loader(table).epoch(epoch)) for epoch in (0, 1)]
    resized = fingerprint(EvalLoader(table, INPUT, batch_size=2, workers=0))

    cache = cache_of(table, tmp_path if place == "file" else None)
    _remove_images(table)

    cached = TrainLoader(table, INPUT, FULL, batch_size=2, seed=3, workers=workers, cache=cache)
    assert [fingerprint(cached.epoch(epoch)) for epoch in (0, 1)] == plain
    loader = EvalLoader(table, INPUT, batch_size=2, workers=workers, cache=cache)
    assert fingerprint(loader) == resized


def cache_of(table: DetectionTable, folder: Path | None) -> ImageCache:
    if folder is None:
        return decode_to_memory(table, upright=True)
    return decode_to_file(table, folder / "decoded.bin", upright=True)


def _remove_images(table: DetectionTable) -> None:
    for image in range(len(table)):
        table.path(image).unlink()


@pytest.fixture
def spawn() -> Iterator[None]:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.mark.usefixtures("spawn")
def test_stream_is_the_same_in_spawned_workers(table: DetectionTable) -> None:
    geometry = Augment(min_sizes=(32, 48, 64), crop=0.5)  # colour would import for seconds
    alone, spawned = (
        TrainLoader(table, INPUT, geometry, batch_size=2, seed=3, workers=workers)
        for workers in (0, 1)
    )

    assert fingerprint(spawned.epoch(0)) == fingerprint(alone.epoch(0))


@pytest.mark.slow
@pytest.mark.usefixtures("spawn")
@pytest.mark.parametrize("place", ["memory", "file"])
def test_spawned_workers_share_the_cache(table: DetectionTable, tmp_path: Path, place: str) -> None:
    alone = fingerprint(EvalLoader(table, INPUT, batch_size=4, workers=0))
    cache = cache_of(table, tmp_path if place == "file" else None)
    _remove_images(table)

    spawned = EvalLoader(table, INPUT, batch_size=4, workers=1, cache=cache)

    assert fingerprint(spawned) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_start_skips_exactly_and_without_loading(table: DetectionTable, workers: int) -> None:
    loader = train_loader(table, workers)
    whole = list(loader.epoch(1))
    for index in (index for batch in whole[:4] for index in batch.indices):
        table.path(index).unlink()  # what is skipped is not even opened

    rest = list(loader.epoch(1, start=4))

    assert fingerprint(rest) == fingerprint(whole[4:])
    assert list(loader.epoch(1, start=6)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_an_abandoned_epoch_leaves_nothing_behind(table: DetectionTable, workers: int) -> None:
    loader = train_loader(table, workers)

    next(loader.epoch(0))

    assert fingerprint(loader.epoch(1)) == fingerprint(train_loader(table).epoch(1))


def test_an_image_that_comes_again_is_augmented_anew(table: DetectionTable) -> None:
    loader = train_loader(table, factors=np.where(np.arange(11) < 4, 2.6, 1.0))
    first = train_loader(table)

    batches = list(loader.epoch(1))

    assert len(loader) == len(batches) == 9  # 4 · 2.6 + 7 = 17.4 images
    seen: dict[int, list[bytes]] = {}
    for batch in batches:
        for index, size, pixels in zip(
            batch.indices, batch.images.sizes.tolist(), batch.images.pixels, strict=True
        ):
            seen.setdefault(index, []).append(pixels[:, : size[0], : size[1]].numpy().tobytes())
    assert {index: len(one) for index, one in seen.items() if index > 3} == dict.fromkeys(
        range(4, 11), 1
    )
    assert all(2 <= len(seen[index]) == len(set(seen[index])) <= 3 for index in range(4))
    assert sum(map(len, seen.values())) == 17
    for batch in first.epoch(1):
        for index, size, pixels in zip(
            batch.indices, batch.images.sizes.tolist(), batch.images.pixels, strict=True
        ):  # the first of them is what it would be without the others
            assert pixels[:, : size[0], : size[1]].numpy().tobytes() in seen[index]
    assert fingerprint(loader.epoch(1, start=4)) == [_hash(batch) for batch in batches[4:]]


def test_loading_leaves_the_global_random_state_alone(table: DetectionTable) -> None:
    before = torch.get_rng_state()

    list(train_loader(table).epoch(0))
    list(EvalLoader(table, INPUT, batch_size=2, workers=0))

    assert torch.equal(torch.get_rng_state(), before)


def test_ranks_train_on_everything_and_equally_long(table: DetectionTable) -> None:
    ranks = [train_loader(table, share=Share(rank, 4)) for rank in range(4)]

    seen = [[batch.indices for batch in rank.epoch(0)] for rank in ranks]

    assert [len(rank) for rank in ranks] == [len(one) for one in seen] == [2, 2, 2, 2]
    assert {index for one in seen for batch in one for index in batch} == set(range(11))


def test_ranks_evaluate_every_image_once(table: DetectionTable) -> None:
    ranks = [
        EvalLoader(table, INPUT, batch_size=2, workers=0, share=Share(rank, 3)) for rank in range(3)
    ]

    seen = [[batch.indices for batch in rank] for rank in ranks]

    assert [len(rank) for rank in ranks] == [len(one) for one in seen]
    assert sorted(index for one in seen for batch in one for index in batch) == list(range(11))
    for rank, one in zip(ranks, seen, strict=True):
        assert rank.images.tolist() == sorted(index for batch in one for index in batch)
        assert rank.longest == max(map(len, seen))


def test_more_ranks_than_batches(table: DetectionTable) -> None:
    two = table.take_images(np.arange(2))

    loader = EvalLoader(two, INPUT, batch_size=8, workers=2, share=Share(5, 6))

    assert len(loader) == 0
    assert list(loader) == []


def test_evaluation_is_resized_only_and_boxes_fit(table: DetectionTable) -> None:
    for batch in EvalLoader(table, INPUT, batch_size=4, workers=0):
        for place, index in enumerate(batch.indices):
            width, height = table.sizes[index].tolist()
            h, w = batch.images.sizes[place].tolist()
            boxes = table.boxes[table.rows(index)] * ([w / width, h / height] * 2)
            assert batch.images.originals[place].tolist() == [height, width]
            assert min(h, w) == 48 or max(h, w) == 80
            assert batch.targets[place].boxes.numpy() == pytest.approx(boxes, rel=1e-6)
            assert batch.targets[place].labels.tolist() == (
                table.labels[table.rows(index)].tolist()
            )


def test_an_image_is_padded_alike_whatever_the_batch_size(table: DetectionTable) -> None:
    def padded(batch_size: int) -> dict[int, tuple[int, ...]]:
        loader = EvalLoader(table, INPUT, batch_size=batch_size, workers=0)
        return {
            index: tuple(batch.images.pixels.shape[2:])
            for batch in loader
            for index in batch.indices
        }

    assert padded(1) == padded(4)


def test_pixels_are_those_of_the_file_where_nothing_is_resized(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    table = make_table(tmp_path, ["a.png"], [(64, 48)], [0], [], [], ["x"])

    (batch,) = EvalLoader(table, INPUT, batch_size=1, workers=0)

    assert np.array_equal(batch.images.pixels[0, :, :48].permute(1, 2, 0).numpy(), pixels)
    assert np.array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize(("difficult", "objects"), [("ignore", [0]), ("keep", [0, 2])])
def test_what_is_an_object_and_what_a_region(
    tmp_path: Path, difficult: str, objects: list[int]
) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    boxes = [[i, 0, i + 10, 10] for i in range(6)]
    flags = [Flag.OCCLUDED, Flag.CROWD, Flag.DIFFICULT, Flag.IGNORE, 0, Flag.TRUNCATED]
    labels = [0, 1, 2, 0, ANY_CLASS, 1]
    table = make_table(
        tmp_path,
        ["a.png"],
        [(64, 48)],
        [6],
        boxes,
        labels,
        list("abc"),
        flags=np.array(flags, np.uint8),
    )

    (batch,) = TrainLoader(
        table, INPUT, Augment(flip=0), batch_size=1, seed=0, workers=0, difficult=difficult
    ).epoch(0)

    target = batch.targets[0]
    kept = [*objects, 5]
    assert target.boxes[:, 0].tolist() == kept
    assert target.labels.tolist() == [labels[i] for i in kept]
    assert target.ignore[:, 0].tolist() == [i for i in range(6) if i not in kept]
    assert [part.dtype for part in (target.boxes, target.labels, target.ignore)] == [
        torch.float32,
        torch.int64,
        torch.float32,
    ]


def test_an_image_without_boxes_has_empty_targets(table: DetectionTable) -> None:
    empty = table.keep_boxes(np.zeros(len(table.boxes), bool))

    for batch in train_loader(empty).epoch(0):
        for target in batch.targets:
            assert target.boxes.shape == (0, 4)
            assert target.labels.shape == (0,)
            assert target.ignore.shape == (0, 4)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_named(table: DetectionTable, workers: int) -> None:
    table.path(7).write_bytes(table.path(7).read_bytes()[:300])
    loader = train_loader(table, workers)

    error = error_of(loader)

    assert str(error) == f"{table.path(7)}: cannot be read: image file is truncated"
    assert error.where == str(table.path(7))


@pytest.mark.parametrize("cut", [(1, 0), (0, 1)])
def test_image_of_another_size_than_its_boxes_are_on_is_named(
    table: DetectionTable, cut: tuple[int, int]
) -> None:
    with Image.open(table.path(7)) as image:
        width, height = image.size
        image.crop((0, 0, width - cut[0], height - cut[1])).save(table.path(7))

    error = error_of(train_loader(table))

    assert error.where == str(table.path(7))
    assert f"is {width - cut[0]} × {height - cut[1]} pixels" in error.what
    assert sum(map(len, EvalLoader(table, INPUT, batch_size=2, workers=0))) == 11


@pytest.mark.parametrize("workers", [0, 1])
def test_image_that_cannot_be_read_is_left_out_and_told(
    table: DetectionTable, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [batch.indices for batch in train_loader(table).epoch(0)]
    gone = {whole[0][0], *whole[1]}
    for image in gone:
        table.path(image).unlink()
    loader = TrainLoader(table, INPUT, Augment(), batch_size=2, seed=3, workers=workers, skip=True)
    told: list[int] = []
    loader.lost = lambda image, why: told.append(image) if "no such image" in why else None

    batches = list(loader.epoch(0))

    assert set(told) == gone
    assert [batch.indices for batch in batches] == [
        [image for image in images if image not in gone] for images in whole
    ]
    assert batches[1].images.pixels.shape[0] == 0


def test_share_that_is_gone_for_a_moment_costs_nothing(
    table: DetectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fingerprint(train_loader(table).epoch(0))
    failed = set()

    def flaky(path: Path, **settings: Any) -> Any:
        if len(failed) < 20 and (path, len(failed) % 2) not in failed:
            failed.add((path, len(failed) % 2))
            raise DataError("cannot be read: Stale file handle", where=path)
        return read_image(path, **settings)

    monkeypatch.setattr("dhcli.data.loading.loader.read_image", flaky)

    assert fingerprint(train_loader(table).epoch(0)) == whole
    assert failed


def error_of(loader: TrainLoader) -> DataError:
    """The error of an epoch. Without its traceback, which would hold the loader and its workers."""
    try:
        list(loader.epoch(0))
    except DataError as error:
        return error.with_traceback(None)
    raise AssertionError("no DataError")


def test_batch_survives_pickling_as_bytes_but_for_its_pixels(table: DetectionTable) -> None:
    batch = next(train_loader(table).epoch(0))

    again = pickle.loads(pickle.dumps(batch))

    assert fingerprint([again]) == fingerprint([batch])
    assert again.images.pixels.is_contiguous(memory_format=torch.channels_last)
    tensors = [part for part in batch.__reduce__()[1] if isinstance(part, torch.Tensor)]
    assert len(tensors) == 1


@pytest.mark.skipif(not hasattr(os, "setpgrp"), reason="process groups are POSIX's")
def test_a_signal_to_the_whole_group_does_not_reach_workers(table: DetectionTable) -> None:
    before = set(multiprocessing.active_children())
    batches = train_loader(table, workers=1).epoch(0)
    next(batches)

    (worker,) = set(multiprocessing.active_children()) - before
    assert os.getpgid(worker.pid) == worker.pid != os.getpgrp()


def test_workers_by_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)

    assert count_workers(-1) == 8
    assert count_workers(3) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert count_workers(-1) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "12")
    assert count_workers(-1) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_worker_does_not_grow(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    images, each = 1000, 200
    boxes = np.tile([1.0, 2.0, 20.0, 20.0], (images * each, 1))
    table = make_table(
        tmp_path,
        ["a.png"] * images,
        [(32, 32)] * images,
        [each] * images,
        boxes,
        np.zeros(images * each, np.int32),
        ["x"],
    )
    loader = TrainLoader(
        table, Input(min_size=32, max_size=32), Augment(), batch_size=8, seed=0, workers=1
    )

    before = set(multiprocessing.active_children())
    pids, used = set(), []
    for epoch in range(2):
        for number, _ in enumerate(loader.epoch(epoch)):
            if number % 50 == 0:
                (worker,) = set(multiprocessing.active_children()) - before
                pids.add(worker.pid)
                used.append(_private_bytes(worker.pid))

    assert len(pids) == 1  # workers outlive the epoch
    assert max(used) - used[0] < 6e6  # as Python objects the boxes would come to 40 MB


def _private_bytes(pid: int | None) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

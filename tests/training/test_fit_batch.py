"""`train.batch_size: auto`, with fakes for the memory and with the real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dhcli.config.load import config_from_dict, config_to_dict, load_config
from dhcli.config.schema import Config
from dhcli.data.table import DetectionTable
from dhcli.errors import ConfigError, DhError
from dhcli.runtime.team import ALONE, Team
from dhcli.training.data import TrainingData
from dhcli.training.fit_batch import Shape, fit, largest_shapes, with_fitted_batch
from dhcli.training.journal import Journal
from dhcli.training.run import Session, start_run
from dhcli.training.run_folder import RunFolder
from dhcli.weights.model_file import read_model
from tests.threads import together

CPU = torch.device("cpu")
HELD = 1000
Fitted = Callable[..., Config]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Of `free` bytes a step takes 100, and 50 for each image; each process has its own `free`."""
    frees: list[int] = []

    def call(*free: int) -> None:
        frees[:] = free

    def most_held(device: torch.device, work: Callable[[], Any]) -> int:
        batch = work.__closure__[0].cell_contents  # type: ignore[index]
        work()
        return HELD + 100 + 50 * len(batch)

    monkeypatch.setattr("dhcli.training.fit_batch.memory_held", lambda _: HELD)
    monkeypatch.setattr("dhcli.training.fit_batch.most_held", most_held)
    monkeypatch.setattr(
        "dhcli.training.fit_batch.memory_free",
        lambda *_: frees.pop(0) if len(frees) > 1 else frees[0],
    )
    return call


@pytest.fixture
def fitted(
    memory: Any, table: DetectionTable, make_detector: Any, make_config: Any, recorder: Any
) -> Fitted:
    """The configuration that comes of `auto`, for eight images per step."""

    def call(team: Team = ALONE, device: torch.device = CPU, **train: Any) -> Config:
        config = make_config(**{"batch_size": "auto", "reference_batch": 8, **train})
        journal = Journal(recorder, team)
        return with_fitted_batch(config, make_detector(), table, device, journal, team)

    return call


def _numbers(config: Config) -> tuple[object, int]:
    return config.train.batch_size, config.train.accumulate


@pytest.mark.parametrize(
    ("free", "size"), [(10_000, 8), (500, 4), (334, 4), (333, 2), (299, 1), (150, 1)]
)
def test_the_largest_part_of_a_step_that_leaves_a_tenth_free(
    free: int, size: int, memory: Any, fitted: Fitted, recorder: Any
) -> None:
    memory(free)

    assert _numbers(fitted()) == (size, 8 // size)
    [line] = recorder.lines
    assert line.startswith(f"batch size {size} (train.batch_size auto): as many as fit of the 8 im")
    assert "; one of 32×32 pixels takes 0.00 GB, 0.00 GB are free" in line


def test_nothing_that_was_set_is_measured(memory: Any, fitted: Fitted, recorder: Any) -> None:
    memory(10**12)

    assert _numbers(fitted(batch_size=3, accumulate=2)) == (3, 2)
    assert recorder.lines == recorder.warnings == []


def test_not_one_that_fits_is_one_clear_error(memory: Any, fitted: Fitted) -> None:
    memory(149)
    with pytest.raises(DhError, match="cpu has too little memory for a single image of 32×32") as e:
        fitted()

    assert "it needs 0.00 GB, and 0.00 GB are free" in e.value.what
    assert e.value.hint == "lower `input.max_size` (`--image-size N`)"


def test_memory_that_cannot_be_had_is_the_same_error(
    memory: Any, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    memory(10_000)
    monkeypatch.setattr("dhcli.training.fit_batch.most_held", fail)
    with pytest.raises(DhError, match="single image of 32×32 pixels: 0"):
        fitted()

    monkeypatch.setattr("dhcli.training.fit_batch._Probe", fail)
    with pytest.raises(DhError, match="single image of 32×32 pixels: 0"):
        fitted()


def test_what_else_goes_wrong_is_not_taken_for_that(
    memory: Any, fitted: Fitted, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("shapes differ")

    memory(10_000)
    monkeypatch.setattr("dhcli.training.fit_batch.most_held", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        fitted()


def test_a_device_whose_memory_cannot_be_measured_needs_a_number(fitted: Fitted) -> None:
    with pytest.raises(ConfigError, match="cannot measure the memory of mps") as caught:
        fitted(device=torch.device("mps"))

    assert caught.value.hint == "give a number: `--batch-size N`"


@pytest.mark.parametrize(
    ("processes", "recipe", "free", "numbers"),
    [
        (2, 8, (10_000, 333), (2, 4)),  # what fits in both
        (2, 8, (10_000,), (4, 2)),
        (3, 8, (10_000,), (2, 3)),  # 6 images per step: three cannot share 8
        (3, 2, (10_000,), (1, 3)),
    ],
)
def test_processes_take_what_fits_in_all_of_them(
    processes: int,
    recipe: int,
    free: tuple[int, ...],
    numbers: object,
    memory: Any,
    fitted: Fitted,
) -> None:
    memory(*free)

    found = together(processes, lambda team: fitted(team, reference_batch=recipe))

    assert [_numbers(config) for config in found if isinstance(config, Config)] == (
        [numbers] * processes
    )


def test_one_process_without_room_for_an_image_ends_all(memory: Any, fitted: Fitted) -> None:
    memory(10_000, 149)

    errors = together(2, fitted)

    assert len({str(error) for error in errors if isinstance(error, DhError)}) == 1
    assert all(isinstance(error, DhError) for error in errors)


class Probe:
    """Steps that take 10 bytes and 5 per image, up to the `most` images that can be had."""

    def __init__(self, most: int = 99) -> None:
        self.most, self.tried = most, list[int]()

    def __call__(self, images: int) -> int | None:
        self.tried.append(images)
        return 10 + 5 * images if images <= self.most else None


@pytest.mark.parametrize(
    ("most", "own", "free", "sure", "found", "tried"),
    [
        (99, 8, 1000, False, (8, 5), [1, 2]),
        (99, 6, 40, False, (3, 5), [1, 2]),
        (99, 8, 20, False, (1, 15), [1]),  # a second could be too much, and is not tried
        (99, 1, 1000, False, (1, 15), [1]),
        (99, 8, 1000, True, (8, 5), [1, 2, 8]),
        (99, 7, 20, True, (1, 5), [1, 2]),  # a GPU says so, and goes on
        (5, 8, 1000, True, (4, 5), [1, 2, 8, 4]),
        (2, 8, 1000, True, (2, 5), [1, 2, 8, 4]),
        (1, 8, 1000, True, (1, 15), [1, 2]),
        (0, 8, 1000, True, (0, 0), [1]),
        (99, 8, 14, True, (0, 15), [1]),
    ],
)
def test_no_more_is_tried_than_must_be(
    most: int, own: int, free: int, sure: bool, found: object, tried: list[int]
) -> None:
    probe = Probe(most)

    assert fit(probe, own, 0, free, sure=sure) == found
    assert probe.tried == tried


def test_the_detector_and_the_dice_stay_as_they_are(
    table: DetectionTable, make_detector: Any, make_config: Any, recorder: Any
) -> None:
    """With the real memory, and what moves in a step: running statistics, gradients."""
    detector, config = make_detector(), make_config(batch_size="auto", ema=0.9)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    dice = torch.get_rng_state(), np.random.get_state()[1].copy()

    fitted = with_fitted_batch(config, detector, table, CPU, Journal(recorder), ALONE)

    assert _numbers(fitted) == (2, 1)
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(weight.grad is None for weight in detector.parameters())
    assert torch.equal(torch.get_rng_state(), dice[0])
    assert np.array_equal(np.random.get_state()[1], dice[1])


@pytest.fixture
def trained(
    table: DetectionTable, make_detector: Any, recorder: Any, tmp_path: Path
) -> Callable[[Config, str], RunFolder]:
    def call(config: Config, name: str) -> RunFolder:
        session = Session("train", "dh train", {}, CPU, Journal(recorder), tmp_path / name)
        data = TrainingData(table, table)
        return start_run(config, make_detector(), data, session).run

    return call


def test_a_run_is_that_of_the_number_and_stores_it(
    trained: Any, make_config: Any, recorder: Any
) -> None:
    recipe = {"reference_batch": 4, "schedule": {"length": 2}}
    found = trained(make_config(batch_size="auto", accumulate=7, **recipe), "auto").path
    given = trained(make_config(batch_size=4, accumulate=1, **recipe), "given").path

    config = load_config(file=found / "config.yaml").config
    assert _numbers(config) == (4, 1)
    assert (found / "config.yaml").read_text() == (given / "config.yaml").read_text()
    assert (found / "metrics.csv").read_bytes() == (given / "metrics.csv").read_bytes()
    one, other = (read_model(run / "last.safetensors") for run in (found, given))
    assert config_to_dict(one.config) == config_to_dict(other.config)
    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    assert "learning rate 0.05 for 4 images per step" in recorder.lines


def test_a_step_that_will_not_fit_is_told_of_before_it(
    memory: Any, trained: Any, make_config: Any, recorder: Any
) -> None:
    memory(2_900_000)
    trained(make_config(batch_size=2, schedule={"length": 1, "steps": ()}), "two")
    trained(make_config(batch_size=1, schedule={"length": 1, "steps": ()}), "one")

    assert recorder.warnings == [
        "a step of 2 images of 32×32 pixels takes about 0.00 GB, and 0.00 GB are free: "
        "`--batch-size auto`, or a smaller `--image-size`"
    ]


def test_the_smaller_image_is_all_that_helps_a_single_one(
    memory: Any, fitted: Fitted, recorder: Any
) -> None:
    memory(1000)
    fitted(batch_size=1)

    assert recorder.warnings[0].endswith("are free: a smaller `--image-size`")


def test_where_any_step_fits_no_image_is_looked_at(
    memory: Any, fitted: Fitted, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dhcli.training.fit_batch.known_sizes", None)
    memory(10**10)
    fitted(batch_size=8)

    assert recorder.warnings == []


def _shapes(table: DetectionTable, **sections: Any) -> tuple[Shape, Shape]:
    sizes = {"min_size": 100, "max_size": 200, "divisor": 32}
    config = config_from_dict({**sections, "input": {**sizes, **sections.get("input", {})}})
    return largest_shapes(config, table)


def test_the_largest_image_and_batch_are_those_of_the_data(table: DetectionTable) -> None:
    wide = replace(table, sizes=np.array([[30, 20]] * 6 + [[20, 20]], np.int32))
    mixed = replace(table, sizes=np.array([[30, 20]] * 6 + [[20, 60]], np.int32))
    several = {"min_sizes": [50, 120]}
    square = {"min_size": 96, "max_size": 96, "letterbox": 114}

    # 150 × 100; 67 × 200
    assert _shapes(wide) == (Shape(128, 160), Shape(128, 160))
    assert _shapes(mixed) == (Shape(224, 96), Shape(224, 160))
    assert _shapes(wide, augment=several) == (Shape(128, 192), Shape(128, 192))
    assert _shapes(wide, augment={"crop": 0.5}) == (Shape(128, 224), Shape(224, 224))
    assert _shapes(wide, input=square) == (Shape(96, 96), Shape(96, 96))
    assert _shapes(wide, input=square, augment={"batch_sizes": [64, 128]}) == (
        Shape(128, 128),
        Shape(128, 128),
    )

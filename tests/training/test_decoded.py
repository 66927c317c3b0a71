"""Images of a training, decoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dhcli.data.table import DetectionTable
from dhcli.errors import DhError
from dhcli.training.data import TrainingData
from dhcli.training.decoded import decoded_once
from dhcli.training.journal import Journal
from dhcli.training.loop import Trainer
from dhcli.training.run_folder import RunFolder

BYTES = 2 * 7 * 32 * 32 * 3
"""Of the table's images, to learn from and to validate on."""


@pytest.fixture
def run(tmp_path: Path, recorder: Any) -> tuple[RunFolder, Journal]:
    (tmp_path / "cached").mkdir()
    run, journal = RunFolder(tmp_path / "cached"), Journal(recorder)
    journal.open(run)
    return run, journal


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_training_is_the_same_and_reads_no_image_again(
    cache: str,
    table: DetectionTable,
    run: tuple[RunFolder, Journal],
    make_config: Callable[..., Any],
    make_trainer: Callable[..., Any],
    make_detector: Callable[[], Any],
    recorder: Any,
) -> None:
    plain = make_trainer(make_config(cache="none"))
    plain.train()
    config = make_config(cache=cache)

    with decoded_once(TrainingData(table, table), config, run[0].path, run[1]) as data:
        for image in range(len(table)):
            table.path(image).unlink()
        cached = Trainer(config, make_detector(), data, *run, torch.device("cpu"))
        cached.train()

    metrics = (plain.run.path / "metrics.csv").read_text()
    assert (cached.run.path / "metrics.csv").read_text() == metrics
    assert [line for line in recorder.lines if line.startswith("decoded 14 images, 0 MB")]
    assert not list(run[0].path.glob("decoded*"))


def test_without_a_cache_nothing_is_kept(
    table: DetectionTable, run: tuple[RunFolder, Journal], make_config: Callable[..., Any]
) -> None:
    whole = TrainingData(table, None)

    with decoded_once(whole, make_config(), run[0].path, run[1]) as data:
        assert data is whole


@pytest.mark.parametrize(("cache", "hint"), [("ram", "--cache disk"), ("disk", "--cache none")])
def test_what_does_not_fit_is_said_before_an_image_is_read(
    cache: str,
    hint: str,
    table: DetectionTable,
    run: tuple[RunFolder, Journal],
    make_config: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usage = type("usage", (), {"free": BYTES - 1})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    monkeypatch.setattr("dhcli.data.loading.cache.read_image", None)

    with (
        pytest.raises(DhError, match=r"the decoded images need 0 MB, and 0 MB") as error,
        decoded_once(TrainingData(table, table), make_config(cache=cache), run[0].path, run[1]),
    ):
        pass

    assert hint in str(error.value.hint)


def test_a_failed_training_leaves_no_file(
    table: DetectionTable, run: tuple[RunFolder, Journal], make_config: Callable[..., Any]
) -> None:
    def fail() -> None:
        with decoded_once(
            TrainingData(table, table), make_config(cache="disk"), run[0].path, run[1]
        ):
            assert len(list(run[0].path.glob("decoded*"))) == 2
            raise DhError("the loss is not finite")

    with pytest.raises(DhError, match="not finite"):
        fail()

    assert not list(run[0].path.glob("decoded*"))

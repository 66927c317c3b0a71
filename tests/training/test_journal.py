from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dhcli.training.journal import (
    Interval,
    Journal,
    LossMeter,
    Stopwatch,
    clock,
    epoch_line,
    memory_used,
)
from dhcli.training.run_folder import RunFolder

INTERVAL = Interval(
    epoch=1,
    epochs=12,
    iteration=10,
    length=50,
    rate=0.00025,
    losses={"loss_rpn_cls": 0.1234, "loss_fc_reg": 0.6391, "loss": 0.7625},
    images_per_second=3.06,
    data_share=0.021,
    memory=2**30,
    eta=723.4,
)


def test_interval_is_a_line_like_the_tutorials() -> None:
    assert INTERVAL.line() == (
        "epoch [1][10/50] lr 0.00025 loss_rpn_cls: 0.1234 loss_fc_reg: 0.6391 loss: 0.7625 | "
        "3.1 img/s, data 2 %, eta 0:12:03"
    )


def test_long_times_have_days() -> None:
    assert clock(59.6) == "0:01:00"
    assert clock(90061) == "1 day, 1:01:01"


def test_epoch_line_without_validation_and_with_it() -> None:
    row = {"epoch": 2, "train_loss": 0.5}
    found = {"val_loss": 0.75, "AP": 0.1234, "AP50": 0.5, "AP75": float("nan")}

    assert epoch_line(row, is_best=False) == "epoch [2] done, loss 0.5000"
    assert epoch_line(row | found, is_best=True) == (
        "epoch [2] done, loss 0.5000, validation loss 0.7500, "
        "AP 0.1234, AP50 0.5000, AP75 nan (best so far)"
    )


def _losses(cls: float, reg: float) -> dict[str, torch.Tensor]:
    return {"loss_cls": torch.tensor(cls), "loss_reg": torch.tensor(reg)}


def test_meter_means_over_the_interval_and_over_the_epoch() -> None:
    meter = LossMeter()
    meter.add(_losses(1, 2))
    meter.add(_losses(3, 4))
    first = meter.interval()
    meter.add(_losses(8, 0))

    assert first == {"loss_cls": 2, "loss_reg": 3, "loss": 5}
    assert meter.interval() == {"loss_cls": 8, "loss_reg": 0, "loss": 8}
    assert meter.epoch() == {"loss_cls": 4, "loss_reg": 2, "loss": 6}
    assert meter.interval() == {}


def test_meter_goes_on_from_its_state() -> None:
    meter, other = LossMeter(), LossMeter()
    meter.add(_losses(1, 2))
    meter.interval()
    meter.add(_losses(0.1, 0.2))

    other.load_state_dict(json.loads(json.dumps(meter.state_dict())))
    for one in (meter, other):
        one.add(_losses(0.3, 0.7))

    assert other.interval() == meter.interval()
    assert other.epoch() == meter.epoch()


def test_empty_meter_has_a_state() -> None:
    meter = LossMeter()

    meter.load_state_dict(LossMeter().state_dict())
    meter.add(_losses(1, 2))

    assert meter.interval()["loss"] == 3


def test_stopwatch_shares_out_the_time() -> None:
    time = 100.0
    watch = Stopwatch(lambda: time)

    with watch.waiting():
        time += 1
    time += 3
    watch.images, watch.iterations = 8, 2

    assert watch.lap() == (2.0, 0.25)
    assert watch.eta(remaining=5) == 10.0
    time += 5
    watch.images = 5
    assert watch.lap() == (1.0, 0.0)


def test_memory_is_a_plausible_number_of_bytes() -> None:
    assert 2**25 < memory_used(torch.device("cpu")) < 2**42


def test_journal_keeps_early_words_for_the_log(tmp_path: Path, recorder: Any) -> None:
    journal = Journal(recorder)
    journal.say("read")
    journal.note("a detail")

    journal.open(RunFolder(tmp_path))
    journal.warn("odd")
    journal.interval(INTERVAL, 10)
    journal.close()

    log = [line.split(" ", 2)[2] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert log == ["read", "a detail", "warning: odd", INTERVAL.line()]
    assert (recorder.lines, recorder.warnings) == (["read"], ["odd"])
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert (event["event"], event["total_iteration"]) == ("interval", 10)
    assert event["losses"] == INTERVAL.losses


def test_tensorboard_gets_losses_rate_and_ap(tmp_path: Path, recorder: Any) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(recorder)
    journal.open(RunFolder(tmp_path), tensorboard=True)

    journal.interval(INTERVAL, 10)
    row = {"epoch": 1, "iteration": 50, "train_loss": 1.0, "val_loss": 2.0}
    journal.epoch(row | {"AP": 0.25, "AP50": 0.5, "AP75": 0.1}, is_best=True)
    journal.close()

    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= {"lr", "train/loss_rpn_cls", "train/loss", "val/loss", "val/AP"}
    assert [(s.step, s.value) for s in events.Scalars("val/AP")] == [(50, 0.25)]

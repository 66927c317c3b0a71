from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dhcli.training.journal import (
    Interval,
    Journal,
    clock,
    epoch_line,
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

from __future__ import annotations

import io
import json
from types import SimpleNamespace

from rich.console import Console

from dhcli.report.terminal import drawn
from dhcli.report.training import choose_display, history_sheet, outcome_json
from dhcli.training.checkpoint import Position
from dhcli.training.journal import Interval
from dhcli.training.loop import TrainingResult

INTERVAL = Interval(
    epoch=1,
    epochs=12,
    iteration=10,
    length=50,
    rate=0.00025,
    losses={"loss_rpn_cls": 0.1234, "loss_conv_reg": 0.5, "loss": 0.6234},
    images_per_second=3.06,
    data_share=0.02,
    memory=2**31,
    eta=723.4,
)


def test_piped_lines_are_whole_and_plain() -> None:
    stream = io.StringIO()
    display = choose_display(
        Console(file=stream, width=40, soft_wrap=True, markup=False), live=False
    )

    display.say("a path with [brackets] that is much longer than forty columns are")
    display.tick(1, 10, 50)
    display.interval(INTERVAL)
    display.warn("odd")
    display.close()

    assert stream.getvalue() == (
        "a path with [brackets] that is much longer than forty columns are\n"
        f"{INTERVAL.line()}\nwarning: odd\n"
    )


def test_live_table_shows_every_loss_part_and_where_training_is() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    display = choose_display(console, live=True)

    display.tick(1, 11, 50)
    display.interval(INTERVAL)
    display.live.refresh()
    display.validating(40, 80)
    display.live.refresh()
    display.close()

    shown = stream.getvalue()
    for words in (
        *("epoch 1, iteration 11 of 50", "0.00025", "loss_rpn_cls", "0.1234", "loss_conv_reg"),
        "validating, image 40 of 80",
        *("3.1 img/s", "2 %", "2.0 GiB", "0:12:03"),
    ):
        assert words in shown, words


def test_history_shows_the_last_epochs_and_the_best() -> None:
    rows = [{"epoch": n, "train_loss": 1 / n, "AP": n / 100, "val_loss": 2.0} for n in range(1, 9)]
    rows[7]["AP"] = float("nan")
    del rows[6]["AP"]
    stream = io.StringIO()

    Console(file=stream, width=80).print(drawn(history_sheet(rows, best_epoch=3, most=2)))

    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert [line for line in lines if line and line[0].isdecimal()] == [
        ["3", "0.3333", "2.0000", "3.0", "best"],
        ["7", "0.1429", "2.0000"],
        ["8", "0.1250", "2.0000", "n/a"],
    ]


def test_outcome_is_json_without_nan() -> None:
    position = Position(epoch=1, history=[{"epoch": 1, "AP": float("nan"), "AP50": 0.5}])
    outcome = TrainingResult(SimpleNamespace(path="runs/x"), "finished", position)  # type: ignore[arg-type]

    document = json.loads(json.dumps(outcome_json(outcome), allow_nan=False))

    assert document["history"] == [{"epoch": 1, "AP": None, "AP50": 0.5}]
    assert (document["run"], document["best_epoch"]) == ("runs/x", None)

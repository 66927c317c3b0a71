"""Training as people see it: a live table or whole lines, and a summary at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dhcli.report.sheet import Column, Sheet
from dhcli.training.journal import Display, Interval, clock
from dhcli.training.loop import TrainingResult


class LineDisplay:
    """A line an interval, complete when it is written: for pipes and logs."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def say(self, text: str) -> None:
        self.console.print(text)

    def warn(self, text: str) -> None:
        self.console.print(Text.assemble(("warning: ", "yellow"), text))

    def tick(self, epoch: int, iteration: int, length: int) -> None:
        """Nothing: a line comes with the interval."""

    def validating(self, done: int, images: int) -> None:
        """Nothing: a line comes with the epoch's end."""

    def interval(self, interval: Interval) -> None:
        self.console.print(interval.line())

    def close(self) -> None:
        """Nothing is held."""


class LiveDisplay(LineDisplay):
    """A table at the foot of the terminal that follows the training; words scroll above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.place = "starting"
        self.latest: Interval | None = None
        self.live = Live(console=console, get_renderable=self._table, refresh_per_second=4)

    def tick(self, epoch: int, iteration: int, length: int) -> None:
        self.place = f"epoch {epoch}, iteration {iteration} of {length}"
        if not self.live.is_started:
            self.live.start()

    def validating(self, done: int, images: int) -> None:
        self.place = f"validating, image {done} of {images}"

    def interval(self, interval: Interval) -> None:
        self.latest = interval

    def close(self) -> None:
        if self.live.is_started:
            self.live.stop()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("where", self.place)
        if self.latest is None:
            return table
        now = self.latest
        table.add_row("epochs", str(now.epochs))
        table.add_row("learning rate", f"{now.rate:.4g}")
        for name, value in now.losses.items():
            table.add_row(name, f"{value:.4f}")
        table.add_row("speed", f"{now.images_per_second:.1f} img/s")
        table.add_row("waiting for data", f"{now.data_share * 100:.0f} %")
        table.add_row("memory", f"{now.memory / 2**30:.1f} GiB")
        table.add_row("time left", clock(now.eta))
        return table


def choose_display(console: Console, *, live: bool) -> Display:
    """A live table where the terminal can be redrawn, else lines."""
    return LiveDisplay(console) if live else LineDisplay(console)


SUMMARY = ("train_loss", "val_loss", "AP", "AP50", "AP75")


def history_sheet(history: Sequence[Mapping[str, Any]], best_epoch: int, most: int = 20) -> Sheet:
    """Losses and AP of the last epochs; the best one is marked."""
    return Sheet(
        "training",
        (Column("epoch", "count"), *map(_column, SUMMARY), Column("mark", heading="", absent="")),
        tuple(
            (row["epoch"], *map(row.get, SUMMARY), "best" if row["epoch"] == best_epoch else None)
            for row in _worth_showing(history, best_epoch, most)
        ),
    )


def _column(name: str) -> Column:
    if name.startswith("AP"):
        return Column(name, "percent", heading=f"{name} %", absent="")
    return Column(name, "loss", absent="")


def _worth_showing(
    history: Sequence[Mapping[str, Any]], best_epoch: int, most: int
) -> list[Mapping[str, Any]]:
    """The last rows, and the best one before them."""
    first = len(history) - most
    return [row for i, row in enumerate(history) if i >= first or row["epoch"] == best_epoch]


def outcome_json(outcome: TrainingResult) -> dict[str, Any]:
    """The end of a training as plain values, AP in 0…1; what is not a number is null."""
    position, run = outcome.position, outcome.run.path
    return {
        "status": outcome.status,
        "run": str(run),
        "epochs": position.epoch,
        "best_epoch": position.best_epoch if position.best_ap is not None else None,
        "best_AP": position.best_ap,
        "history": [
            {name: value if math.isfinite(value) else None for name, value in row.items()}
            for row in position.history
        ],
    }

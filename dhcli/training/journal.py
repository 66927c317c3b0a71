"""How training reports its progress: to people, to the log, to programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from dhcli.errors import DhError
from dhcli.runtime.team import ALONE, Team
from dhcli.training.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Interval:
    """What is said every `log_every` iterations.

    epoch, iteration    counted from 1; the iteration is that of the epoch
    epochs, length      how many there are
    rate                learning rate
    losses              part → mean over the interval; `loss` is their sum
    images_per_second   images of all processes
    data_share          share of the time that was spent waiting for images, 0…1
    memory              bytes: the most that the GPU held, else that the process held
    eta                 seconds until the end
    """

    epoch: int
    epochs: int
    iteration: int
    length: int
    rate: float
    losses: dict[str, float]
    images_per_second: float
    data_share: float
    memory: int
    eta: float

    def line(self) -> str:
        """The interval in one line of text."""
        losses = " ".join(f"{name}: {value:.4f}" for name, value in self.losses.items())
        return (
            f"epoch [{self.epoch}][{self.iteration}/{self.length}] lr {self.rate:.4g} {losses} | "
            f"{self.images_per_second:.1f} img/s, data {self.data_share:.0%}".replace("%", " %")
            + f", eta {clock(self.eta)}"
        )


def epoch_line(row: Mapping[str, Any], *, is_best: bool) -> str:
    """An epoch's row of metrics.csv in one line of text."""
    learned = "train_loss" in row
    loss = f"loss {row['train_loss']:.4f}" if learned else "nothing trained: every step was skipped"
    parts = [f"epoch [{row['epoch']}] done, {loss}"]
    if "AP" in row:
        parts += [f"validation loss {row['val_loss']:.4f}"]
        parts += [f"{name} {row[name]:.4f}" for name in ("AP", "AP50", "AP75")]
    return ", ".join(parts) + (" (best so far)" if is_best else "")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))


class Display(Protocol):
    """What shows training to people; the command line brings one."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def warn(self, text: str) -> None:
        """Show a warning."""
        ...

    def tick(self, epoch: int, iteration: int, length: int) -> None:
        """Take note of an iteration done, without the values that a GPU still works on."""
        ...

    def validating(self, done: int, images: int) -> None:
        """Take note of how many of the images are validated."""
        ...

    def interval(self, interval: Interval) -> None:
        """Show an interval."""
        ...

    def close(self) -> None:
        """Give the terminal back."""
        ...


class Silence:
    """The display of a process that is not its team's first: it shows nothing."""

    def say(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def tick(self, epoch: int, iteration: int, length: int) -> None: ...

    def validating(self, done: int, images: int) -> None: ...

    def interval(self, interval: Interval) -> None: ...

    def close(self) -> None: ...


class Journal:
    """Passes on what training says: to a display, `train.log`, `events.jsonl` and TensorBoard.

    What is said before the run has a folder is kept for its log. Only the first process of `team`
    is heard; what the others say goes nowhere.
    """

    def __init__(self, display: Display, team: Team = ALONE) -> None:
        self.team = team
        self.display = display if team.first else Silence()
        self.run: RunFolder | None = None
        self.board: SummaryWriter | None = None
        self._early: list[str] = []

    def open(self, run: RunFolder, *, tensorboard: bool = False) -> None:
        """Write into the folder of `run` from now on."""
        if not self.team.first:
            return
        self.run = run
        for line in self._early:
            run.log(line)
        self._early.clear()
        if tensorboard:
            self.board = _open_tensorboard(run)

    def say(self, text: str) -> None:
        """Show and log a line."""
        self.display.say(text)
        self.note(text)

    def warn(self, text: str) -> None:
        """Show and log a warning."""
        self.display.warn(text)
        self.note(f"warning: {text}")

    def note(self, text: str) -> None:
        """Log a line without showing it."""
        if self.run is not None:
            self.run.log(text)
        elif self.team.first:
            self._early.append(text)

    def event(self, kind: str, **values: Any) -> None:
        """Write an event for programs."""
        if self.run is not None:
            self.run.event(kind, values)

    def interval(self, interval: Interval, iteration: int) -> None:
        """Tell of an interval that ended with `iteration` of the whole training."""
        self.display.interval(interval)
        self.note(interval.line())
        self.event("interval", total_iteration=iteration, **asdict(interval))
        values = {f"train/{name}": value for name, value in interval.losses.items()}
        self.plot({**values, "lr": interval.rate}, iteration)

    def epoch(self, row: Mapping[str, Any], *, is_best: bool) -> None:
        """Tell of an epoch's end; `row` as in metrics.csv."""
        self.say(epoch_line(row, is_best=is_best))
        self.event("epoch", **row, is_best=is_best)
        said = {"epoch", "iteration", "lr", *(name for name in row if name.startswith("train_"))}
        values = {f"val/{n.removeprefix('val_')}": row[n] for n in row if n not in said}
        self.plot(values, row["iteration"])

    def plot(self, values: Mapping[str, float | None], iteration: int) -> None:
        """Send values to TensorBoard, if asked to."""
        if self.board is not None:
            for name, value in values.items():
                if value is not None:
                    self.board.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Close the files and give the terminal back."""
        self.display.close()
        if self.board is not None:
            self.board.close()
        if self.run is not None:
            self.run.close()


def _open_tensorboard(run: RunFolder) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = "install it: `pip install 'dhcli[log]'`"
        raise DhError("TensorBoard is not installed", where="--tensorboard", hint=hint) from error
    return SummaryWriter(str(run.path / "tensorboard"))

"""How training tells where it is: to people, to the log, to programs."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from dhcli.errors import DhError
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
    parts = [f"epoch [{row['epoch']}] done, loss {row.get('train_loss', float('nan')):.4f}"]
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


class Journal:
    """Passes on what training says: to a display, `train.log`, `events.jsonl` and TensorBoard.

    What is said before the run has a folder is kept for its log.
    """

    def __init__(self, display: Display) -> None:
        self.display = display
        self.run: RunFolder | None = None
        self.board: SummaryWriter | None = None
        self._early: list[str] = []

    def open(self, run: RunFolder, *, tensorboard: bool = False) -> None:
        """Write into the folder of `run` from now on."""
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
        if self.run is None:
            self._early.append(text)
        else:
            self.run.log(text)

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
        """Send values to TensorBoard, where it is asked for."""
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


class LossMeter:
    """Sums of loss parts on the device, read only when somebody wants to see them.

    Holds the sums of the epoch and what they were when the interval began.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.count = 0
        self._seen = (0, [0.0])

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take in one iteration's loss parts."""
        values = torch.stack(list(losses.values()))
        if values.device.type != "mps":  # which has no float64
            values = values.double()
        self.names = list(losses)
        self.sums = values if self.sums is None else self.sums.to(values) + values
        self.count += 1

    def interval(self) -> dict[str, float]:
        """Means since the last call; waits for the device."""
        count, seen = self._seen
        sums = self._read()
        self._seen = (self.count, sums)
        seen = seen if len(seen) == len(sums) else [0.0] * len(sums)
        return self._means([now - then for now, then in zip(sums, seen, strict=True)], count)

    def epoch(self) -> dict[str, float]:
        """Means over the epoch; waits for the device."""
        return self._means(self._read(), 0)

    def state_dict(self) -> dict[str, Any]:
        """The sums, as plain lists and numbers."""
        return {"names": self.names, "sums": self._read(), "count": self.count, "seen": self._seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.names, self.count = list(state["names"]), int(state["count"])
        self.sums = torch.tensor(state["sums"], dtype=torch.float64) if self.names else None
        count, sums = state["seen"]
        self._seen = (int(count), list(sums))

    def _read(self) -> list[float]:
        return [] if self.sums is None else self.sums.tolist()

    def _means(self, sums: list[float], since: int) -> dict[str, float]:
        count = self.count - since
        if not count:
            return {}
        means = {name: value / count for name, value in zip(self.names, sums, strict=True)}
        return means | {"loss": sum(means.values())}


class Stopwatch:
    """Where the time goes: since the beginning, and since the last lap."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self.begun = now()
        self.iterations = 0
        self.restart()

    def restart(self) -> None:
        """Begin a lap."""
        self.lap_begun = self.now()
        self.waited = 0.0
        self.images = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of the block as waiting for images."""
        begun = self.now()
        yield
        self.waited += self.now() - begun

    def lap(self) -> tuple[float, float]:
        """Images a second and the share of waiting since the last lap; the next one begins."""
        seconds = max(self.now() - self.lap_begun, 1e-9)
        result = self.images / seconds, self.waited / seconds
        self.restart()
        return result

    def eta(self, remaining: int) -> float:
        """Seconds that `remaining` iterations take at the pace since the beginning."""
        return (self.now() - self.begun) / max(self.iterations, 1) * remaining


def memory_used(device: torch.device) -> int:
    """Bytes: the most that torch held on a GPU, else the most that this process held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""Scores from which detections are written and drawn: a number, or those that a model stores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut, choose_read_out
from dhcli.errors import ConfigError
from dhcli.metrics.operating import OperatingPoints
from dhcli.runtime.runner import Runner

Score = float | Literal["best"]
"""What a user names: a score, or the model's thresholds of best F1."""


@dataclass(frozen=True)
class Threshold:
    """The score from which detections of each class count.

    least  (K,) float64 by label
    best   whether these are the thresholds of best F1 that the model stores
    """

    least: NDArray[np.float64]
    best: bool = False

    @property
    def lowest(self) -> float:
        """That of the class whose detections count from the lowest score."""
        return float(self.least.min())

    @property
    def is_one(self) -> bool:
        """Whether it is the same for every class."""
        return bool((self.least == self.least[0]).all())

    def __str__(self) -> str:
        by_class = "" if self.is_one else f" to {self.least.max():g}, by class"
        return f"{self.lowest:g}{by_class}{' (best F1 on validation)' if self.best else ''}"


def same_for_all(score: float, runner: Runner) -> Threshold:
    """One score for every class of `runner`."""
    return Threshold(np.full(len(runner.classes), score))


def stored_points(runner: Runner, read_out: ReadOut) -> OperatingPoints | None:
    """The points of best F1 that the model stores; None where it has none for `read_out`.

    They are of the read-out that was validated, the one that is configured: another has scores of
    its own.
    """
    points, configured = runner.points, choose_read_out(runner.config.model, None, None)
    known = points is not None and points.all is not None and read_out == configured
    return points if known else None


def stored_threshold(runner: Runner, read_out: ReadOut) -> Threshold | None:
    """The thresholds of these points, for every class."""
    points = stored_points(runner, read_out)
    if points is None:
        return None
    return Threshold(np.array(list(points.thresholds(runner.classes).values())), best=True)


def note_of(threshold: Threshold, runner: Runner, options: DetectOptions) -> str:
    """Why `threshold` may not fit what `runner` finds by `options`; "" where nothing speaks so."""
    configured = runner.config.model.detect
    asked = replace(options, threshold=None, most=None).over(configured)
    if not threshold.best or asked == configured:
        return ""
    found = "note: these thresholds were found as the model is configured"
    return f"{found}; with another NMS or gate they may not fit"


def require_stored(runner: Runner, read_out: ReadOut, where: str) -> Threshold:
    """The same. Raises ConfigError about the option `where` if there are none."""
    stored = stored_threshold(runner, read_out)
    if stored is None:
        of = "" if runner.points is None else " for these --scores and --boxes"
        hint = "`dh eval --weights … --data …` prints one"
        raise ConfigError(f"the model stores no best threshold{of}", where=where, hint=hint)
    return stored

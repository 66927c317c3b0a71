"""Whether scores mean what they say: of detections with a score of 0.8, 80 % should be right."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dhcli.metrics.judge import Judged

BINS = 10


@dataclass(frozen=True)
class Bin:
    """The detections with scores in [low, high), the last bin's 1 included.

    score, precision  their mean score, and the share of hits; None where there are none
    """

    low: float
    high: float
    detections: int
    score: float | None
    precision: float | None

    @property
    def gap(self) -> float:
        """|score − precision|, 0 without detections."""
        return abs((self.score or 0) - (self.precision or 0))


@dataclass(frozen=True)
class Calibration:
    """The expected calibration error, a fraction in [0, 1], and its bins; None without detections.

    ECE = Σ_b n_b / N · |mean score_b − precision_b|, over bins b of equal width that hold n_b of
    N detections (Guo et al., On Calibration of Modern Neural Networks, 2017; with precision in
    place of accuracy: Küppers et al., Multivariate Confidence Calibration for Object Detection,
    2020).
    """

    error: float | None
    bins: tuple[Bin, ...]

    def as_dict(self) -> dict[str, Any]:
        """In plain values, for JSON."""
        return {"ece": self.error, "bins": [asdict(one) for one in self.bins]}


def calibration(judged: Judged) -> Calibration:
    """How far the scores are from the precision, over `BINS` bins of equal width.

    Scores outside [0, 1] (logits, percent) have none: no error, no bins.
    """
    if len(judged.scores) and not (judged.scores.min() >= 0 and judged.scores.max() <= 1):
        return Calibration(None, ())
    place = np.minimum((judged.scores * BINS).astype(np.int64), BINS - 1)
    bins = tuple(_bin(number, judged, place == number) for number in range(BINS))
    gaps = [one.detections * one.gap for one in bins]
    total = len(judged.scores)
    return Calibration(sum(gaps) / total if total else None, bins)


def _bin(number: int, judged: Judged, mine: NDArray[np.bool_]) -> Bin:
    edges, count = (number / BINS, (number + 1) / BINS), int(mine.sum())
    if not count:
        return Bin(*edges, 0, None, None)
    return Bin(*edges, count, float(judged.scores[mine].mean()), float(judged.hits[mine].mean()))

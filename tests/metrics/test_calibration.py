"""Expected calibration error: by hand, and where there is nothing to calibrate."""

from __future__ import annotations

import numpy as np
import pytest

from dhcli.metrics.calibration import BINS, Bin, calibration
from dhcli.metrics.judge import Judged


def judged_of(scores: list[float], hits: list[int]) -> Judged:
    return Judged(np.array(scores), np.array(hits, np.bool_), 9)


def test_the_error_by_hand() -> None:
    # [0.9, 1]: score 0.95, precision 1; [0.6, 0.7): 0.65 and 0.5; [0, 0.1): 0.05 and 0
    found = calibration(judged_of([1.0, 0.9, 0.68, 0.62, 0.05], [1, 1, 1, 0, 0]))

    assert found.error == pytest.approx((2 * 0.05 + 2 * 0.15 + 0.05) / 5)
    assert [one.detections for one in found.bins] == [1, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert found.bins[9] == Bin(0.9, 1.0, 2, pytest.approx(0.95), 1.0)
    assert found.bins[1] == Bin(0.1, 0.2, 0, None, None)


def test_scores_that_are_the_precision_have_no_error(rng: np.random.Generator) -> None:
    scores = (np.arange(BINS) + 0.5) / BINS
    every = np.repeat(scores, 20)
    hits = np.concatenate([np.arange(20) < round(20 * score) for score in scores])

    assert calibration(Judged(every, hits, 200)).error == pytest.approx(0)


@pytest.mark.parametrize("scores", [[], [3.5, -2.0]], ids=["nothing", "logits"])
def test_without_scores_in_0_to_1_there_is_no_error(scores: list[float]) -> None:
    assert calibration(judged_of(scores, [1] * len(scores))).error is None

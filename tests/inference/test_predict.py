"""What `dh predict` asks of a runner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dhcli.config.detecting import DetectOptions
from dhcli.inference.predict import Request, asked
from dhcli.runtime.eager import EagerRunner
from dhcli.weights.model_file import ModelFile


@pytest.mark.parametrize(
    ("top", "score", "most", "lowest"),
    [(500, None, 500, 0.05), (5, None, 100, 0.05), (None, 0.4, 100, 0.4)],
)
def test_more_than_the_model_gives_is_asked_for(
    small_model: Callable[..., ModelFile], top: int, score: float, most: int, lowest: float
) -> None:
    runner = EagerRunner.of(small_model("a"), DetectOptions(device="cpu"))
    request = Request([], Path("m"), top=top, score=score)

    rule = asked(request, DetectOptions(), runner).over(runner.config.model.detect)

    assert (rule.max_detections, rule.score_threshold) == (most, lowest)

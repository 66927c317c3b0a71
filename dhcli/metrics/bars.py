"""A quality gate: numbers that an evaluation must reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dhcli.errors import ConfigError, DhError
from dhcli.metrics.names import STATS, Metric
from dhcli.metrics.result import ApResult


@dataclass(frozen=True)
class Limit:
    """The least that a number of a metric may be, as a fraction."""

    metric: Metric
    stat: str
    least: float


def parse_limit(text: str, metrics: Sequence[Metric]) -> Limit:
    """A limit from `AP50=0.5` or, where several of `metrics` have it, `voc07.mAP=0.5`.

    Raises ConfigError where it cannot be understood, or would not be measured.
    """
    name, equals, value = text.partition("=")
    metric, _, stat = name.strip().rpartition(".")
    able = [m for m in metrics if stat in STATS[m] and metric in ("", m)]
    least = _fraction(value)
    if not equals or least is None:
        raise ConfigError(f"`{text}` is not a metric with a value between 0 and 1", **_HOW)
    if not able:
        known = ", ".join(f"{m}.{stat}" for m in metrics for stat in STATS[m])
        what = f"`{name.strip()}` is not measured"
        raise ConfigError(what, where="--fail-under", hint=f"there are: {known}")
    if len(able) > 1:
        choices = " or ".join(f"`{m}.{stat}`" for m in able)
        raise ConfigError(f"several metrics have `{stat}`", where="--fail-under", hint=choices)
    return Limit(able[0], stat, least)


def check_limits(results: dict[Metric, ApResult], limits: Sequence[Limit]) -> None:
    """Raise DhError that states every number below its limit; an undefined one is below any."""
    below = []
    for limit in limits:
        value = results[limit.metric].stats[limit.stat]
        if not value >= limit.least:
            shown = "undefined (no objects)" if math.isnan(value) else f"{value:.4f}"
            below.append(f"{limit.metric} {limit.stat} is {shown}, below {limit.least:g}")
    if below:
        raise DhError("; ".join(below), where="--fail-under")


_HOW = {"where": "--fail-under", "hint": "write it as `AP50=0.5`, with a value in [0, 1]"}


def _fraction(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None

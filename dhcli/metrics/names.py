"""The metrics by name, and the overall numbers of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from dhcli.errors import ConfigError
from dhcli.metrics.coco import COCO_STATS
from dhcli.metrics.kitti import KITTI_STATS
from dhcli.metrics.voc import VOC_STATS

Metric = Literal["coco", "voc07", "voc12", "kitti"]
METRICS: tuple[Metric, ...] = get_args(Metric)
STATS: dict[Metric, tuple[str, ...]] = {
    "coco": COCO_STATS,
    "voc07": VOC_STATS,
    "voc12": VOC_STATS,
    "kitti": KITTI_STATS,
}
"""The overall numbers of each metric."""


def parse_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """Metrics from `["coco,voc07", "kitti"]`, without repetition, in the order given."""
    words = [word.strip() for name in names for word in name.split(",") if word.strip()]
    unknown = [word for word in words if word not in METRICS]
    if unknown or not words:
        what = f"unknown metric `{unknown[0]}`" if unknown else "no metric given"
        raise ConfigError(what, where="--metric", hint=f"there are: {', '.join(METRICS)}")
    return tuple(metric for word in dict.fromkeys(words) for metric in METRICS if metric == word)

"""`model.anchors.sizes: auto`: the sizes of the anchors, from the boxes that are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dhcli.config.schema import Config, NoNeck, TwoStage
from dhcli.data.loading.batching import known_sizes
from dhcli.data.loading.transforms import resized_boxes
from dhcli.data.table import DetectionTable
from dhcli.ops.anchors import best_ious, level_anchors
from dhcli.training.journal import Journal

USUAL = 8.0
"""Side of an anchor over the stride of its level, in the usual pyramid: 32 … 512 on P2 … P6."""
FACTORS = USUAL * 2.0 ** (np.arange(-24, 9) / 8)
"""What is tried instead: 1 … 16."""
MOST_BOXES = 10_000
"""Boxes that are looked at; of more, that many chosen at random."""


def with_fitted_anchors(config: Config, table: DetectionTable, journal: Journal) -> Config:
    """`config` with sizes in place of `auto`, and a line that says which; any other as it is.

    size_l = c · stride_l, rounded, with the c of `FACTORS` whose anchors have the highest IoU with
    the objects of `table`: that of the best anchor of each, on average. Objects are measured as the
    network sees them; where training has several scales, at their mean.
    """
    if not _is_auto(config):
        return config
    tried = dict.fromkeys(_sizes(config, factor) for factor in FACTORS)
    usual, scores = _sizes(config, USUAL), _mean_ious(config, table, list(tried))
    best = max(scores, key=lambda sizes: (scores[sizes], sizes == usual))
    found = f"{', '.join(f'{size:g}' for size in best)} (mean best IoU {scores[best]:.2f}"
    instead = f" instead of {scores[usual]:.2f} with {usual[0]:g} … {usual[-1]:g}"
    journal.say(f"anchor sizes from the data: {found}{instead if best != usual else ''})")
    return _with_sizes(config, best)


def with_usual_anchors(config: Config) -> Config:
    """`config` with the usual sizes in place of `auto`: the network is the same with any."""
    return _with_sizes(config, _sizes(config, USUAL)) if _is_auto(config) else config


def _is_auto(config: Config) -> bool:
    return isinstance(config.model, TwoStage) and config.model.anchors.sizes == "auto"


def _sizes(config: Config, factor: float) -> tuple[float, ...]:
    """A size per level of the pyramid, in whole pixels."""
    assert isinstance(config.model, TwoStage)
    assert not isinstance(config.model.neck, NoNeck)  # the configuration sees to it
    return tuple(float(round(factor * stride)) for stride in config.model.neck.strides())


def _with_sizes(config: Config, sizes: tuple[float, ...]) -> Config:
    assert isinstance(config.model, TwoStage)
    anchors = config.model.anchors.model_copy(update={"sizes": sizes})
    model = config.model.model_copy(update={"anchors": anchors})
    return config.model_copy(update={"model": model})


def _mean_ious(
    config: Config, table: DetectionTable, tried: Sequence[tuple[float, ...]]
) -> dict[tuple[float, ...], float]:
    """By sizes, the mean over the objects of the IoU of the best anchor."""
    model = config.model
    assert isinstance(model, TwoStage)
    assert not isinstance(model.neck, NoNeck)
    rows = np.flatnonzero(table.taught(config.data.difficult))
    if len(rows) > MOST_BOXES:
        dice = np.random.default_rng(config.train.seed)
        rows = np.sort(dice.choice(rows, MOST_BOXES, replace=False))
    kept = np.isin(np.arange(len(table.boxes)), rows)
    sized = replace(table, sizes=known_sizes(table, upright=config.input.exif).astype(np.int32))
    scales = config.augment.min_sizes or (config.input.min_size,)
    mean = round(float(np.mean(scales)))
    boxes, padded = resized_boxes(sized.keep_boxes(kept), config.input, mean)
    strides = model.neck.strides()
    scores = {}
    for sizes in tried:
        cells = level_anchors(model.anchors.model_copy(update={"sizes": sizes}), strides)
        best = best_ious(boxes, padded, strides, cells).max(axis=1)
        scores[sizes] = float(best.mean())
    return scores

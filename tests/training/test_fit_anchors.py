"""Sizes of anchors from the boxes that are trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.data.table import DetectionTable, Flag, make_table
from dhcli.errors import ConfigError
from dhcli.models.build import build_detector
from dhcli.studies.anchors import measure_anchors
from dhcli.training import fit_anchors
from dhcli.training.fit_anchors import with_fitted_anchors, with_usual_anchors
from dhcli.training.journal import Journal

AUTO = "model.anchors.sizes=auto"


def config_of(*overrides: str) -> Config:
    own = ["input.min_size=240", "input.max_size=320", "augment.min_sizes=[]"]
    return load_config("coco-r50-ext", overrides=[*own, *overrides]).config


def table_of(boxes: Any, **columns: Any) -> DetectionTable:
    """One image of 160 × 120 pixels, which becomes 320 × 240."""
    labels = [0] * len(boxes)
    return make_table("root", ["a"], [(160, 120)], [len(boxes)], boxes, labels, ["a"], **columns)


def squares(side: float, count: int = 50) -> list[list[float]]:
    """Boxes of about this side, anywhere in the image."""
    dice = np.random.default_rng(0)
    x, y = dice.uniform(0, 160 - side, count), dice.uniform(0, 120 - side, count)
    return np.stack([x, y, x + side, y + side], axis=1).tolist()


@pytest.mark.parametrize("side", [5, 9, 11])
def test_the_sizes_are_those_with_the_highest_mean_iou(side: int, recorder: Any) -> None:
    table = table_of(squares(side) + squares(side * 1.5))
    config = config_of(AUTO)

    fitted = with_fitted_anchors(config, table, Journal(recorder))

    def mean(factor: float) -> float:
        sizes = [round(factor * stride) for stride in (4, 8, 16, 32, 64)]
        return float(measure_anchors(table, config_of(f"model.anchors.sizes={sizes}")).ious[0])

    of_all = {factor: mean(factor) for factor in fit_anchors.FACTORS}
    best = max(of_all.values())
    [line] = recorder.lines
    assert min(of_all) == 1
    assert max(of_all) == 16
    assert measure_anchors(table, fitted).ious[0] == pytest.approx(best)
    assert all(size == int(size) for size in fitted.model.anchors.sizes)
    sizes = ", ".join(f"{size:g}" for size in fitted.model.anchors.sizes)
    assert line == (
        f"anchor sizes from the data: {sizes} (mean best IoU {best:.2f} instead of "
        f"{mean(8):.2f} with 32 … 512)"
    )
    assert fitted.model_copy(update={"model": config.model}) == config


def test_a_pyramid_of_other_levels_has_a_size_for_each(recorder: Any) -> None:
    config = config_of(AUTO, "model.neck.finest=3", "model.neck.coarsest=5")

    fitted = with_fitted_anchors(config, table_of(squares(20)), Journal(recorder))

    first, second, third = fitted.model.anchors.sizes
    assert first == pytest.approx(second / 2, abs=1)
    assert first == pytest.approx(third / 4, abs=1)
    build_detector(fitted, 1)


def test_the_mean_of_several_scales_counts_and_what_is_not_learned_does_not(
    recorder: Any,
) -> None:
    boxes, crowds = squares(9), squares(60)
    flags = np.repeat([0, int(Flag.CROWD)], 50).astype(np.uint8)
    table = table_of(boxes + crowds, flags=flags)
    one = config_of(AUTO, "input.min_size=480", "input.max_size=640")
    several = config_of(AUTO, "augment.min_sizes=[360, 600]", "input.max_size=900")

    fitted = [
        with_fitted_anchors(*case, Journal(recorder)).model.anchors
        for case in ((one, table_of(boxes)), (one, table), (several, table))
    ]

    assert fitted[0] == fitted[1] == fitted[2]


def test_of_many_boxes_some_are_looked_at_always_the_same(
    recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_anchors, "MOST_BOXES", 20)
    seen = []
    best_ious = fit_anchors.best_ious
    monkeypatch.setattr(
        fit_anchors, "best_ious", lambda *a: (seen.append(a[0].tolist()), best_ious(*a))[1]
    )
    table = table_of(squares(9, 200))

    for seed in (0, 0, 1):
        with_fitted_anchors(config_of(AUTO, f"train.seed={seed}"), table, Journal(recorder))

    first, again, other = seen[0], seen[len(seen) // 3], seen[-1]
    assert len(first) == 20
    assert first == again != other


def test_sizes_that_are_given_stay(recorder: Any) -> None:
    config = config_of()

    assert with_fitted_anchors(config, table_of(squares(9)), Journal(recorder)) is config
    assert with_usual_anchors(config) is config
    assert recorder.lines == []


def test_a_detector_needs_sizes() -> None:
    with pytest.raises(ConfigError, match=r"model\.anchors\.sizes: is `auto`, which only"):
        build_detector(config_of(AUTO), 1)
    with pytest.raises(ConfigError, match=r"`anchors\.sizes: auto` needs a pyramid"):
        load_config("coco-r50-c4", overrides=[AUTO])
    assert with_usual_anchors(config_of(AUTO)).model == config_of().model

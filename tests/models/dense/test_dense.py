"""Dense detectors: that all of them learn, and what their parts say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.detecting import DetectOptions
from dhcli.config.load import load_config
from dhcli.config.schema import DetectDense
from dhcli.config.schema.dense import DeltaBoxes, DistanceBoxes
from dhcli.errors import ConfigError
from dhcli.models.dense import detector as detector_file
from dhcli.models.dense.coders import Deltas, Distances
from dhcli.models.dense.detector import DenseDetector
from dhcli.models.dense.head import Said, join_objectness
from dhcli.models.dense.losses import find_goals
from dhcli.models.dense.select import best_pairs, vote
from dhcli.models.dense.star import star_offsets
from dhcli.ops.batch import Detections, ImageBatch, Target
from dhcli.ops.match import BACKGROUND, UNDECIDED
from dhcli.ops.priors import Priors, lay_priors, padded_cells
from tests.models.dense.conftest import SYSTEMS

Make = Callable[..., DenseDetector]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_weight_takes_part_with_objects_and_without(
    system: str, dense: Make, batch: ImageBatch, targets: list[Target]
) -> None:
    detector = dense(system)
    none = torch.zeros(0, 4)
    empty = [Target(none, torch.zeros(0, dtype=torch.int64), none) for _ in targets]

    for wanted in (targets, empty):
        detector.zero_grad()
        losses = detector.losses(batch, wanted)
        sum(losses.values()).backward()

        assert all(loss.isfinite() and loss >= 0 for loss in losses.values())
        gradients = [p.grad for p in detector.parameters() if p.requires_grad]
        assert all(x is not None and x.isfinite().all() for x in gradients)
    assert losses["loss_box"] == 0
    assert len(detector.eval().detect(batch)[0]) == len(batch)


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_ignored_image_teaches_no_score(system: str, dense: Make, batch: ImageBatch) -> None:
    everything = torch.tensor([[-1e4, -1e4, 1e4, 1e4]])
    none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), everything)

    assert sum(dense(system).losses(batch, [none] * len(batch)).values()) == 0


LONGER = {"retinanet": 200, "yolof": 300}
"""Steps of those that learn slower: towers without norms, and boxes of one coarse level."""


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_it_overfits_two_images(system: str, dense: Make) -> None:
    detector, images, targets = dense(system), *two_images()
    optimizer = torch.optim.AdamW(detector.parameters(), 2e-3)

    for _ in range(LONGER.get(system, 100)):
        optimizer.zero_grad()
        sum(detector.losses(images, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        optimizer.step()

    with torch.no_grad():
        [found] = detector.eval().detect(images)
    for own, target in zip(found, targets, strict=True):
        best = len(target.labels)
        order = own.labels[:best].argsort()
        assert torch.equal(own.labels[:best][order], target.labels)
        assert (own.boxes[:best][order] - target.boxes).abs().max() < 6


def two_images() -> tuple[ImageBatch, list[Target]]:
    pixels = torch.full((2, 3, 64, 96), 90, dtype=torch.uint8)
    pixels[0, 0, 8:40, 8:44] = 250
    pixels[0, 1, 20:60, 56:92] = 250
    pixels[1, 2, 12:52, 30:78] = 250
    sizes = torch.tensor([[64, 96]] * 2)
    none = torch.zeros(0, 4)
    first = torch.tensor([[8.0, 8, 44, 40], [56, 20, 92, 60]])
    last = torch.tensor([[30.0, 12, 78, 52]])
    return ImageBatch(pixels, sizes, sizes), [
        Target(first, torch.tensor([0, 1]), none),
        Target(last, torch.tensor([2]), none),
    ]


def priors_at(*boxes: list[float], stride: float = 8.0) -> Priors:
    rows = torch.tensor(boxes)
    return Priors(rows, torch.full_like(rows[:, :1], stride), torch.zeros(len(rows)).long())


@pytest.mark.parametrize(
    "coder",
    [
        Deltas(DeltaBoxes()),
        Deltas(DeltaBoxes(clamp="none", std=(1.0, 1.0, 1.0, 1.0))),
        Distances(DistanceBoxes(kind="distances", unit=8)),
        Distances(DistanceBoxes(kind="distances", positive_by="relu")),
        Distances(DistanceBoxes(kind="distances", unit=0)),
    ],
)
def test_what_is_encoded_decodes_to_the_same(coder: Any) -> None:
    priors = priors_at([0, 0, 40, 20], [8, 8, 30, 30])
    boxes = torch.tensor([[2.0, 3, 50, 29], [9, 1, 33, 31]])

    torch.testing.assert_close(coder.decode(coder.encode(boxes, priors), priors), boxes)


def test_a_shift_is_clamped_and_shrinking_may_be_free() -> None:
    priors, far = priors_at([0, 0, 100, 100]), torch.tensor([[2.0, -2, -9, 0]])

    clamped = Deltas(DeltaBoxes(std=(1.0,) * 4, clamp="growth", max_shift=32)).decode(far, priors)

    side = 50 * math.exp(-9)
    expected = torch.tensor([[82 - side, -32, 82 + side, 68]])
    torch.testing.assert_close(clamped, expected)


def test_a_joint_logit_has_the_product_as_its_score() -> None:
    logits, objectness = torch.randn(2, 5, 3) * 4, torch.randn(2, 5) * 4

    joint = join_objectness(logits, objectness).sigmoid()

    torch.testing.assert_close(joint, logits.sigmoid() * objectness.sigmoid()[..., None])


def test_the_taps_of_a_star_are_the_points_of_the_box() -> None:
    """Beside where the taps of a 3×3 convolution are, −1 … 1."""
    distances = torch.tensor([2.0, 3, 5, 7])[None, :, None, None]  # left, top, right, bottom

    moved = star_offsets(distances).view(9, 2)

    grid = torch.tensor([[y, x] for y in (-1.0, 0, 1) for x in (-1.0, 0, 1)])
    expected = [[y, x] for y in (-3.0, 0, 7) for x in (-2.0, 0, 5)]
    torch.testing.assert_close(moved + grid, torch.tensor(expected))


def pairs(**settings: Any) -> list[tuple[int, int]]:
    """Of two levels with three priors and one, two classes."""
    logits = torch.tensor([[0.9, 0.2], [0.6, 0.5], [0.1, 0.1], [0.3, 0.8]]).logit()
    quality = torch.tensor([0.1, 0.9, 0.9, 0.5]).logit()
    rule = DetectDense(**settings)
    _, rows, labels = best_pairs(logits, quality, [3, 1], rule)
    return sorted(zip(rows.tolist(), labels.tolist(), strict=True))


def test_candidates_are_pairs_or_cells_by_the_class_alone_or_with_the_quality() -> None:
    of_class = {"threshold_on": "class", "score_threshold": 0.4}

    assert pairs(**of_class) == [(0, 0), (1, 0), (1, 1), (3, 1)]
    assert pairs(**of_class, candidates=1) == [(0, 0), (3, 1)]
    assert pairs(score_threshold=0.35) == [(1, 0), (1, 1), (3, 1)]
    assert pairs(score_threshold=0.0, candidates=1) == [(1, 0), (3, 1)]
    cells = {"candidates": 1, "candidates_of": "cells", "score_threshold": 0.0}
    assert pairs(**cells) == [(1, 0), (1, 1), (3, 0), (3, 1)]
    assert len(pairs(score_threshold=0.0, candidates=0)) == 8


def test_a_threshold_that_is_asked_for_is_the_lowest_score() -> None:
    configured = DetectDense(threshold_on="class")

    assert configured.lowest() == 0
    asked = DetectOptions(threshold=0.5).over(configured)
    assert (asked.score_threshold, asked.min_score, asked.lowest()) == (0.05, 0.5, 0.5)


def test_votes_come_from_boxes_of_the_class_near_by() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 11], [0, 0, 10, 30], [0, 0, 10, 9]])
    scores, labels = torch.tensor([0.9, 0.6, 0.5, 0.8]), torch.tensor([0, 0, 0, 1])
    found = Detections(boxes[:1], scores[:1], labels[:1])

    moved = vote(found, boxes, scores, labels)

    near, far = 10 / 11, 1 / 3
    weights: Tensor = torch.tensor(
        [0.9, 0.6 * math.exp(-((1 - near) ** 2) / 0.025), 0.5 * math.exp(-((1 - far) ** 2) / 0.025)]
    )
    expected = (weights[:, None] * boxes[:3]).sum(0) / weights.sum()
    torch.testing.assert_close(moved.boxes[0], expected)
    assert torch.equal(moved.scores, scores[:1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.boxes.kind=deltas"], "`head.refine: star` needs `boxes.kind: distances`"),
        (["model.priors.sizes=[4, 8]"], "`head.refine: star` needs one prior a cell"),
        (["model.assign.kind=simota2"], "`model.assign.kind` must be "),
    ],
)
def test_parts_that_do_not_fit_are_one_error(settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("coco-r50-vfnet", overrides=settings)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("how", "taught"), [("seen", BACKGROUND), ("background", BACKGROUND), ("left_out", UNDECIDED)]
)
def test_cells_in_the_padding_are_taught_what_the_setting_says(
    how: str, taught: int, dense: Make
) -> None:
    detector, sides = dense("atss", f"model.loss.padding={how}"), [(8, 12), (4, 6), (2, 3), (1, 2)]
    priors = lay_priors(detector.cells[:4], detector.head.strides[:4], sides)
    said = Said(torch.zeros(1, 128, 3), torch.zeros(1, 128, 4), torch.zeros(1, 128), None)
    target = Target(torch.tensor([[8.0, 8, 44, 30]]), torch.tensor([1]), torch.zeros(0, 4))
    padded = padded_cells(priors, detector.head.strides[:4], sides, torch.tensor([[32, 64]]))

    given = None if how == "seen" else padded
    goals = find_goals(said, priors.boxes[None], priors, [target], detector.config, given)

    beyond = torch.tensor([x >= 64 or y >= 32 for x, y in priors.centres().tolist()])
    assert torch.equal(padded[0], beyond)
    assert set(goals.owners[0, beyond].tolist()) == {taught}
    assert set(goals.owners[0, ~beyond].tolist()) == {BACKGROUND, 0}
    assert not beyond[goals.rows].any()


def test_the_padding_of_an_image_of_its_own_is_its_own(
    dense: Make, batch: ImageBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, given = dense("atss", "input.divisor=16"), {}
    monkeypatch.setattr(detector_file, "dense_losses", lambda *_, **told: given.update(told))

    detector.losses(batch, [])

    size = batch.sizes[1]
    own = (size + 15) // 16 * 16
    levels = detector.extract(batch)
    cells = [level.shape[-2:] for level in levels]
    wanted = padded_cells(detector.lay(levels), detector.head.strides, cells, own[None])
    assert torch.equal(given["padded"][1], wanted[0])
    assert wanted.any()

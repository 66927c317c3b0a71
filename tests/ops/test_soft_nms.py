"""Soft-NMS against its statement, one box at a time, and what holds of it for any boxes."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, nms

from dhcli.ops.nms import UNLIMITED, Limits
from dhcli.ops.soft_nms import Decay, soft_nms

ALL = Limits(UNLIMITED)


def crowd(count: int, side: float = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 30], 1)
    return boxes, torch.rand(count, generator=generator)


def plain(boxes: Tensor, scores: Tensor, groups: Tensor, decay: Decay) -> list[tuple[int, float]]:
    """The best of all that are left is taken; each other of its group loses by its overlap."""
    overlap = box_iou(boxes.double(), boxes.double()).tolist()
    left = {row: float(score) for row, score in enumerate(scores.double())}
    left = {row: score for row, score in left.items() if score >= decay.min_score}
    found = []
    while left:
        best = max(left, key=lambda row: (left[row], -row))
        found.append((best, left.pop(best)))
        for row in list(left):
            iou = overlap[best][row]
            if groups[row] != groups[best]:
                continue
            if decay.method == "gaussian":
                left[row] *= math.exp(-(iou**2) / decay.sigma)
            elif iou >= decay.iou_threshold:
                left[row] *= 1 - iou
            if left[row] < decay.min_score:
                del left[row]
    return found


@pytest.mark.parametrize("decay", [Decay(), Decay("gaussian"), Decay(min_score=0.1)])
@pytest.mark.parametrize("most", [60, 1000])
def test_equal_to_taking_one_box_at_a_time(decay: Decay, most: int) -> None:
    boxes, scores = crowd(150, side=25)
    groups = torch.arange(150) % 4 * 20
    expected = plain(boxes, scores, groups, decay)

    keep, lowered = soft_nms(boxes, scores, groups, decay, Limits(most))

    assert keep.tolist() == [row for row, _ in expected[:most]]
    assert lowered[keep].tolist() == pytest.approx([score for _, score in expected[:most]])
    assert len(expected) > 60
    assert (lowered[keep] < scores[keep]).any()


def test_order_is_that_of_what_is_left_not_of_the_scores() -> None:
    """The second loses to the first, so that the third comes before it (linear, IoU 0.6)."""
    boxes = torch.tensor([[0.0, 0, 8, 10], [2, 0, 10, 10], [50, 50, 60, 60]])
    scores, one = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)

    keep, lowered = soft_nms(boxes, scores, one, Decay(), ALL)

    assert keep.tolist() == [0, 2, 1]
    assert lowered[keep].tolist() == pytest.approx([0.9, 0.7, 0.32])


def test_linear_begins_at_the_threshold_itself() -> None:
    """Hard NMS drops above it; IoU is exactly 1/2 here."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    scores, one = torch.tensor([0.8, 0.6]), torch.zeros(2, dtype=torch.int64)

    _, lowered = soft_nms(boxes, scores, one, Decay(), ALL)

    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert lowered.tolist() == pytest.approx([0.8, 0.3])


def test_of_equal_boxes_and_scores_the_first_is_taken_and_the_others_go() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(40, 1)
    scores, one = torch.full((40,), 0.5), torch.zeros(40, dtype=torch.int64)

    linear, _ = soft_nms(boxes, scores, one, Decay(), ALL)
    gaussian, lowered = soft_nms(boxes, scores, one, Decay("gaussian"), ALL)

    assert linear.tolist() == [0]
    assert gaussian.tolist() == [0, 1, 2, 3]  # e⁻² a time: 0.5, 0.068, 0.0092, 0.0012
    assert lowered[gaussian][-1] == pytest.approx(0.5 * math.exp(-6))


@pytest.mark.parametrize("decay", [Decay(min_score=0), Decay("gaussian", sigma=1e-6, min_score=0)])
@pytest.mark.parametrize("how", ["exact", "mmdet"])
def test_a_score_of_0_that_counts_is_taken_once(decay: Decay, how: str) -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(40, 1)
    scores = torch.linspace(0.9, 0.1, 40)

    keep, lowered = soft_nms(boxes, scores, torch.zeros(40).long(), decay, ALL, how=how)

    assert keep.tolist() == list(range(40))
    assert lowered.tolist() == [scores[0].item()] + [0] * 39


def test_ties_of_the_last_one_are_kept_where_the_limits_say_so() -> None:
    boxes = torch.arange(6)[:, None] * 20 + torch.tensor([[0.0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.4, 0.5])
    groups = torch.tensor([0, 0, 0, 1, 1, 0])

    kept, _ = soft_nms(boxes, scores, groups, Decay(), Limits(2, keep_ties=True))

    assert sorted(kept.tolist()) == [0, 1, 2, 3, 5]
    assert len(soft_nms(boxes, scores, groups, Decay(), Limits(2))[0]) == 2


def test_boxes_without_an_area_stay_as_they_are() -> None:
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]])
    scores, one = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.int64)

    keep, lowered = soft_nms(boxes, scores, one, Decay("gaussian"), ALL)

    assert keep.tolist() == [0, 1, 2]
    assert torch.equal(lowered, scores)


def test_nothing_in_nothing_out() -> None:
    empty = torch.zeros(0)

    for how in ("exact", "mmdet"):
        keep, _ = soft_nms(torch.zeros(0, 4), empty, empty.long(), Decay(), ALL, how=how)
        assert keep.shape == (0,)


def kernel(boxes: Tensor, scores: Tensor, groups: Tensor, decay: Decay) -> list[tuple[int, float]]:
    """mmcv's loop over one array of boxes that were moved by class, all in float32."""
    f = np.float32
    moved = (boxes + (groups.float() * (boxes.max() + 1))[:, None]).numpy()
    left = [(row, f(score)) for row, score in enumerate(scores.tolist())]
    found = []
    while left:
        best = max(range(len(left)), key=lambda place: left[place][1])
        row, score = left.pop(best)
        found.append((row, float(score)))
        x1, y1, x2, y2 = moved[row]
        after = []
        for other, value in left:
            a1, b1, a2, b2 = moved[other]
            w, h = (max(f(0), min(p, q) - max(r, s)) for p, q, r, s in
                    ((x2, a2, x1, a1), (y2, b2, y1, b1)))  # fmt: skip
            common = w * h
            iou = common / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - common)
            if decay.method == "gaussian":
                value = value * f(np.exp(f(-(iou * iou)) / f(decay.sigma)))
            elif iou >= f(decay.iou_threshold):
                value = value * (f(1) - iou)
            if value >= decay.min_score:
                after.append((other, value))
        left = after
    return found


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_mmdets_scores_are_rounded_as_its_boxes_are(method: str) -> None:
    boxes, scores = crowd(60, side=20)
    boxes[0] += 1300  # the place of a class is this far from the next
    groups, decay = 76 + torch.arange(60) % 4, Decay(method)  # type: ignore[arg-type]
    expected = kernel(boxes, scores, groups, decay)

    keep, rounded = soft_nms(boxes, scores, groups, decay, ALL, how="mmdet")
    _, exact = soft_nms(boxes, scores, groups, decay, ALL)

    assert keep.tolist() == [row for row, _ in expected]
    np.testing.assert_allclose(rounded[keep].numpy(), [x for _, x in expected], rtol=1e-6)
    assert (rounded - exact).abs().max() > 1e-5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(0, 12)] * 4, st.integers(1, 9), st.integers(0, 2)), max_size=14
    ),
    st.sampled_from(["linear", "gaussian"]),
)
def test_scores_only_fall_and_the_limit_leaves_the_first(
    rows: list[tuple[int, ...]], method: str
) -> None:
    table = torch.tensor(rows, dtype=torch.float32).view(-1, 6)
    boxes = torch.cat([table[:, :2], table[:, :2] + table[:, 2:4]], 1)
    scores, groups, decay = table[:, 4] / 10, table[:, 5].long(), Decay(method)  # type: ignore[arg-type]

    keep, lowered = soft_nms(boxes, scores, groups, decay, ALL)
    few, _ = soft_nms(boxes, scores, groups, decay, Limits(3))

    assert keep.unique().numel() == len(keep)
    assert (lowered[keep] <= scores[keep]).all()
    assert (lowered[keep].diff() <= 0).all()
    assert few.tolist() == keep[:3].tolist()
    for group in groups.unique():  # the best of a group is never lowered
        assert lowered[groups == group].max() == scores[groups == group].max()


def test_many_boxes_take_neither_a_matrix_nor_a_minute() -> None:
    """100,000 boxes of one class: their overlaps with one another would be 80 GB."""
    boxes, scores = crowd(100_000, side=1300)
    began = time.process_time()

    keep, _ = soft_nms(boxes, scores, torch.zeros(len(boxes)).long(), Decay(), Limits(100))

    assert len(keep) == 100
    assert time.process_time() - began < 20

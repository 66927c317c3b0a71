"""A branch that predicts IoU: its boxes to learn from, the NMS it guides, the climb, learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dhcli.config.detecting import DetectOptions, lowest_score
from dhcli.config.schema import Config
from dhcli.config.schema import Head as HeadConfig
from dhcli.config.schema.detect import GuidedNms
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.models.two_stage.branches import BranchOutput
from dhcli.models.two_stage.head import STILL, WORSE, Judged
from dhcli.models.two_stage.pool import Pool, precise_pool
from dhcli.ops.batch import ImageBatch, Target
from dhcli.ops.boxes import iou_matrix, paired_iou
from dhcli.ops.guided_nms import guided_nms
from dhcli.ops.jitter import jitter_boxes
from dhcli.ops.nms import Limits
from tests.by_heart import assert_known, draw, learn_two_stage

FC: dict[str, Any] = {"kind": "fc", "width": 32, "lambda": 0.5, "omega": 2}
IOU: dict[str, Any] = {"kind": "fc", "name": "iou", "focus": "iou", "width": 32}
GUIDED = {"kind": "guided"}


def make_config(made: Config, **nms: Any) -> Config:
    model = made.model
    detect = model.detect.model_copy(update={"nms": GuidedNms(kind="guided", **nms)})
    return made.model_copy(update={"model": model.model_copy(update={"detect": detect})})


def test_boxes_to_learn_from_are_spread_evenly_over_iou() -> None:
    objects = torch.tensor([[300.0, 300, 380, 500], [600, 100, 700, 150]])

    boxes, rows = jitter_boxes(objects, 1000, 0.5, torch.tensor([1000, 1000]))

    ious = paired_iou(boxes, objects[rows])
    assert len(boxes) == 1000
    for row in (0, 1):
        for tenth in range(5, 10):
            inside = (ious[rows == row] >= tenth / 10) & (ious[rows == row] < tenth / 10 + 0.1)
            assert abs(inside.sum() - 100) <= 4  # rounding on the border of two
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_box_that_the_border_cuts_off_goes() -> None:
    corner = torch.tensor([[0.0, 0, 50, 50]])

    boxes, rows = jitter_boxes(corner, 1000, 0.5, torch.tensor([60, 60]))

    assert boxes.min() >= 0
    assert boxes.max() <= 60
    assert (paired_iou(boxes, corner[rows]) >= 0.5).all()


def plain_guided(
    boxes: Tensor, scores: Tensor, groups: Tensor, ranks: Tensor, threshold: float
) -> dict[int, float]:
    """The highest rank goes out with all that it overlaps, with the best of their scores."""
    left, found = list(range(len(boxes))), {}
    overlaps = iou_matrix(boxes, boxes)
    while left:
        first = max(left, key=lambda i: ranks[i].item())
        gone = [
            i for i in left
            if i == first or (groups[i] == groups[first] and overlaps[first, i] > threshold)
        ]  # fmt: skip
        found[first] = max(scores[i].item() for i in gone)
        left = [i for i in left if i not in gone]
    return found


def test_guided_nms_is_what_the_paper_states() -> None:
    corners = torch.rand(120, 2) * 60
    boxes = torch.cat([corners, corners + 20 + 30 * torch.rand(120, 2)], dim=1)
    scores, ranks, groups = torch.rand(120), torch.rand(120), torch.randint(0, 3, (120,))

    keep, best = guided_nms(boxes, scores, groups, ranks, 0.4, Limits(1000))
    few, _ = guided_nms(boxes, scores, groups, ranks, 0.4, Limits(5))

    expected = plain_guided(boxes, scores, groups, ranks, 0.4)
    assert {int(i): best[i].item() for i in keep} == pytest.approx(expected)
    assert len(expected) < 60
    assert best[keep].tolist() == sorted(best[keep].tolist(), reverse=True)
    assert torch.equal(few, keep[:5])
    nothing = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    assert len(guided_nms(*nothing, 0.4, Limits(5))[0]) == 0


def test_precise_pooling_is_the_mean_of_the_surface_and_has_its_gradient() -> None:
    features = torch.randn(2, 6, 7).double()
    box = torch.tensor([0.3, 1.2, 5.9, 4.7]).double().requires_grad_()

    found = precise_pool(features, box, 2)

    x1, y1, x2, y2 = box.tolist()
    many = 200
    steps = (torch.arange(many).double() + 0.5) / many
    for row in range(2):
        for column in range(2):
            y = y1 + (row + steps) * (y2 - y1) / 2
            x = x1 + (column + steps) * (x2 - x1) / 2
            hat_y = (1 - (y[:, None] - torch.arange(6)).abs()).clamp(min=0)
            hat_x = (1 - (x[:, None] - torch.arange(7)).abs()).clamp(min=0)
            mean = torch.einsum("sh,chw,tw->c", hat_y, features, hat_x) / many**2
            assert torch.allclose(found[:, row, column], mean, atol=1e-4)
    assert torch.autograd.gradcheck(lambda at: precise_pool(features, at, 2), box)


def test_precise_pooling_is_close_to_roi_align_on_a_smooth_map() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    level = torch.stack([x, y])[None]
    pool = Pool(7, 0, True, (4,))
    boxes, images = torch.tensor([[13.0, 22, 90, 71]]), torch.tensor([0])

    found = pool.integrate([level], boxes, images)

    assert torch.allclose(found, pool([level], boxes, images), atol=1e-3)
    assert pool.integrate([level], boxes[:0], images[:0]).shape == (0, 2, 7, 7)


def test_precise_pooling_gives_the_dtype_of_the_levels_and_nearly_the_same() -> None:
    level = torch.randn(1, 4, 16, 16).bfloat16()
    pool = Pool(3, 0, True, (4,))
    boxes, images = torch.tensor([[13.0, 22, 49.5, 51]]), torch.tensor([0])

    found = pool.integrate([level], boxes, images)

    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), pool.integrate([level.float()], boxes, images), atol=1e-2)


def test_a_climb_never_falls_below_its_rule(
    small_config: Callable[..., Config], batch: ImageBatch
) -> None:
    detector = build_detector(small_config(FC, IOU), classes=3).eval()
    torch.nn.init.normal_(detector.head.branch("iou").iou.weight, std=1.0)
    levels = detector.extract(batch)
    corner = torch.rand(12, 2) * 40
    boxes = torch.cat([corner, corner + 12 + 20 * torch.rand(12, 2)], dim=1)
    images, labels = torch.arange(12) % 2, torch.arange(12) % 3
    given = (levels, boxes, images, labels)

    with torch.inference_mode():
        stays, before = detector.head.climb(*given, 0, 0.5)
        moved, after = detector.head.climb(*given, 5, 2.0)

    assert torch.equal(stays, boxes)
    assert (moved != boxes).any(dim=1).sum() > 6
    assert (after >= before - 5 * WORSE - 1e-6).all()
    assert (after > before + STILL).any()
    assert after.mean() > before.mean()


def test_no_step_however_long_turns_a_box_inside_out(
    small_config: Callable[..., Config], batch: ImageBatch
) -> None:
    detector = build_detector(small_config(FC, IOU), classes=3).eval()
    torch.nn.init.normal_(detector.head.branch("iou").iou.weight, std=1.0)
    corner = torch.rand(12, 2) * 40
    boxes = torch.cat([corner, corner + 12 + 20 * torch.rand(12, 2)], dim=1)
    labels = torch.zeros(12).long()

    moved, ious = detector.head.climb(detector.extract(batch), boxes, labels, labels, 5, 50.0)

    assert (moved != boxes).any()
    assert (moved[:, 2:] - moved[:, :2]).min() >= 1
    assert ious.isfinite().all()


def test_a_box_that_climbed_out_of_the_image_goes(
    small_config: Callable[..., Config], batch: ImageBatch
) -> None:
    detector = build_detector(make_config(small_config(FC, IOU), refine=1), classes=3).eval()
    every = DetectOptions(threshold=0.0)
    before = detector.detect(batch, every)[0]
    out = torch.tensor([999.0, 0, 999, 0])

    def climb(_: object, boxes: Tensor, *__: object) -> tuple[Tensor, Tensor]:
        first = torch.arange(len(boxes))[:, None] == 0
        return boxes + out * first, torch.ones(len(boxes))

    detector.head.climb = climb
    after = detector.detect(batch, every)[0]

    assert [len(one) for one in after] == [len(one) - 1 for one in before]


@pytest.mark.parametrize("nms", [{}, {"multiply": True}, {"multiply": True, "refine": 2}])
def test_a_threshold_that_is_asked_for_only_leaves_out_what_scores_below_it(
    small_config: Callable[..., Config], batch: ImageBatch, nms: dict[str, Any]
) -> None:
    config = make_config(small_config(FC, IOU), **nms)
    detector = build_detector(config, classes=3).eval()
    detector.rule = detector.rule.model_copy(update={"score_threshold": 0.0})
    for kind, std in (("fc", 0.5), ("iou", 1.0)):
        branch = detector.head.branch(kind)
        torch.nn.init.normal_((branch.iou if kind == "iou" else branch.cls).weight, std=std)

    [usual] = detector.detect(batch)
    score = torch.cat([one.scores for one in usual]).sort().values[-20].item()
    options = DetectOptions(threshold=score)
    [asked] = detector.detect(batch, options)

    assert lowest_score(config.model, options) == score
    for every, found in zip(usual, asked, strict=True):
        above = every.scores > score
        assert 0 < len(found) < len(every)
        assert torch.allclose(found.boxes, every.boxes[above], atol=1e-3)
        assert torch.equal(found.labels, every.labels[above])


def test_the_papers_loss_is_smooth_l1_around_a_half(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    head = build_detector(small_config(FC, IOU, iou_loss="smooth_l1"), classes=3).eval().head
    given = Judged(
        torch.tensor([[4.0, 4, 36, 36], [40, 10, 80, 60], [0, 0, 30, 30]]),
        torch.zeros(3).long(),
        torch.tensor([0, 2, 0]),
        torch.tensor([1.0, 0.8, 0.6]),
    )
    said = torch.tensor([[1.0, 0, 0], [0, 0, -2.0], [0.5, 0, 0]])
    head.run = lambda *_: BranchOutput(None, None, ious=said)
    head.jitter = lambda *_: given

    [loss] = head.judge_losses([], targets, batch.sizes).values()
    ious = head.judge([], given.boxes, given.images, given.labels)

    off = torch.tensor([1 - 1.0, -2 - 0.6, 0.5 - 0.2]).abs()
    assert loss.item() == pytest.approx((0 + (off[1] - 0.5) + off[2] ** 2 / 2).item() / 3)
    assert ious.tolist() == pytest.approx([1, -0.5, 0.75])


def test_every_weight_takes_part(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    for given in (targets, [targets[1]] * 2):
        detector = build_detector(small_config(FC, IOU), classes=3)
        prepare_for_training(detector)

        losses = detector.losses(batch, given)
        sum(losses.values()).backward()

        assert (losses["loss_iou_iou"] > 0) == (given is targets)
        assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("branches", "cascade", "why"),
    [
        ([FC, IOU, {**IOU, "name": "other"}], [], "one with `focus: iou`"),
        ([FC, {**IOU, "lambda": 0.5}], [], "its `lambda` is 1"),
        ([FC, IOU], [{}, {}], "a cascade has no branch"),
    ],
)
def test_what_does_not_go_together_is_refused(
    branches: list[dict[str, Any]], cascade: list[dict[str, Any]], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        HeadConfig.model_validate({"branches": branches, "cascade": cascade})


def test_guided_nms_needs_the_branch() -> None:
    with pytest.raises(ValidationError, match="needs a branch with `focus: iou`"):
        Config.model_validate({"model": {"detect": {"nms": GUIDED}}})


@pytest.mark.usefixtures("shallow")
def test_it_overfits_two_images(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    config = make_config(small_config(FC, IOU, positive_fraction=0.5, jitter={"samples": 60}))
    detector = build_detector(config, classes=3)
    draw(batch, targets)
    learn_two_stage(detector, batch, targets)

    [found] = detector.detect(batch, DetectOptions(threshold=0.5))

    assert_known(found, targets, scale=2)
    made = detector.head.jitter(targets, batch.sizes)
    said = detector.head.judge(detector.extract(batch), made.boxes, made.images, made.labels)
    assert torch.corrcoef(torch.stack([said, made.ious]))[0, 1] > 0.5
    refining = make_config(config, refine=3, multiply=True).model.detect
    detector.rule = refining
    with torch.inference_mode():
        [found] = detector.detect(batch, DetectOptions(threshold=0.5))
    assert_known(found, targets, scale=2)

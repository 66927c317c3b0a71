"""The head: which predictors there are, its weights, its laziness, its read-outs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dhcli.config.heads import all_read_outs
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.two_stage.head import Head, Scored
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import Target
from dhcli.ops.boxes import decode_boxes

FC: dict[str, Any] = {"kind": "fc", "width": 32}
CONV: dict[str, Any] = {"kind": "conv", "width": 64, "residual": 2, "norm": "gn", "roi_scale": 1.3}
EXT = [{**FC, "lambda": 0.7, "omega": 2.0}, {**CONV, "lambda": 0.8, "omega": 2.5}]
CLASSES = 3
STRIDES = (4, 8, 16, 32)
NONE = torch.zeros(0, 4)
SIZES = torch.tensor([[128, 128]] * 2)


def make_head(branches: list[dict[str, Any]], **settings: Any) -> Head:
    config = HeadConfig.model_validate({"branches": branches, "samples": 16, **settings})
    return Head(config, Pool(7, 0, True, STRIDES), channels=16, classes=CLASSES).eval()


def detect(
    head: Head, features: list[Tensor], boxes: Tensor, images: Tensor, threshold: float
) -> Scored:
    return head.detect([head.read_out], features, boxes, images, SIZES, threshold)[0]


def levels() -> list[Tensor]:
    return [torch.randn(2, 16, 128 // s, 128 // s) for s in (4, 8, 16, 32)]


def proposals(count: int = 40) -> tuple[Tensor, Tensor]:
    corner = torch.rand(count, 2) * 80
    boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2) * 40], dim=1)
    return boxes, torch.arange(count) % 2


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ([{**FC, "lambda": 0.5, "omega": 2}], {"fc": "cls reg"}),
        ([{**CONV, "lambda": 0.5, "omega": 2}], {"conv": "cls reg"}),
        ([FC, {**FC, "name": "fc2", "focus": "reg"}], {"fc": "cls", "fc2": "reg"}),
        ([{**CONV, "focus": "cls"}, {**FC, "focus": "reg"}], {"conv": "cls", "fc": "reg"}),
        ([FC, CONV], {"fc": "cls", "conv": "reg"}),
        (EXT, {"fc": "cls reg", "conv": "cls reg"}),
    ],
    ids=["single fc", "single conv", "Double-FC", "Reverse", "Double-Head", "Double-Head-Ext"],
)
def test_a_detector_of_the_paper_is_a_row_of_settings(
    branches: list[dict[str, Any]], expected: dict[str, str]
) -> None:
    head = make_head(branches)

    predictors = {
        name: " ".join(t for t in ("cls", "reg") if getattr(head.branch(name), t) is not None)
        for name in head.branches
    }
    assert predictors == expected
    boxes, images = proposals()
    assert len(detect(head, levels(), boxes, images, threshold=0.0).rows) == 40 * CLASSES


def test_weights_of_ext_are_the_products_of_omega_and_lambda() -> None:
    head = make_head(EXT)

    weights = {(n, t): head.branch(n).weight(t) for n in ("fc", "conv") for t in ("cls", "reg")}

    expected = {("fc", "cls"): 1.4, ("fc", "reg"): 0.6, ("conv", "cls"): 0.5, ("conv", "reg"): 2.0}
    assert weights == pytest.approx(expected)


def test_losses_are_cross_entropy_and_smooth_l1_over_all_sampled() -> None:
    head = make_head(EXT)
    features = levels()
    objects = torch.tensor([[10.0, 10.0, 50.0, 50.0]])
    near, far = objects + 2, torch.tensor([[70.0, 70.0, 90.0, 90.0]])
    targets = [
        Target(objects, torch.tensor([1]), NONE),
        Target(NONE, torch.zeros(0, dtype=torch.int64), NONE),
    ]

    losses = head.losses(features, [torch.cat([near, far]), far], targets, SIZES)

    boxes = torch.cat([near, objects, far, far])  # the object itself is a proposal too
    images = torch.tensor([0, 0, 0, 1])
    output = head.run("conv", features, boxes, images)
    assert output.logits is not None
    assert output.boxes is not None
    classes = torch.tensor([2, 2, 0, 0])
    cls = F.cross_entropy(output.logits, classes) * 0.5
    goal = torch.tensor([[-0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])  # −2 px of 40, over 0.1
    reg = F.smooth_l1_loss(output.boxes[:2, 1], goal, reduction="sum") / 4 * 2.0
    assert losses["loss_conv_cls"].item() == pytest.approx(cls.item(), rel=1e-4)
    assert losses["loss_conv_reg"].item() == pytest.approx(reg.item(), rel=1e-4)
    assert set(losses) == {f"loss_{b}_{t}" for b in ("fc", "conv") for t in ("cls", "reg")}


def test_ignored_regions_give_no_background() -> None:
    head = make_head(EXT)
    objects, labels = torch.tensor([[0.0, 0.0, 20.0, 20.0]]), torch.tensor([0])
    crowd = torch.tensor([[60.0, 60.0, 100.0, 100.0]])
    boxes = torch.tensor([[70.0, 70.0, 90.0, 90.0], [30.0, 0.0, 50.0, 20.0]])

    rois = head.sample([boxes], [Target(objects, labels, crowd)])

    assert rois.boxes.tolist() == [objects[0].tolist(), boxes[1].tolist()]
    assert rois.classes.tolist() == [1, 0]


@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.9])
def test_refining_only_what_can_become_a_detection_changes_nothing(threshold: float) -> None:
    head = make_head([{**FC, "lambda": 1.0}, {**CONV, "lambda": 1.0}])
    torch.nn.init.normal_(head.branch("fc").cls.weight, std=0.5)
    features, (boxes, images) = levels(), proposals()

    rows, labels, scores, refined = detect(head, features, boxes, images, threshold)

    all_scores = head.run("fc", features, boxes, images).logits.softmax(1)[:, 1:]
    deltas = head.run("conv", features, boxes, images).boxes
    expected = torch.nonzero(all_scores > threshold)
    assert torch.stack([rows, labels], 1).tolist() == expected.tolist()
    assert torch.allclose(scores, all_scores[rows, labels])
    full = decode_boxes(deltas[rows, labels], boxes[rows], head.config.box_std)
    assert torch.allclose(refined, full, atol=1e-4)


def test_rois_in_groups_give_what_all_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    head, features, (boxes, images) = make_head(EXT), levels(), proposals()
    expected = detect(head, features, boxes, images, threshold=0.0)
    sizes = []
    monkeypatch.setattr("dhcli.models.two_stage.head.GROUP", 7)
    head.branch("conv").register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))

    found = detect(head, features, boxes, images, threshold=0.0)

    assert sizes == [7, 7, 7, 7, 7, 5]
    assert torch.equal(found.rows, expected.rows)
    assert torch.allclose(found.scores, expected.scores, atol=1e-6)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-3)


def test_nothing_above_the_threshold() -> None:
    boxes, images = proposals()

    rows, *_, refined = detect(make_head([FC, CONV]), levels(), boxes, images, threshold=1.0)

    assert len(rows) == 0
    assert refined.shape == (0, 4)


@pytest.mark.parametrize(
    ("settings", "read_out", "scorers"),
    [
        ({}, ("complementary", "conv"), ["fc", "conv"]),
        ({"scores": "fc"}, ("fc", "conv"), ["fc"]),
        ({"scores": "conv", "boxes": "fc"}, ("conv", "fc"), ["conv"]),
        ({"scores": "max"}, ("max", "conv"), ["fc", "conv"]),
    ],
)
def test_the_read_out_that_is_configured(
    settings: dict[str, str], read_out: tuple[str, str], scorers: list[str]
) -> None:
    head = make_head(EXT, **settings)

    assert head.read_out == read_out
    assert head.scorers(head.read_out) == scorers


def test_all_read_outs_at_once_are_those_of_a_head_for_each() -> None:
    head = make_head(EXT)
    boxes, images = proposals()
    features = levels()
    ran: list[str] = []
    for name in head.branches:
        head.branch(name).register_forward_hook(lambda *_, name=name: ran.append(name))

    every = head.detect(all_read_outs(head.config), features, boxes, images, SIZES, 0.26)

    assert ran == ["fc", "conv"]
    for read_out, together in zip(all_read_outs(head.config), every, strict=True):
        alone = make_head(EXT, scores=read_out.scores, boxes=read_out.boxes)
        alone.load_state_dict(head.state_dict())
        for one, other in zip(
            together, detect(alone, features, boxes, images, threshold=0.26), strict=True
        ):
            torch.testing.assert_close(one, other)


def test_class_agnostic_boxes() -> None:
    head = make_head([FC, CONV], class_agnostic=True)
    boxes, images = proposals()

    *_, refined = detect(head, levels(), boxes, images, threshold=0.0)

    assert head.branch("conv").reg.out_features == 4
    by_class = refined.unflatten(0, (40, CLASSES))
    assert torch.equal(by_class[:, 0], by_class[:, 1])


def test_the_backgrounds_box_is_there_and_unused() -> None:
    head = make_head(EXT, background_box=True)
    branch = head.branch("fc")
    pooled = torch.randn(5, 16, 7, 7)

    deltas = branch(pooled).boxes

    assert branch.reg is not None
    every = branch.reg(branch.trunk(pooled)).unflatten(1, (-1, 4))
    assert every.shape == (5, CLASSES + 1, 4)
    assert torch.equal(deltas, every[:, 1:])


def test_a_gate_leaves_out_what_the_first_branch_scores_below_it() -> None:
    head = make_head(EXT)
    torch.nn.init.normal_(head.branch("fc").cls.weight, std=0.5)
    features, (boxes, images) = levels(), proposals()
    best = head.run("fc", features, boxes, images).logits.softmax(1)[:, 1:].amax(1)
    gate = best.median().item()

    full = detect(head, features, boxes, images, threshold=0.1)
    gated = head.detect([head.read_out], features, boxes, images, SIZES, 0.1, gate)[0]

    passed = best[full[0]] >= gate
    assert 0 < len(gated[0]) < len(full[0])
    for wanted, value in zip(full, gated, strict=True):
        assert torch.allclose(value, wanted[passed], atol=1e-5)


OWN = [{**branch, "roi": {"kind": "disentangled", "width": 8}} for branch in EXT]
SIBLING = {**FC, "name": "sibling", "lambda": 0.5}


@pytest.mark.parametrize("branches", [EXT, [SIBLING, *OWN]], ids=["ext", "with a sibling"])
def test_a_gate_is_for_fused_scores_beside_others_too(branches: list[dict[str, Any]]) -> None:
    head = make_head(branches)
    for name in ("sibling", "fc", "conv"):
        if name in head.branches:
            torch.nn.init.normal_(head.branch(name).cls.weight, std=0.5)
    features, (boxes, images) = levels(), proposals()
    best = head.run("fc", features, boxes, images).logits.softmax(1)[:, 1:].amax(1)
    given = (features, boxes, images, SIZES, 0.1, best.median().item())
    every = all_read_outs(head.config)

    together = head.detect(every, *given)

    for read_out, found in zip(every, together, strict=True):
        [alone] = head.detect([read_out], *given)
        for wanted, value in zip(alone, found, strict=True):
            assert torch.allclose(value, wanted, atol=1e-4)

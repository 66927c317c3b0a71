"""The RPN: order of its outputs, proposals against a plain reading, losses by hand."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import nms

from dhcli.config.schema import Anchors
from dhcli.config.schema import Rpn as RpnConfig
from dhcli.models.select import Nms
from dhcli.models.two_stage.rpn import Rpn, RpnOutput
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import PLAIN
from dhcli.ops.boxes import decode_boxes

STRIDES = (4, 8, 16, 32, 64)
SIZES = torch.tensor([[120, 150], [96, 128]])
UNIT = (1.0, 1.0, 1.0, 1.0)
NONE = torch.zeros(0, 4)


def pyramid(batch: int = 2, channels: int = 8) -> list[torch.Tensor]:
    return [torch.randn(batch, channels, 128 // s, -(-160 // s)) for s in (4, 8, 16, 32, 64)]


def make_rpn(**settings: object) -> Rpn:
    anchors = Anchors(sizes=(8, 16, 32, 64, 128))
    rpn = Rpn(8, STRIDES, anchors, RpnConfig(**settings), PLAIN, Nms())
    for conv in (rpn.cls, rpn.reg):
        torch.nn.init.normal_(conv.weight, std=0.3)
    return rpn


def test_one_score_and_one_box_an_anchor_in_the_same_order() -> None:
    rpn = make_rpn()
    levels = pyramid()

    output = rpn(levels)

    x = rpn.conv(levels[1]).relu()
    row, column, anchor = 3, 5, 2
    index = output.counts[0] + (row * 20 + column) * 3 + anchor
    assert output.logits[1, index] == rpn.cls(x)[1, anchor, row, column]
    expected = rpn.reg(x)[1, anchor * 4 : anchor * 4 + 4, row, column]
    assert torch.equal(output.deltas[1, index], expected)
    centre = (output.anchors[index, :2] + output.anchors[index, 2:]) / 2
    assert torch.allclose(centre, torch.tensor([column * 8.0, row * 8.0]))


@pytest.mark.parametrize(("pre", "post"), [(1000, 1000), (50, 40)])
def test_proposals_are_those_of_a_plain_reading(pre: int, post: int) -> None:
    rpn = make_rpn(pre_nms_test=pre, proposals_test=post)
    output = rpn(pyramid())
    ranks = torch.stack([torch.randperm(output.logits.shape[1]) for _ in range(2)])
    output.logits = ranks / ranks.max() * 8 - 4  # no ties, whose order would be anybody's

    proposals = rpn.propose(output, SIZES, training=False)

    for image in range(2):
        kept = []
        for level in range(5):
            start = sum(output.counts[:level])
            rows = slice(start, start + output.counts[level])
            scores = output.logits[image, rows].sigmoid()
            order = scores.argsort(descending=True)[:pre]
            boxes = decode_boxes(output.deltas[image, rows], output.anchors[rows], UNIT)[order]
            height, width = SIZES[image].tolist()
            boxes[:, 0::2] = boxes[:, 0::2].clamp(0, width)
            boxes[:, 1::2] = boxes[:, 1::2].clamp(0, height)
            real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            boxes, scores = boxes[real], scores[order][real]
            kept += [(scores[i], boxes[i]) for i in nms(boxes, scores, 0.7)]
        kept.sort(key=lambda pair: -pair[0])
        expected = torch.stack([box for _, box in kept[:post]])
        assert torch.allclose(proposals[image], expected, atol=1e-4)


def test_proposals_of_a_batch_share_one_limit_when_told() -> None:
    rpn = make_rpn(proposals_per="batch", proposals_train=30)

    proposals = rpn.propose(rpn(pyramid()), SIZES, training=True)

    assert sum(map(len, proposals)) == 30


def output_of(
    logits: list[float], deltas: list[list[float]], anchors: list[list[float]]
) -> RpnOutput:
    parts = torch.tensor([logits]), torch.tensor([deltas]), torch.tensor(anchors)
    return RpnOutput(*parts, counts=[len(logits)])


def losses_of(rpn: Rpn, output: RpnOutput, target: Target) -> dict[str, torch.Tensor]:
    """Losses where the RPN says `output` of its one image."""
    sampled = rpn.sample(output, [target], SIZES)
    at = sampled.images, sampled.anchors
    return rpn.losses(output.logits[at], output.deltas[at], sampled)


@pytest.mark.parametrize(
    ("border", "trained"), [(-1, [0, 1, 2, 3]), (0, [1, 2]), (5, [0, 1, 2, 3]), (4, [0, 1, 2])]
)
def test_anchors_that_leave_their_image_are_not_trained(border: int, trained: list[int]) -> None:
    """As MMDetection compares: outside by the border on the left, but less than it on the right."""
    rpn = make_rpn(allowed_border=border)
    anchors = [[-4.0, 0, 6, 10], [0, 0, 10, 10], [139.5, 0, 149.5, 10], [144, 0, 154, 10]]
    output = output_of([0.0] * 4, [[0.0] * 4] * 4, anchors)

    sampled = rpn.sample(output, [Target(NONE, torch.zeros(0, dtype=torch.int64), NONE)], SIZES)

    assert sorted(sampled.anchors.tolist()) == trained


def test_an_image_that_every_anchor_leaves_carries_no_loss() -> None:
    output = output_of([0.0] * 2, [[0.0] * 4] * 2, [[-4.0, 0, 6, 10], [144, 0, 154, 10]])
    target = Target(torch.tensor([[5.0, 0.0, 15.0, 10.0]]), torch.tensor([0]), NONE)

    losses = losses_of(make_rpn(allowed_border=0), output, target)

    assert [loss.item() for loss in losses.values()] == [0, 0]


def test_losses_by_hand() -> None:
    """One object, on an anchor shifted by half its width; two anchors of background."""
    anchors = [[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0], [0.0, 50.0, 10.0, 60.0]]
    output = output_of([0.0, 0.0, 0.0], [[0.0] * 4, [9.0] * 4, [9.0] * 4], anchors)
    target = Target(torch.tensor([[5.0, 0.0, 15.0, 10.0]]), torch.tensor([0]), NONE)

    losses = losses_of(make_rpn(smooth_l1_beta=0.0), output, target)

    assert losses["loss_rpn_cls"].item() == pytest.approx(0.6931, abs=1e-4)  # ln 2, the mean
    assert losses["loss_rpn_reg"].item() == pytest.approx(0.5 / 3)  # |dx| = 0.5, over 3 anchors


def test_anchors_in_an_ignored_region_carry_no_loss() -> None:
    anchors = [[0.0, 0.0, 10.0, 10.0], [50.0, 0.0, 60.0, 10.0]]
    output = output_of([0.0, 100.0], [[0.0] * 4] * 2, anchors)  # sure of the second: wrongly?
    boxes, labels = torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0])
    region = torch.tensor([[45.0, 0.0, 80.0, 20.0]])

    taught = losses_of(make_rpn(), output, Target(boxes, labels, NONE))
    spared = losses_of(make_rpn(), output, Target(boxes, labels, region))

    assert taught["loss_rpn_cls"] > 10
    assert spared["loss_rpn_cls"].item() == pytest.approx(0.6931, abs=1e-4)


def test_each_level_has_a_limit_of_its_own_before_all_have_theirs() -> None:
    rpn = make_rpn()
    limited = make_rpn(level_proposals=7, proposals_test=20)
    limited.load_state_dict(rpn.state_dict())
    output = rpn(pyramid(batch=1))
    every = rpn.propose(output, SIZES[:1], training=False)[0]

    few = limited.propose(output, SIZES[:1], training=False)[0]

    def level_of(boxes: torch.Tensor) -> torch.Tensor:
        scores = output.logits[0]
        decoded = decode_boxes(output.deltas[0], output.anchors, UNIT)
        decoded[:, 0::2] = decoded[:, 0::2].clamp(0, 150)
        decoded[:, 1::2] = decoded[:, 1::2].clamp(0, 120)
        anchor = torch.cdist(boxes, decoded).argmin(dim=1)
        bounds = torch.tensor(output.counts).cumsum(0)
        assert (scores[anchor][1:] <= scores[anchor][:-1] + 1e-6).all()
        return torch.bucketize(anchor, bounds, right=True)

    levels, seen, expected = level_of(every).tolist(), [0] * 5, []
    for box, level in zip(every, levels, strict=True):
        seen[level] += 1
        if seen[level] <= 7:
            expected.append(box)
    assert torch.equal(few, torch.stack(expected[:20]))

"""The RPN that looks again at its sampled anchors, beside the plain one."""

from __future__ import annotations

import copy

import torch

from dhcli.config.schema import Anchors
from dhcli.config.schema import Rpn as RpnConfig
from dhcli.models.fast import prepare_for_training
from dhcli.models.fast.revisit import RevisitingRpn
from dhcli.models.select import Nms
from dhcli.models.two_stage.rpn import Rpn
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import PLAIN

STRIDES = (4, 8, 16, 32, 64)


def pyramid(batch: int = 2, channels: int = 8) -> list[torch.Tensor]:
    return [torch.randn(batch, channels, 128 // s, -(-160 // s)) for s in STRIDES]


def plain_rpn() -> Rpn:
    anchors = Anchors(sizes=(8, 16, 32, 64, 128))
    rpn = Rpn(8, STRIDES, anchors, RpnConfig(), PLAIN, Nms())
    for conv in (rpn.cls, rpn.reg):
        torch.nn.init.normal_(conv.weight, std=0.3)
    return rpn


def make_rpn() -> RevisitingRpn:
    rpn = plain_rpn()
    prepare_for_training(rpn)
    assert isinstance(rpn, RevisitingRpn)
    return rpn


def test_proposals_losses_and_gradients_are_the_plain_ones() -> None:
    torch.manual_seed(0)
    plain = plain_rpn()
    fast = copy.deepcopy(plain)
    prepare_for_training(fast)
    levels = [level.requires_grad_() for level in pyramid()]
    sizes = torch.tensor([[120, 150], [96, 128]])
    objects = torch.tensor([[10.0, 10.0, 40.0, 44.0], [60.0, 20.0, 130.0, 90.0]])
    none = torch.zeros(0, 4)
    targets = [Target(objects, torch.tensor([0, 1]), none), Target(none, none[:, 0].long(), none)]

    found = []
    for rpn in (fast, plain):
        torch.manual_seed(1)  # of the sampling
        proposals, losses = rpn.learn(levels, sizes, targets)
        gradients = torch.autograd.grad(sum(losses.values()), [*levels, *rpn.parameters()])
        found.append([*proposals, *losses.values(), *gradients])

    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_few_anchors_seen_again_are_those_of_the_whole_map() -> None:
    rpn = make_rpn()
    levels = [level.requires_grad_() for level in pyramid()]
    output = rpn(levels)
    corners = torch.tensor(output.counts).cumsum(0) - 1  # the last of each level, on its border
    rows = torch.cat([torch.randperm(len(output.anchors))[:60], corners, torch.tensor([0])])
    images = torch.arange(len(rows)) % 2
    weights = [*levels, *(rpn.get_parameter(f"{name}.weight") for name in ("conv", "cls", "reg"))]
    weights += [rpn.conv.bias, rpn.cls.bias, rpn.reg.bias]

    logits, deltas = rpn.revisit(levels, output.counts, images, rows)

    plain = output.logits[images, rows], output.deltas[images, rows]
    assert torch.allclose(logits, plain[0], atol=1e-5)
    assert torch.allclose(deltas, plain[1], atol=1e-5)
    found, expected = (
        torch.autograd.grad(one.sin().sum() + other.sin().sum(), weights)
        for one, other in ((logits, deltas), plain)
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


def test_a_level_may_have_none_of_the_anchors_that_are_seen_again() -> None:
    rpn, levels = make_rpn(), pyramid()
    output = rpn(levels)

    logits, deltas = rpn.revisit(levels, output.counts, torch.tensor([0]), torch.tensor([7]))

    assert torch.allclose(logits, output.logits[0, [7]], atol=1e-5)
    assert deltas.shape == (1, 4)

"""Training on objects alone, beside the plain head that trains on all sampled RoIs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.schema import Head as HeadConfig
from dhcli.models.fast import prepare_for_training
from dhcli.models.fast.objects_only import ObjectsHead, why_all
from dhcli.models.norms import norm_layer
from dhcli.models.two_stage.branches import ConvTrunk
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import Target

FC: dict[str, Any] = {"kind": "fc", "width": 32, "lambda": 1.0}
CONV: dict[str, Any] = {"kind": "conv", "width": 64, "residual": 2, "roi_scale": 1.3}
NONE = torch.zeros(0, 4)
SIZES = torch.tensor([[128, 128]] * 2)


def make_head(**conv: Any) -> Head:
    branches = [FC, {**CONV, "lambda": 1.0, **conv}]
    config = HeadConfig.model_validate({"branches": branches, "samples": 16})
    return Head(config, Pool(7, 0, True, (4, 8, 16, 32)), channels=16, classes=3)


@pytest.mark.parametrize("objects", [0, 2])
@pytest.mark.parametrize("norm", ["gn", "bn"])
def test_training_on_objects_alone_changes_nothing(objects: int, norm: str) -> None:
    torch.manual_seed(0)
    plain = make_head(norm=norm, non_local=1).train()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    fast = copy.deepcopy(plain)
    prepare_for_training(fast)
    assert type(fast) is ObjectsHead
    features = [torch.randn(2, 16, 128 // s, 128 // s).requires_grad_() for s in (4, 8, 16, 32)]
    found = torch.tensor([[10.0, 10, 50, 50], [60, 20, 90, 40]])[:objects]
    some = Target(found, torch.tensor([1, 2])[:objects], NONE)
    corner = torch.rand(40, 2) * 80
    boxes = torch.cat([corner, corner + 5 + torch.rand(40, 2) * 40], dim=1)

    def losses_and_gradients(head: Head) -> list[Tensor]:
        torch.manual_seed(0)
        losses = head.losses(features, [boxes, boxes], [some, some], SIZES)
        given = [*features, *head.parameters()]
        total = sum(losses.values())
        return [*losses.values(), *torch.autograd.grad(total, given, materialize_grads=True)]

    assert (why_all(fast.branch("conv")) is None) == (norm == "gn")
    for one, other in zip(losses_and_gradients(fast), losses_and_gradients(plain), strict=True):
        assert torch.allclose(one, other, atol=1e-5 * (1 + other.abs().max().item()))
    for one, other in zip(fast.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_batch_norm_in_training_needs_all_rois() -> None:
    head = make_head(norm="bn").train()
    prepare_for_training(head)
    branch = head.branch("conv")

    assert "batch norm" in str(why_all(branch))
    assert head.notes() == [
        "the branch `conv` trains on all sampled RoIs, not only on objects: its batch norm depends "
        "on the others (norm: gn does not)"
    ]
    assert why_all(branch.eval()) is None
    assert "classifies" in str(why_all(head.branch("fc")))


@pytest.mark.parametrize("residual", [1, 2])
@pytest.mark.parametrize("norm", ["bn", "gn", "frozen_bn"])
def test_rows_that_are_wanted_are_those_of_all(residual: int, norm: str) -> None:
    torch.manual_seed(0)
    trunk = ConvTrunk(8, norm_layer(norm), width=32, residual=residual)
    plain = copy.deepcopy(trunk)
    prepare_for_training(trunk)
    x = torch.randn(9, 8, 7, 7, requires_grad=True)
    rows = torch.tensor([5, 2])

    few, all_of_them = trunk(x, rows), plain(x)[rows]

    assert torch.allclose(few, all_of_them, atol=1e-5)
    found, expected = (
        torch.autograd.grad(out.sin().sum(), [x, *(w for w in of.parameters() if w.requires_grad)])
        for out, of in ((few, trunk), (all_of_them, plain))
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)

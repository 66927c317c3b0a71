"""Depthwise convolutions in training: float32 on a CPU, and the same numbers without autocast."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dhcli.models.backbones.timm_net import SameConv2d
from dhcli.models.fast import make_plain, prepare_for_training
from dhcli.models.fast.depthwise import is_depthwise

KINDS = (nn.Conv2d, SameConv2d)


def network(kind: type[nn.Conv2d]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(kind(3, 8, 1), kind(8, 16, 3, stride=2, groups=8), kind(16, 4, 1))


@pytest.mark.parametrize("kind", KINDS)
def test_without_autocast_it_gives_the_same_numbers_and_gradients(kind: type[nn.Conv2d]) -> None:
    plain, fast = network(kind), network(kind)
    prepare_for_training(fast)
    x = torch.randn(2, 3, 9, 12)

    for net in (plain, fast):
        net(x).square().sum().backward()

    assert torch.equal(plain(x), fast(x))
    for wanted, got in zip(plain.parameters(), fast.parameters(), strict=True):
        assert torch.equal(wanted.grad, got.grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_it_alone_stays_float32(kind: type[nn.Conv2d]) -> None:
    net = network(kind)
    prepare_for_training(net)

    with torch.autocast("cpu", torch.bfloat16):
        first = net[0](torch.randn(2, 3, 9, 12))
        second = net[1](first)
        third = net[2](second)

    assert (first.dtype, second.dtype, third.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.bfloat16,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_made_plain_it_is_of_its_first_class_again(kind: type[nn.Conv2d]) -> None:
    net = network(kind)
    prepare_for_training(net)
    assert type(net[1]) is not kind

    make_plain(net)

    assert [type(layer) for layer in net] == [kind] * 3


def test_a_convolution_of_one_channel_or_of_groups_of_two_is_not_depthwise() -> None:
    assert is_depthwise(nn.Conv2d(4, 8, 3, groups=4))
    assert not is_depthwise(nn.Conv2d(1, 8, 3, groups=1))
    assert not is_depthwise(nn.Conv2d(4, 8, 3, groups=2))

"""Norms taken into convolutions: the numbers, gradients and statistics of one after the other."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from dhcli.models.fast import prepare_for_training
from dhcli.models.fast.norms import conv_norm, take_rows
from dhcli.models.norms import ConvNorms, norm_layer
from dhcli.models.two_stage.branches import BottleneckBlock


def make_pair(kind: str, inputs: int, size: int, bias: bool) -> tuple[nn.Conv2d, nn.Module]:
    conv = nn.Conv2d(inputs, 16, size, stride=2 if size == 3 else 1, padding=size // 2, bias=bias)
    norm = norm_layer(kind)(16)
    for name in ("weight", "bias", "running_mean"):
        if isinstance(getattr(norm, name, None), Tensor):
            nn.init.normal_(getattr(norm, name), mean=0.5, std=0.3)
    return conv, norm


@pytest.mark.parametrize("kind", ["frozen_bn", "eval_bn", "bn", "gn"])
@pytest.mark.parametrize(("inputs", "size"), [(4, 1), (8, 3), (16, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_norm_taken_in_is_the_norm_of_the_convolution(
    kind: str, inputs: int, size: int, bias: bool
) -> None:
    torch.manual_seed(0)
    conv, norm = make_pair(kind, inputs, size, bias)
    plain_conv, plain_norm = copy.deepcopy((conv, norm))
    x = (torch.randn(6, inputs, 7, 7) * 2 + 3).to(memory_format=torch.channels_last)
    x.requires_grad_()
    again = x.detach().clone().requires_grad_()

    y, expected = conv_norm(conv, norm, x), plain_norm(plain_conv(again))

    assert torch.allclose(y, expected, atol=1e-4)
    for out in (y, expected):
        out.sin().sum().backward()
    assert torch.allclose(x.grad, again.grad, atol=1e-4)
    learnt = zip([conv, norm], [plain_conv, plain_norm], strict=True)
    for mine, theirs in learnt:
        for name, weight in mine.named_parameters():
            wanted = theirs.get_parameter(name).grad
            assert torch.allclose(weight.grad, wanted, atol=1e-4 * (1 + wanted.abs().max()))
        for name, value in mine.named_buffers():
            assert torch.allclose(value, theirs.get_buffer(name), atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_statistics_of_a_far_off_mean_keep_their_digits(mean: float) -> None:
    """Beside exact sums, outputs and gradients are no worse than batch norm's own."""
    torch.manual_seed(0)
    pair = make_pair("bn", 8, 1, bias=False)
    x = torch.randn(64, 8, 7, 7) + mean
    exact = outputs_and_gradients(copy.deepcopy(pair), x.double(), plain=True)

    ours, plain = (outputs_and_gradients(copy.deepcopy(pair), x, plain=it) for it in (False, True))

    for mine, theirs, wanted in zip(ours, plain, exact, strict=True):
        errors = [(found - wanted).abs().max() / wanted.abs().max() for found in (mine, theirs)]
        assert errors[0] < 1e-5 + 8 * errors[1]


def outputs_and_gradients(
    pair: tuple[nn.Conv2d, nn.Module], x: Tensor, plain: bool
) -> tuple[Tensor, ...]:
    conv, norm = (layer.to(x.dtype) for layer in pair)
    x = x.clone().requires_grad_()
    y = norm(conv(x)) if plain else conv_norm(conv, norm, x)
    weighted = y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return y, norm.running_var, *torch.autograd.grad(weighted.sum(), [x, conv.weight])


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 3])])
def test_a_branch_keeps_less_and_gives_the_same(rows: Tensor | None) -> None:
    """What lies between two convolutions is made again: equal to the bit, and counted once."""
    torch.manual_seed(0)
    block = BottleneckBlock(32, norm_layer("bn"))
    plain = copy.deepcopy(block)
    prepare_for_training(block)
    x = torch.randn(6, 32, 7, 7).to(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_() for _ in range(2)]

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = block(inputs[0], rows)
    first, norm, relu, conv, second, also, last, third = plain.main
    inner = relu(norm(first(inputs[1])))
    inner = also(second(conv(inner)))
    expected = torch.relu(conv_norm(last, third, inner, rows) + take_rows(inputs[1], rows))

    assert torch.equal(y, expected)
    narrow = {t.untyped_storage().data_ptr() for t in kept if t.shape == inner.shape}
    assert len(narrow) == 2  # what the two convolutions gave, and nothing made of it
    for out in (y, expected):
        out.sin().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)
    for (name, weight), theirs in zip(block.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(weight.grad, theirs.grad), name
    for (name, value), theirs in zip(block.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(value, theirs), name


@pytest.mark.parametrize("kinds", ["cnr", "cn", "cnrcn", "cncn", "c", ""])
def test_layers_between_norms_come_in_one_order(kinds: str) -> None:
    makers = {"c": lambda: nn.Conv2d(4, 4, 1), "n": lambda: nn.BatchNorm2d(4), "r": nn.ReLU}
    layers = [makers[kind]() for kind in kinds]
    if kinds in ("cn", "cnrcn"):
        assert len(ConvNorms(*layers)) == len(kinds)
    else:
        with pytest.raises(ValueError, match="a norm is the last"):
            ConvNorms(*layers)

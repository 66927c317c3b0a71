"""Folded norms: the same numbers from fewer layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dhcli.config.schema import Config
from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.build import build_detector
from dhcli.models.fast.fold import fold_norms
from dhcli.models.norms import FrozenBatchNorm
from dhcli.models.two_stage.branches import ConvTrunk
from dhcli.ops.batch import ImageBatch


def randomise(network: nn.Module) -> None:
    for norm in network.modules():
        if isinstance(norm, FrozenBatchNorm | nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean):
                nn.init.normal_(tensor, mean=0.5, std=0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("norm", ["frozen_bn", "bn"])
@torch.no_grad()
def test_a_folded_backbone_gives_the_same_and_has_no_norm(name: str, norm: str) -> None:
    backbone = ResNetFeatures(name, norm).eval()
    randomise(backbone)
    x = torch.randn(1, 3, 64, 64)
    expected = backbone(x)

    fold_norms(backbone)

    for level, wanted in zip(backbone(x), expected, strict=True):
        assert (level - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert not any(isinstance(m, FrozenBatchNorm | nn.BatchNorm2d) for m in backbone.modules())


@torch.no_grad()
def test_a_folded_branch_gives_the_same() -> None:
    trunk = ConvTrunk(16, nn.BatchNorm2d, width=32, residual=3, non_local=2).eval()
    randomise(trunk)
    x = torch.randn(5, 16, 7, 7)
    expected = trunk(x)

    fold_norms(trunk)

    assert (trunk(x) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in trunk.modules())


@torch.inference_mode()
def test_detections_are_the_same_in_any_memory_format(
    small_config: Callable[..., Config], batch: ImageBatch
) -> None:
    detector = build_detector(small_config(scores="fc"), classes=3).eval()
    before = detector.detect(batch)[0]

    after = detector.to(memory_format=torch.contiguous_format).detect(batch)[0]

    for one, other in zip(before, after, strict=True):
        assert torch.equal(one.labels, other.labels)
        assert torch.allclose(one.scores, other.scores, atol=1e-5)
        assert torch.allclose(one.boxes, other.boxes, atol=1e-3)


class NormWithReLU(nn.BatchNorm2d):
    """A norm that holds its activation, as timm's BatchNormAct2d does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu()


@torch.no_grad()
def test_a_norm_that_does_more_is_left_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), NormWithReLU(4)).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = network(x)

    fold_norms(network)

    assert torch.equal(network(x), expected)
    assert expected.min() == 0

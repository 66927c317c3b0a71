"""The backbone's norms."""

from __future__ import annotations

import torch
from torch import nn

from dhcli.models.backbones.resnet import ResNetFeatures
from dhcli.models.norms import norm_layer


def test_frozen_norms_are_batch_norm_in_eval_mode_without_its_epsilon_if_told() -> None:
    x = torch.randn(2, 8, 5, 5)
    for kind in ("frozen_bn", "eval_bn"):
        for eps in (1e-5, 0.0):
            theirs, ours = nn.BatchNorm2d(8, eps=eps).eval(), norm_layer(kind, eps)(8)
            for part in (theirs.weight, theirs.bias, theirs.running_mean):
                nn.init.normal_(part)
            nn.init.uniform_(theirs.running_var, 1e-5, 1)
            ours.load_state_dict(theirs.state_dict(), strict=False)

            assert torch.allclose(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_eval_bn_learns_scale_and_shift_and_keeps_its_statistics() -> None:
    learned = {name for name, _ in ResNetFeatures("resnet18", "eval_bn", 2).bn1.named_parameters()}
    backbone = ResNetFeatures("resnet18", "eval_bn", frozen_stages=2).train()
    state = {name: x.clone() for name, x in backbone.state_dict().items() if "running" in name}

    sum(level.sum() for level in backbone(torch.randn(1, 3, 64, 64))).backward()

    assert learned == {"weight", "bias"}
    assert backbone.layer4[0].bn1.weight.grad is not None
    assert backbone.layer1[0].bn1.weight.grad is None
    assert all(torch.equal(backbone.state_dict()[name], x) for name, x in state.items())

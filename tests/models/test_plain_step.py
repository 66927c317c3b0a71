"""A whole training step beside the plain transcription of the published detectors.

On the same proposals and in float64. In float32 rounding alone puts proposals of nearly equal
score in other places, and some activations on the other side of a ReLU's corner.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.peers import PlainDetector
from benchmarks.seeded import (
    CLASSES,
    FAMILY,
    PRESETS,
    seeded_config,
    seeded_detector,
    seeded_images,
    seeded_targets,
)
from dhcli.models.fast import prepare_for_training
from dhcli.ops.anchors import level_anchors
from dhcli.ops.batch import Target

SIZE = 64, 96
NARROW = [
    "model.neck.channels=16",
    "model.rpn.proposals_train=100",
    "model.rpn.proposals_test=50",
    "model.head.samples=48",
    "model.head.branches.fc.width=32",
    "model.head.branches.conv.width=64",
]
WITHOUT_EFFECT = ".out.0.bias"
"""A bias before a batch norm: its gradient is nothing but rounding."""


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("row", [row for row in PRESETS if row not in FAMILY])
def test_a_training_step_is_the_plain_transcriptions(
    row: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, images = seeded_config(row, *NARROW), seeded_images(2, *SIZE)
    targets = [Target(t.boxes.double(), t.labels, t.ignore) for t in seeded_targets(2, *SIZE)]
    ours = seeded_detector(config, images)
    shake(ours)
    with torch.no_grad():
        output = ours.rpn(ours.extract(images))
        proposals = ours.rpn.propose(output, images.sizes, training=True)
    monkeypatch.setattr(Tensor, "float", Tensor.double)  # of losses, anchors and RoIs
    ours.double()
    if fast:
        prepare_for_training(ours)
    ours.rpn.cells = level_anchors(config.model.anchors, ours.rpn.strides)
    plain = PlainDetector(config, CLASSES).double()
    plain.load_state_dict(ours.state_dict())
    for part in (ours.rpn, plain):
        monkeypatch.setattr(part, "propose", lambda *_, **__: [box.double() for box in proposals])

    losses = []
    for side in (ours, plain):
        torch.manual_seed(3)  # of the sampling
        losses.append(side.train().losses(images, targets))
        sum(losses[-1].values()).backward()

    check_same(ours, plain, losses)


def check_same(ours: nn.Module, plain: nn.Module, losses: list[dict[str, Tensor]]) -> None:
    """Losses, gradients and running statistics of both sides."""
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert loss.item() == pytest.approx(losses[1][name].item(), rel=1e-11)
    for name, weight in ours.named_parameters():
        theirs = plain.get_parameter(name)
        assert (weight.grad is None) == (theirs.grad is None) == (not weight.requires_grad), name
        if weight.grad is not None:
            largest = theirs.grad.abs().max()
            assert largest > 1e-6 or name.endswith(WITHOUT_EFFECT), name
            assert (weight.grad - theirs.grad).abs().max() < 1e-9 * (largest + 1e-3), name
    for name, value in ours.named_buffers():
        if "running" in name:
            assert torch.allclose(value, plain.get_buffer(name), rtol=1e-9, atol=1e-12), name


def shake(network: nn.Module) -> None:
    """Let no bias be 0 and no scale 1, nor what starts from zero stay there."""
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.02 * torch.randn_like(weight) if weight.dim() < 4 else 0
            if not weight.any():
                nn.init.normal_(weight, std=0.02)

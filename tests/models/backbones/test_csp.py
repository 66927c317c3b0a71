"""YOLOX's backbone: its levels and names, its size, what is fixed, the plain transcription."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dhcli.config.schema import Csp
from dhcli.models.backbones.csp import CspFeatures, Spp
from dhcli.models.fast.fold import fold_norms
from tests.models.fast.test_fold import randomise
from tests.models.keys import names_and_shapes
from tests.references import dense_parts

TINY = Csp(kind="csp", depth=0.33, width=0.125)


def test_its_tensors_are_those_of_mmdetections_file_in_their_order() -> None:
    with torch.device("meta"):
        features = CspFeatures(Csp(kind="csp"))

    own = [(f"backbone.{name}", tuple(x.shape)) for name, x in features.state_dict().items()]
    assert own == names_and_shapes("mmdet_yolox_s", "backbone.")


@pytest.mark.parametrize(
    ("depth", "width", "blocks"), [(1.0, 1.0, [3, 9, 9, 3]), (0.67, 0.75, [2, 6, 6, 2])]
)
def test_depth_and_width_multiply_blocks_and_channels(
    depth: float, width: float, blocks: list[int]
) -> None:
    with torch.device("meta"):
        features = CspFeatures(Csp(kind="csp", depth=depth, width=width))

    layers = [stage[-1] for [stage] in features.stages()[1:]]  # type: ignore[index]
    assert [len(layer.blocks) for layer in layers] == blocks  # type: ignore[arg-type]
    assert features.channels == [int(c * width) for c in (128, 256, 512, 1024)]


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_features_are_those_of_the_plain_transcription(folded: bool) -> None:
    features = CspFeatures(TINY).double().eval()
    randomise(features)
    x = torch.rand(1, 3, 64, 96, dtype=torch.float64) * 255
    expected = dense_parts.csp_darknet(x, features.state_dict())
    if folded:
        fold_norms(features)

    levels = features(x)

    assert [level.shape[-1] for level in levels] == [96 // s for s in features.strides]
    assert [level.shape[1] for level in levels] == features.channels
    for level, wanted in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_the_pooling_sees_5_9_and_13_cells() -> None:
    pooling = Spp(8, nn.BatchNorm2d).eval()
    x = torch.randn(1, 8, 20, 24)

    y = pooling.conv1(x)
    windows = [F.max_pool2d(y, side, 1, side // 2) for side in (5, 9, 13)]
    assert torch.equal(pooling(x), pooling.conv2(torch.cat([y, *windows], 1)))


def test_norms_are_yolox_s() -> None:
    norms = [m for m in CspFeatures(TINY).modules() if isinstance(m, nn.BatchNorm2d)]

    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_depthwise_convolutions_have_a_kernel_per_channel() -> None:
    features = CspFeatures(TINY.model_copy(update={"depthwise": True}))
    convs = [m for m in features.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    stem, *others = convs
    assert stem.groups == 1
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in others)
    assert "stage1.0.depthwise_conv.conv.weight" in features.state_dict()
    assert features(torch.zeros(1, 3, 64, 64))[-1].shape == (1, 128, 2, 2)


def test_the_first_stages_are_fixed() -> None:
    features = CspFeatures(TINY.model_copy(update={"frozen_stages": 2})).train()

    fixed = {n.split(".")[0] for n, p in features.named_parameters() if not p.requires_grad}
    assert fixed == {"stem", "stage1"}
    assert not features.stage1.training
    assert features.stage2.training


def test_weights_are_taken_and_a_missing_one_is_named() -> None:
    ours, theirs = CspFeatures(TINY), CspFeatures(TINY)
    state = theirs.state_dict()

    ours.load_pretrained(state, "here", "")

    assert all(torch.equal(ours.state_dict()[name], tensor) for name, tensor in state.items())
    del state["stem.conv.conv.weight"]
    with pytest.raises(Exception, match=r"missing: stem\.conv\.conv\.weight"):
        ours.load_pretrained(state, "here", "")

"""timm's networks as backbones: they build, learn, are fixed in part, detect and are kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import nn

from dhcli.config.schema import Config
from dhcli.errors import ConfigError
from dhcli.models.backbones.timm_net import SameConv2d, TimmFeatures
from dhcli.models.build import anchors_of, build_detector
from dhcli.ops.batch import ImageBatch, Target
from dhcli.weights.model_file import ModelFile, read_model, save_model

BATCH_NORM = {
    "ResNet-D": "resnet18d",
    "ResNeXt": "resnext26ts",
    "RegNet": "regnety_002",
    "EfficientNet-Lite": "tf_efficientnet_lite0",
    "EfficientNet": "efficientnet_b0",
    "MobileNetV3": "mobilenetv3_small_050",
    "MobileNetV4": "mobilenetv4_conv_small_050",
}
LAYER_NORM = {
    "ConvNeXt": "convnext_atto",
    "Swin": "swin_tiny_patch4_window7_224",
    "PVTv2": "pvt_v2_b0",
    "EdgeNeXt": "edgenext_xx_small",
}
FAMILIES = BATCH_NORM | LAYER_NORM
OUT_OF_ORDER = {"Twins": "twins_pcpvt_small"}
"""All patch embeddings stand before all blocks."""
Make = Callable[..., Config]


@pytest.fixture
def with_timm(small_config: Make) -> Make:
    """A function from timm's name, and settings of the backbone, to a small configuration."""

    def make(name: str, **backbone: Any) -> Config:
        values = small_config().model_dump(mode="json", by_alias=True)
        values["model"]["backbone"] = {"kind": "timm", "name": name, "weights": "none"} | backbone
        return Config.model_validate_json(
            Config.model_validate(values).model_dump_json(by_alias=True)
        )

    return make


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_all_but_its_fixed_parts(
    family: str, with_timm: Make, batch: ImageBatch, targets: list[Target]
) -> None:
    detector = build_detector(with_timm(FAMILIES[family], frozen_stages=2), 3).train()
    fixed = [m for stage in detector.features().stages()[:2] for m in stage]  # type: ignore[union-attr]
    before = {name: x.clone() for name, x in detector.features().named_buffers()}  # type: ignore[union-attr]

    losses = detector.losses(batch, targets)
    sum(losses.values()).backward()  # type: ignore[union-attr]

    assert all(loss.isfinite() for loss in losses.values())
    still = {id(p) for m in fixed for p in m.parameters()}
    assert {id(p) for p in detector.parameters() if not p.requires_grad} == still
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert all(not part.training for m in fixed for part in m.modules())
    after = dict(detector.features().named_buffers())  # type: ignore[union-attr]
    assert all(torch.equal(after[name], x) for name, x in before.items() if "running" in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_file_gives_the_same_detections(
    family: str, with_timm: Make, batch: ImageBatch, tmp_path: Path
) -> None:
    config = with_timm(FAMILIES[family])
    detector = build_detector(config, 3).eval()
    with torch.no_grad():
        [before] = detector.detect(batch)
    classes = ("a", "b", "c")
    save_model(
        tmp_path / "m.safetensors", ModelFile(config, classes, (1, 2, 3), detector.state_dict())
    )

    again = read_model(tmp_path / "m.safetensors")
    other = build_detector(again.config, 3).eval()
    other.load_state_dict(again.state)
    with torch.no_grad():
        [after] = other.detect(batch)

    assert sum(len(one.scores) for one in before) > 0
    for one, two in zip(before, after, strict=True):
        assert torch.equal(one.boxes, two.boxes)
        assert torch.equal(one.scores, two.scores)


@pytest.mark.parametrize("family", [*FAMILIES, "Twins"])
def test_features_are_those_of_the_whole_network_whose_weights_are_loaded(family: str) -> None:
    name = (FAMILIES | OUT_OF_ORDER)[family]
    sizes = {"strict_img_size": False} if family == "Swin" else {}
    whole = timm.create_model(name, **sizes).eval()
    for norm in (m for m in whole.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    ours = TimmFeatures(name).eval()
    ours.load_pretrained(whole.state_dict(), "here", "")
    x = torch.randn(1, 3, 64, 96)

    with torch.no_grad():
        levels, expected = ours(x), whole.forward_intermediates(x, intermediates_only=True)

    assert ours.strides == [4, 8, 16, 32]
    for level, channels, stride in zip(levels, ours.channels, ours.strides, strict=True):
        assert level.shape == (1, channels, 64 // stride, 96 // stride)
    by_stride = {96 // one.shape[-1]: one for one in expected}
    for level, stride in zip(levels, ours.strides, strict=True):
        assert torch.allclose(level, by_stride[stride], atol=1e-4, rtol=1e-4)


def test_eval_bn_learns_scale_and_shift_and_keeps_its_statistics() -> None:
    net = TimmFeatures("resnet18d", "eval_bn").train()
    before = {name: x.clone() for name, x in net.named_buffers() if "running" in name}

    sum(level.sum() for level in net(torch.randn(2, 3, 64, 64))).backward()  # type: ignore[union-attr]

    assert all(p.grad is not None for p in net.parameters())
    assert before
    assert all(torch.equal(dict(net.named_buffers())[name], x) for name, x in before.items())


def test_bn_learns_its_statistics() -> None:
    net = TimmFeatures("resnet18d", "bn").train()
    before = net.net.bn1.running_mean.clone()

    net(torch.randn(2, 3, 64, 64))

    assert not torch.equal(net.net.bn1.running_mean, before)


def test_parts_out_of_order_can_not_be_fixed_alone() -> None:
    with pytest.raises(ConfigError, match=r"frozen_stages: the parts of twins_pcpvt_small"):
        TimmFeatures(OUT_OF_ORDER["Twins"], frozen_stages=1)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet_50d", "timm has no network `resnet_50d`"),
        ("vit_tiny_patch16_224", "has features of strides 16, 16"),
        ("efficientformer_l1", "takes images of one size only"),
        ("nest_tiny", r"takes images of one size only.*Input height \(96\) doesn't match"),
        # timm before 1.0.29 says so itself
        ("crossvit_9_240", "has features of strides 12, 17|timm gives no features of crossvit"),
    ],
)
def test_networks_that_give_no_pyramid_are_one_clear_error(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        TimmFeatures(name)

    assert str(caught.value).startswith("model.backbone.name: ")
    if name == "resnet_50d":
        assert caught.value.hint == "did you mean `resnet50d`?"


@pytest.mark.parametrize(
    ("finest", "coarsest", "strides"),
    [
        (2, 6, [4, 8, 16, 32, 64]),
        (3, 7, [8, 16, 32, 64, 128]),
        (2, 5, [4, 8, 16, 32]),
        (4, 4, [16]),
        (5, 6, [32, 64]),
    ],
)
def test_the_pyramid_has_the_levels_asked_for(
    finest: int, coarsest: int, strides: list[int], with_timm: Make, batch: ImageBatch
) -> None:
    values = with_timm("mobilenetv3_small_050").model_dump(mode="json", by_alias=True)
    values["model"]["neck"] |= {"finest": finest, "coarsest": coarsest}
    values["model"]["anchors"]["sizes"] = [4 * stride for stride in strides]
    config = Config.model_validate_json(json.dumps(values))

    with torch.no_grad():
        [found] = build_detector(config, 3).eval().detect(batch)

    assert [stride for stride, _ in anchors_of(config)] == strides
    assert sum(len(one.scores) for one in found) > 0


@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (3, 1), (7, 4)])
def test_same_padding_is_timms_for_every_size(kernel: int, stride: int) -> None:
    theirs = Conv2dSame(4, 4, kernel, stride, groups=2)
    ours = SameConv2d(4, 4, kernel, stride, groups=2)
    ours.load_state_dict(theirs.state_dict())

    for height, width in ((64, 32), (33, 65), (7, 10)):
        x = torch.randn(1, 4, height, width)
        assert torch.equal(ours(x), theirs(x))


def test_a_network_of_timm_has_our_same_padding() -> None:
    kinds = {type(m) for m in TimmFeatures("tf_efficientnet_lite0").modules()}

    assert SameConv2d in kinds
    assert Conv2dSame not in kinds

"""The necks: names of other programs' files, plain transcriptions, what does not fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import Config, Csp, Dilated, LevelNeck, PathPyramid, Pyramid
from dhcli.errors import ConfigError
from dhcli.models.build import anchors_of, build_detector, build_levels
from dhcli.models.contract import Features
from dhcli.models.fast.fold import fold_norms
from dhcli.ops.batch import ImageBatch, Target
from tests.models.fast.test_fold import randomise
from tests.models.keys import names_and_shapes
from tests.references import dense_parts


class Bare(Features):
    """A backbone of which only the shapes of its features are asked."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int] = (4, 8, 16, 32)) -> None:
        super().__init__()
        self.name, self.channels, self.strides = "bare", list(channels), list(strides)


def features(*channels: int) -> list[Tensor]:
    """Of an image of 64 × 96 pixels, the finest of stride 4."""
    sizes = [(16 >> k, 24 >> k) for k in range(len(channels))]
    return [torch.randn(1, c, *size).double() for c, size in zip(channels, sizes, strict=True)]


def names_of(neck: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"neck.{name}", tuple(x.shape)) for name, x in neck.state_dict().items()]


def test_the_tensors_of_yolofs_encoder_are_those_of_mmdetections_file() -> None:
    with torch.device("meta"):
        neck, used = build_levels(Bare((256, 512, 1024, 2048)), Dilated(kind="dilated"))

    assert names_of(neck) == names_and_shapes("mmdet_yolof_r50", "neck.")
    assert (neck.channels, neck.strides, used) == (512, [32], [32])


def test_the_tensors_of_yoloxs_neck_are_those_of_mmdetections_file() -> None:
    with torch.device("meta"):
        neck, used = build_levels(Bare((64, 128, 256, 512)), PathPyramid(kind="pafpn"))

    assert names_of(neck) == names_and_shapes("mmdet_yolox_s", "neck.")
    assert (neck.channels, neck.strides, used) == (128, [8, 16, 32], [8, 16, 32])


@pytest.mark.parametrize(("extra", "relu"), [("on_input", False), ("on_output", True)])
def test_levels_beyond_the_backbone_are_convolutions(extra: str, relu: bool) -> None:
    config = Pyramid(finest=3, coarsest=7, channels=8, extra=extra, extra_relu=relu)  # type: ignore[arg-type]
    neck, used = build_levels(Bare((4, 6, 6, 10)), config)
    maps = features(4, 6, 6, 10)

    levels = neck.double()(maps)

    assert (neck.strides, used) == ([8, 16, 32, 64, 128], [8, 16, 32])
    sixth, seventh = neck.further
    before = maps[-1] if extra == "on_input" else levels[2]
    torch.testing.assert_close(levels[3], sixth(before))
    torch.testing.assert_close(levels[4], seventh(levels[3].relu() if relu else levels[3]))


def test_a_pyramid_of_one_level_is_a_1x1_and_a_3x3() -> None:
    with torch.device("meta"):
        config = Pyramid(finest=5, coarsest=5, channels=128)
        neck, used = build_levels(Bare((64, 128, 320, 512)), config)

    theirs = {"lateral": "lateral_convs", "output": "fpn_convs"}
    own = names_of(neck)
    renamed = [
        (f"neck.{theirs[kind]}.{number}.conv.{part}", shape)
        for (_, kind, number, part), shape in ((n.split("."), shape) for n, shape in own)
    ]
    assert renamed == names_and_shapes("mmdet_yolof_pvt_tiny_3classes", "neck.")
    assert (neck.strides, list(used)) == ([32], [32])


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_yolofs_encoder_is_the_plain_transcription(folded: bool) -> None:
    config = Dilated(kind="dilated", channels=24, width=8)
    neck, _ = build_levels(Bare((4, 4, 4, 16)), config)
    neck.double().eval()
    randomise(neck)
    given = [*features(4, 4, 4), torch.randn(1, 16, 9, 20).double()]
    expected = dense_parts.dilated_encoder(given[-1], neck.state_dict())
    if folded:
        fold_norms(neck)

    [level] = neck(given)

    torch.testing.assert_close(level, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("folded", [False, True])
@torch.no_grad()
def test_yoloxs_neck_is_the_plain_transcription(folded: bool) -> None:
    config = PathPyramid(kind="pafpn", channels=12, blocks=2)
    neck, _ = build_levels(Bare((4, 8, 16, 32)), config)
    neck.double().eval()
    randomise(neck)
    given = features(4, 8, 16, 32)
    given[-1] = torch.randn(1, 32, 2, 3).double()
    expected = dense_parts.pafpn(given[1:], neck.state_dict())
    if folded:
        fold_norms(neck)

    levels = neck(given)

    for level, wanted in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_one_level_is_made_of_the_coarsest_features_alone() -> None:
    neck, _ = build_levels(Bare((4, 4, 4, 16)), Pyramid(finest=5, coarsest=5, channels=8))
    given = [torch.full((1, 4, 2, 2), torch.nan)] * 3 + [torch.randn(1, 16, 2, 3)]

    [level] = neck(given)

    lateral = F.conv2d(given[-1], neck.lateral[0].weight, neck.lateral[0].bias)
    wanted = F.conv2d(lateral, neck.output[0].weight, neck.output[0].bias, padding=1)
    torch.testing.assert_close(level, wanted)


def test_yoloxs_neck_may_have_depthwise_convolutions_and_any_depth() -> None:
    config = PathPyramid(kind="pafpn", channels=8, blocks=2, depthwise=True)
    neck, _ = build_levels(Bare((4, 8, 16, 32)), config)

    assert all(len(layer.blocks) == 2 for layer in neck.top_down_blocks)
    assert neck.downsamples[0].depthwise_conv.conv.groups == 8
    norms = [m for m in neck.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


@pytest.mark.parametrize(
    ("config", "strides", "said"),
    [
        (Dilated(kind="dilated"), (4, 8, 16), "takes features of strides 32, but .* 4, 8, 16"),
        (PathPyramid(kind="pafpn"), (16, 32), "takes features of strides 8, 16, 32, but .* 16, 32"),
        (Pyramid(finest=5, coarsest=5), (4, 8), "starts at stride 32, but .* strides 4, 8"),
    ],
)
def test_a_backbone_without_the_features_is_one_clear_error(
    config: LevelNeck, strides: tuple[int, ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build_levels(Bare([8] * len(strides), strides), config)


@pytest.mark.parametrize(
    ("neck", "sizes"),
    [
        ({"kind": "dilated", "channels": 32, "width": 8}, [128]),
        ({"kind": "pafpn", "channels": 32}, [32, 64, 128]),
        ({"finest": 5, "coarsest": 5, "channels": 32}, [128]),
    ],
)
def test_a_double_head_learns_and_detects_on_any_of_them(
    neck: dict[str, Any],
    sizes: list[int],
    small_config: Callable[..., Config],
    batch: ImageBatch,
    targets: list[Target],
) -> None:
    values = small_config().model_dump(by_alias=True)
    csp = Csp(kind="csp", width=0.125).model_dump()
    values["model"] |= {"neck": neck, "backbone": csp}
    values["model"]["anchors"]["sizes"] = sizes
    config = Config.model_validate(values)
    detector = build_detector(config, classes=3)

    sum(detector.losses(batch, targets).values()).backward()  # type: ignore[union-attr]

    assert [stride for stride, _ in anchors_of(config)] == config.model.neck.strides()  # type: ignore[union-attr]
    learning = [p for p in detector.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    assert len(detector.eval().detect(batch)[0]) == len(batch)

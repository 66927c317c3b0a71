"""PVT: its levels and names, the published file, the plain transcription, a step of training."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.schema import Config, Pvt
from dhcli.models.backbones.pvt import PvtFeatures
from dhcli.models.build import build_detector
from dhcli.ops.batch import ImageBatch, Target
from dhcli.weights.pretrained import load_backbone
from tests.models.keys import names_and_shapes
from tests.references import dense_parts

NARROW: dict[str, Any] = {"widths": (8, 16, 20, 32), "sides": (8, 4, 3, 2)}


def narrow(**settings: Any) -> PvtFeatures:
    return PvtFeatures("pvt_tiny", **{**NARROW, **settings})


def published(features: PvtFeatures) -> dict[str, Tensor]:
    """Its weights under the names of the published file, with what is in there beside."""
    theirs: dict[str, Tensor] = {}
    for name, tensor in features.state_dict().items():
        stage, rest = re.fullmatch(r"layers\.(\d)\.(.+)", name).groups()  # type: ignore[union-attr]
        number = int(stage) + 1
        if rest.startswith("0."):
            part = rest.removeprefix("0.").replace("projection", "proj")
            theirs[f"patch_embed{number}.{part}"] = tensor
            continue
        layer, part = re.fullmatch(r"1\.(\d+)\.(.+)", rest).groups()  # type: ignore[union-attr]
        block = f"block{number}.{int(layer) - 1}"
        if part == "pos_embed":
            token = torch.full_like(tensor[:, :1], 9)
            theirs[f"pos_embed{number}"] = torch.cat([token, tensor], 1) if number == 4 else tensor
        elif "in_proj_" in part:
            end, width = part.rpartition("_")[2], len(tensor) // 3
            theirs[f"{block}.attn.q.{end}"] = tensor[:width]
            theirs[f"{block}.attn.kv.{end}"] = tensor[width:]
        elif part.startswith("ffn"):
            part = part.replace("ffn.layers.0", "mlp.fc1").replace("ffn.layers.3", "mlp.fc2")
            theirs[f"{block}.{part}"] = tensor[:, :, 0, 0] if tensor.ndim == 4 else tensor
        else:
            theirs[f"{block}.{part.replace('attn.attn.out_proj', 'attn.proj')}"] = tensor
    width = features.channels[-1]
    theirs["cls_token"] = torch.zeros(1, 1, width)
    theirs |= {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    return theirs | {"head.weight": torch.zeros(1000, width), "head.bias": torch.zeros(1000)}


def test_its_tensors_are_those_of_mmdetections_file_in_their_order() -> None:
    with torch.device("meta"):
        features = PvtFeatures.of(Pvt(kind="pvt"))

    own = [(f"backbone.{name}", tuple(x.shape)) for name, x in features.state_dict().items()]
    assert own == names_and_shapes("mmdet_yolof_pvt_tiny_3classes", "backbone.")


def test_the_larger_ones_have_more_layers() -> None:
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in PvtFeatures(name).parameters())
            for name in ("pvt_tiny", "pvt_small", "pvt_large")
        ]

    # The paper's, in millions, are with the classifier
    head = 512 * 1000 + 1000
    assert [round((size + head) / 1e6, 1) for size in sizes] == [13.2, 24.5, 61.4]


@torch.no_grad()
def test_features_are_those_of_the_plain_transcription() -> None:
    features = narrow().double().eval()
    for parameter in features.parameters():
        parameter.normal_(std=0.3)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)

    levels = features(x)

    expected = dense_parts.pvt(x, features.state_dict())
    assert [level.shape[-1] for level in levels] == [24, 12, 6, 3]
    for level, wanted in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-9, atol=1e-9)


def test_the_published_file_is_read(tmp_path: Path) -> None:
    ours, theirs = PvtFeatures("pvt_tiny", **NARROW), PvtFeatures("pvt_tiny", **NARROW)
    path = tmp_path / "pvt_tiny.pth"
    torch.save(published(theirs), path)

    said = load_backbone(ours, Pvt(kind="pvt", weights=str(path)))

    assert said == str(path)
    loaded, saved = ours.state_dict(), theirs.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())


def test_a_file_of_another_size_is_one_error_that_names_the_setting(tmp_path: Path) -> None:
    state = published(PvtFeatures("pvt_small", **NARROW))
    torch.save(state, tmp_path / "pvt_small.pth")
    config = Pvt(kind="pvt", weights=str(tmp_path / "pvt_small.pth"))

    with pytest.raises(Exception, match=r"unknown: layers\.0\.1\.3\.norm1\.weight") as caught:
        load_backbone(narrow(), config)

    hint = getattr(caught.value, "hint", None)
    assert hint == ("the backbone is pvt_tiny: `--set model.backbone.name=…` chooses another")


def test_a_sublayer_is_left_out_in_training_only() -> None:
    features = narrow(drop_path=0.9)
    x = torch.randn(4, 3, 32, 32)

    assert torch.equal(features.eval()(x)[-1], features(x)[-1])
    assert not torch.equal(features.train()(x)[-1], features(x)[-1])


def test_the_first_stages_are_fixed() -> None:
    features = narrow(frozen_stages=2)

    fixed = {n[:10] for n, p in features.named_parameters() if not p.requires_grad}
    assert fixed == {"layers.0.0", "layers.0.1"}


def test_a_detector_learns_and_detects_with_it(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    values = small_config().model_dump(by_alias=True)
    values["model"]["backbone"] = {"kind": "pvt", "weights": "none"}
    detector = build_detector(Config.model_validate(values), classes=3)

    sum(detector.losses(batch, targets).values()).backward()  # type: ignore[union-attr]

    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert len(detector.eval().detect(batch)[0]) == len(batch)

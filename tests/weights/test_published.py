"""`torchvision:NAME`: torchvision's published weights, drawn here and laid into its cache."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model, get_model_weights

from dhcli.config.load import load_config
from dhcli.errors import ModelError
from dhcli.models.build import build_detector
from dhcli.ops.batch import ImageBatch
from dhcli.runtime.eager import restore_detector
from dhcli.weights.open import read_weights
from dhcli.weights.pretrained import load_backbone
from dhcli.weights.published import read_published

SIDES = {"retinanet_resnet50_fpn_v2": 64, "fcos_resnet50_fpn": 64}
NAMES = ["fasterrcnn_mobilenet_v3_large_320_fpn", *SIDES, "ssdlite320_mobilenet_v3_large"]
EMPTY = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
"""Background, and the ids of COCO's that name nothing."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], Path]:
    """A function that puts a state dict where torchvision's file of that name is cached."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def put(name: str, state: Any) -> Path:
        url = get_model_weights(name)["COCO_V1"].url
        path = tmp_path / "hub/checkpoints" / url.rpartition("/")[2]
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        return path

    return put


def drawn(name: str) -> Any:
    """torchvision's network of 91 rows, which has learned that ten of them never occur."""
    torch.manual_seed(0)
    sizes = {"min_size": SIDES[name], "max_size": SIDES[name]} if name in SIDES else {}
    low = {} if name.startswith("faster") else {"score_thresh": 0.02}
    network = get_model(name, weights=None, weights_backbone=None, **sizes, **low)
    for key, weight in network.named_parameters():
        if "cls_score" in key or "classification_head" in key:
            weight.data += 0.02 * torch.randn_like(weight)
        if weight.ndim == 1 and weight.numel() % 91 == 0 and "bbox" not in key:
            empty = EMPTY[1:] if name.startswith(("faster", "ssd")) else EMPTY
            weight.data.unflatten(0, (-1, 91))[:, empty] = -100
            weight.data.unflatten(0, (-1, 91))[:, [3, 17, 90]] += 3
    return network.eval()


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and a cache of torch.hub in `tmp_path`, empty."""

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.mark.parametrize("name", NAMES)
def test_a_published_detector_finds_what_torchvision_finds_under_the_names_of_coco(
    name: str, cache: Callable[[str, Any], Path]
) -> None:
    network = drawn(name)
    cache(name, network.state_dict())
    model = read_weights(Path(f"torchvision:{name}"))
    detector = restore_detector(model, torch.device("cpu"))
    detector.rule = detector.rule.model_copy(  # type: ignore[union-attr]
        update={"score_threshold": 0.05 if name.startswith("faster") else 0.02}
    )
    side = SIDES.get(name, 320)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8)
    size = torch.tensor([[side, side]])

    with torch.no_grad():
        [[found]] = detector.detect(ImageBatch(image[None], size, size))
        [expected] = network([image / 255])

    names = get_model_weights(name)["COCO_V1"].meta["categories"]
    assert len(model.classes) == 80
    assert "N/A" not in model.classes
    assert [names[i] for i in model.category_ids] == list(model.classes)
    assert len(found) == len(expected["scores"]) > 3
    assert [model.classes[i] for i in found.labels] == [names[i] for i in expected["labels"]]
    torch.testing.assert_close(found.scores, expected["scores"], rtol=0, atol=1e-4)
    torch.testing.assert_close(found.boxes, expected["boxes"], rtol=0, atol=0.05)


def test_the_first_file_has_older_names_and_no_epsilon(cache: Callable[[str, Any], Path]) -> None:
    name = "fasterrcnn_resnet50_fpn"
    state = get_model(name, weights=None, weights_backbone=None).state_dict()
    old = {
        re.sub(r"((inner|layer)_blocks\.\d)\.0|(rpn\.head\.conv)\.0\.0", r"\1\3", key): tensor
        for key, tensor in state.items()
        if not key.endswith("num_batches_tracked")
    }
    assert "backbone.fpn.inner_blocks.2.weight" in old
    assert "rpn.head.conv.bias" in old
    cache(name, old)

    model = read_published(Path(f"torchvision:{name}"))

    assert torch.equal(
        model.state["backbone.fpn.inner_blocks.2.0.weight"],
        state["backbone.fpn.inner_blocks.2.0.weight"],
    )
    assert torch.equal(model.state["rpn.head.conv.0.0.bias"], state["rpn.head.conv.0.0.bias"])
    assert model.config.model.backbone.bn_epsilon == 0


def test_a_file_of_another_network_is_named(cache: Callable[[str, Any], Path]) -> None:
    path = cache("fcos_resnet50_fpn", {"x": torch.zeros(1)})

    with pytest.raises(ModelError, match="does not fit the network") as caught:
        read_published(Path("torchvision:fcos_resnet50_fpn"))

    assert str(path) in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_without_a_net_the_place_in_the_cache_is_named(
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelError, match="could not be fetched") as caught:
        read_published(Path("torchvision:fcos_resnet50_fpn"))

    file = "fcos_resnet50_fpn_coco-99b0c9b7.pth"
    assert str(tmp_path / "hub/checkpoints" / file) in str(caught.value)
    assert str(caught.value.hint) == f"copy {file} there from a machine with a network"


def test_an_unknown_name_has_a_nearest_one() -> None:
    with pytest.raises(ModelError, match="not a detector of torchvision's") as caught:
        read_published(Path("torchvision:fcos_resnet50"))

    assert "`fcos_resnet50_fpn`" in str(caught.value.hint)


@pytest.mark.usefixtures("offline")
def test_a_backbone_starts_from_imagenet_or_says_what_does_without(
    tmp_path: Path,
) -> None:
    names = ["model.kind=torchvision", "model.name=fasterrcnn_mobilenet_v3_large_320_fpn"]
    config = load_config(overrides=names).config
    features: Any = build_detector(config, 2).features()

    with pytest.raises(ModelError, match="the ImageNet weights of mobilenet_v3_large") as caught:
        load_backbone(features, config.model.backbone)
    assert "model.backbone.norm=bn" in str(caught.value.hint)

    state = get_model("mobilenet_v3_large", weights=None).state_dict()
    path = tmp_path / "hub/checkpoints/mobilenet_v3_large-8738ca79.pth"
    torch.save(state, path)
    assert load_backbone(features, config.model.backbone) == f"ImageNet, {path}"
    assert torch.equal(features.body["0"][0].weight, state["features.0.0.weight"])

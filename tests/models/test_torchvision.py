"""torchvision's detectors behind the contract, beside torchvision's own forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models._api import WeightsEnum

from dhcli.config.detecting import DetectOptions
from dhcli.config.load import load_config
from dhcli.config.schema import FACTS, Config
from dhcli.models.build import build_detector
from dhcli.models.torchvision import TorchVisionDetector
from dhcli.ops.batch import ImageBatch, Target
from dhcli.weights.model_file import ModelFile
from dhcli.weights.transfer import transfer

V2 = "fasterrcnn_resnet50_fpn_v2"
KINDS = [
    pytest.param(V2, marks=pytest.mark.slow),
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "retinanet_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "ssdlite320_mobilenet_v3_large",
    pytest.param("ssd300_vgg16", marks=pytest.mark.slow),
]
"""One of each kind of head, pyramid and backbone; two are large."""
CLASSES = 3
SIDES = {"ssd300_vgg16": 300, "ssdlite320_mobilenet_v3_large": 320}


def configured(name: str, *settings: str) -> Config:
    free = ["model.backbone.norm=bn", "model.backbone.frozen_stages=0"]
    named = ["model.kind=torchvision", f"model.name={name}"]
    return load_config(overrides=[*named, *free, *settings]).config


def theirs(name: str, classes: int = CLASSES, **settings: Any) -> Any:
    """torchvision's own network, which resizes nothing, with drawn weights."""
    torch.manual_seed(0)
    sizes = {} if name in SIDES else {"min_size": 96, "max_size": 160}
    background = 0 if name.startswith(("retinanet", "fcos")) else 1
    network = get_model(
        name,
        weights=None,
        weights_backbone=None,
        num_classes=classes + background,
        **sizes,
        **settings,
    )
    for part, weight in network.named_parameters():
        if "cls" in part or "classification_head" in part:
            weight.data += 0.02 * torch.randn_like(weight)
        if part.endswith("bn3.weight"):
            weight.data *= 0.2  # else what rounding changes would grow from block to block
    return propose_few(network)


def propose_few(network: Any) -> Any:
    """`network`, with a twentieth of its proposals: a head of RoIs takes long."""
    if hasattr(network, "rpn"):
        network.rpn._post_nms_top_n.update(training=50, testing=50)
    return network


def ours(name: str, network: nn.Module, *settings: str) -> TorchVisionDetector:
    detector = build_detector(configured(name, *settings), CLASSES)
    assert isinstance(detector, TorchVisionDetector)
    detector.load_state_dict(network.state_dict())
    network.to(memory_format=torch.channels_last)
    if hasattr(network, "transform"):  # pixels scaled alike to the last bit, from 0 … 255
        mean, std = detector.pixels.mean.flatten(), detector.pixels.std.flatten()
        network.transform.image_mean, network.transform.image_std = mean, std
    propose_few(detector)
    return detector


def batch_of(name: str) -> tuple[ImageBatch, list[Tensor]]:
    """Two images as we prepare them, and as torchvision takes them but for their scale."""
    side = SIDES.get(name)
    sizes = [(side, side)] * 2 if side else [(96, 128), (160, 96)]
    torch.manual_seed(1)
    images = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes]
    height, width = (max(of) for of in zip(*sizes, strict=True))
    pixels = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    shapes = torch.tensor(sizes)
    return ImageBatch(pixels, shapes, shapes * torch.tensor([2, 3])), [x.float() for x in images]


def objects() -> list[Target]:
    boxes = torch.tensor([[8.0, 10, 60, 70], [30, 5, 90, 80]])
    return [
        Target(boxes, torch.tensor([2, 0]), torch.zeros(0, 4)),
        Target(boxes[:1] + 5, torch.tensor([1]), torch.zeros(0, 4)),
    ]


@pytest.mark.parametrize("name", KINDS)
def test_it_detects_what_torchvision_itself_detects(name: str) -> None:
    lowest = 0.011 if name.startswith("retinanet") else 0.05
    kind = "box_score_thresh" if name.startswith("faster") else "score_thresh"
    network = theirs(name, **{kind: lowest}).eval()
    detector = ours(name, network, f"model.detect.score_threshold={lowest}")
    images, plain = batch_of(name)

    with torch.no_grad():
        expected = network(plain)
        detector.train()
        for norm in detector.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.eval()
        [found] = detector.detect(images)

    assert [len(one) for one in found] == [len(one["scores"]) for one in expected]
    assert len(found[0]) > 5
    for one, own in zip(found, expected, strict=True):
        scale = torch.tensor([3.0, 2, 3, 2])
        torch.testing.assert_close(one.boxes, own["boxes"] * scale, rtol=0, atol=1e-4)
        torch.testing.assert_close(one.scores, own["scores"], rtol=0, atol=1e-4)
        assert torch.equal(one.labels + detector.first, own["labels"])


@pytest.mark.parametrize("name", KINDS)
def test_it_learns_by_the_losses_of_torchvision_whatever_mode_it_is_in(name: str) -> None:
    network = theirs(name)
    detector = ours(name, network).eval()
    images, plain = batch_of(name)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    wanted = [{"boxes": one.boxes, "labels": one.labels + detector.first} for one in objects()]

    network.transform._skip_resize = True  # which would draw a size from the generator
    torch.manual_seed(3)
    expected = network(plain, wanted)
    torch.manual_seed(3)
    losses = detector.losses(images, objects())

    assert sorted(losses) == sorted(f"loss_{key.removeprefix('loss_')}" for key in expected)
    torch.testing.assert_close(sum(losses.values()), sum(expected.values()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_takes_part_where_there_is_no_object_or_one_without_area(name: str) -> None:
    detector = ours(name, theirs(name))
    images, _ = batch_of(name)
    flat = Target(torch.tensor([[5.0, 5, 5, 40]]), torch.tensor([1]), torch.zeros(0, 4))
    none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))

    losses = detector.losses(images, [flat, none])
    torch.stack(list(losses.values())).sum().backward()

    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert [key for key, weight in detector.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", KINDS[1:5:3])
def test_options_are_heard_and_forgotten(name: str) -> None:
    detector = ours(name, theirs(name), "model.detect.score_threshold=0.05").eval()
    images, _ = batch_of(name)

    with torch.no_grad():
        [before] = detector.detect(images)
        [few] = detector.detect(images, DetectOptions(most=3))
        least = float(before[0].scores[4])
        [best] = detector.detect(images, DetectOptions(threshold=least))
        [apart] = detector.detect(images, DetectOptions(nms_threshold=0.05))
        [after] = detector.detect(images)

    assert len(few[0]) == 3
    assert bool((best[0].scores > least).all())
    assert len(apart[0]) < len(before[0])
    assert torch.equal(before[0].boxes, after[0].boxes)


@pytest.mark.parametrize("name", KINDS[2:])
def test_classes_take_their_rows_of_every_anchor_along(name: str) -> None:
    old = ours(name, theirs(name))
    source = ModelFile(configured(name), ("a", "b", "c"), (1, 2, 3), old.state_dict())
    new = build_detector(configured(name), 2)
    fresh = {key: tensor.clone() for key, tensor in new.state_dict().items()}

    state, copied = transfer(source, new, ("c", "new"), {})

    assert copied.fresh == ()
    key = next(key for key in new.predictors() if key.endswith("weight"))
    first = old.first
    before, after, drawn = (
        x.unflatten(0, (-1, count + first))
        for x, count in ((source.state[key], 3), (state[key], 2), (fresh[key], 2))
    )
    assert torch.equal(after[:, first], before[:, first + 2])
    assert torch.equal(after[:, first + 1], drawn[:, first + 1])
    assert torch.equal(after[:, :first], before[:, :first])


def test_a_class_takes_its_four_rows_of_the_box_regression_along() -> None:
    old = ours(V2, theirs(V2))
    source = ModelFile(configured(V2), ("a", "b", "c"), (1, 2, 3), old.state_dict())

    state, _ = transfer(source, build_detector(configured(V2), 1), ("c",), {})

    key = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(state[key], source.state[key][[0, 1, 2, 3, 12, 13, 14, 15]])


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"])
@pytest.mark.parametrize("frozen", [0, 1, 3, 5])
def test_it_starts_from_a_classifier_and_freezes_as_torchvision_does(
    name: str, frozen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = get_model("resnet50" if "resnet" in name else "mobilenet_v3_large", weights=None)
    state = classifier.state_dict()
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: state)
    stages = 5 if "resnet" in name else 6
    expected = get_model(
        name,
        weights=None,
        weights_backbone="DEFAULT",
        trainable_backbone_layers=stages - frozen,
        num_classes=4,
    )
    settings = ["model.backbone.norm=frozen_bn", f"model.backbone.frozen_stages={frozen}"]
    detector = build_detector(configured(name, *settings), 3)

    features = detector.features()
    assert features is not None
    features.load_pretrained(state, "drawn", "")

    own = dict(features.named_parameters())
    theirs = {key: x for key, x in expected.backbone.named_parameters() if x.requires_grad}
    assert [key for key, x in own.items() if x.requires_grad] == list(theirs)
    body = expected.backbone.body.state_dict()
    assert all(torch.equal(x, features.state_dict()[f"body.{key}"]) for key, x in body.items())


def test_ssd_takes_the_convolutions_of_vgg_in_their_order() -> None:
    detector = build_detector(configured("ssd300_vgg16", "model.backbone.frozen_stages=4"), 2)
    features: Any = detector.features()
    state = {
        f"features.{key}": x + 1 for key, x in nn.ModuleDict(features.layers()).state_dict().items()
    }

    features.load_pretrained(state | {"classifier.0.weight": torch.zeros(1)}, "drawn", "")

    assert len(state) == 26
    assert torch.equal(features.features[0].weight, state["features.0.weight"])
    assert torch.equal(features.extra[0][5].bias, state["features.28.bias"])
    learning = {key for key, x in features.named_parameters() if x.requires_grad}
    assert "features.21.weight" not in learning
    assert "extra.0.1.weight" in learning


@pytest.mark.parametrize("name", sorted(FACTS))
def test_its_name_brings_what_torchvision_builds_it_with(name: str) -> None:
    network = get_model(name, weights=None, weights_backbone=None, num_classes=2)
    selects = network.roi_heads if hasattr(network, "roi_heads") else network
    config = load_config(overrides=["model.kind=torchvision", f"model.name={name}"]).config
    transform, detect, pixels = network.transform, config.model.detect, config.input

    own = (detect.score_threshold, detect.nms_threshold, detect.max_detections)
    assert own == (selects.score_thresh, selects.nms_thresh, selects.detections_per_img)
    assert (pixels.min_size, pixels.max_size) == (transform.min_size[0], transform.max_size)
    assert pixels.mean == pytest.approx([255 * value for value in transform.image_mean])
    assert pixels.std == pytest.approx([255 * value for value in transform.image_std])
    assert pixels.divisor == transform.size_divisible
    assert (pixels.resize == "square") == (transform.fixed_size is not None)


def test_half_precision_leaves_anchors_and_boxes_in_float32() -> None:
    name = "retinanet_resnet50_fpn_v2"
    detector = ours(name, theirs(name), "model.detect.score_threshold=0.011").eval()
    images, _ = batch_of(name)
    for part in detector.parts().values():
        part.to(torch.bfloat16)

    with torch.no_grad():
        [found] = detector.detect(images)

    assert found[0].boxes.dtype == found[0].scores.dtype == torch.float32
    assert bool((found[0].boxes != found[0].boxes.bfloat16()).any())

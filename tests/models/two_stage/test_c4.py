"""Faster R-CNN on C4: its parts against torchvision's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align

from dhcli.config.schema import Config
from dhcli.export.graph import DetectorGraph
from dhcli.models.build import build_detector
from dhcli.models.two_stage.detector import TwoStageDetector
from dhcli.ops.batch import ImageBatch
from dhcli.weights.pretrained import load_backbone

RES5 = {"kind": "res5", "lambda": 0.5, "omega": 2.0}


def c4_config(**backbone: Any) -> Config:
    model = {
        "backbone": {"name": "resnet18", "norm": "bn", **backbone},
        "neck": {"kind": "none"},
        "rpn": {"pre_nms_train": 50, "proposals_train": 20, "proposals_test": 20},
        "pool": {"size": 14, "sampling_ratio": 2, "aligned": False},
        "head": {"branches": [RES5], "samples": 8},
        "detect": {"score_threshold": 0.0},
    }
    return Config.model_validate({"input": {"min_size": 64, "max_size": 96}, "model": model})


def c4(**backbone: Any) -> TwoStageDetector:
    return build_detector(c4_config(**backbone), classes=3).eval()


def test_the_parts_are_those_of_a_whole_resnet(tmp_path: Any) -> None:
    whole = resnet18().eval()
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    detector = c4()
    config = c4_config(weights=str(tmp_path / "w.pth")).model.backbone

    load_backbone(detector.features(), config)

    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        stem = whole.maxpool(whole.relu(whole.bn1(whole.conv1(x))))
        c4_features = whole.layer3(whole.layer2(whole.layer1(stem)))
        [levels] = detector.neck(detector.backbone(x))
        torch.testing.assert_close(levels, c4_features)
        boxes, owner = torch.tensor([[3.0, 5, 60, 40], [10, 10, 90, 62]]), torch.zeros(2).long()
        output = detector.head.run("res5", [levels], boxes, owner)
        rois = torch.cat([owner[:, None].float(), boxes], 1)
        pooled = roi_align(c4_features, rois, 14, 1 / 16, 2, False)
        vector = whole.layer4(pooled).mean((2, 3))
        torch.testing.assert_close(output.logits, detector.head.branch("res5").cls(vector))
        assert whole.layer4(pooled).shape[-1] == 7  # the stage keeps its stride of 2


def test_every_cell_has_five_sizes_of_three_ratios() -> None:
    rpn = c4().rpn
    theirs = AnchorGenerator(((32, 64, 128, 256, 512),), ((0.5, 1.0, 2.0),))
    features = torch.zeros(1, 256, 4, 6)
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])

    anchors = rpn([features]).anchors

    assert rpn.cls.out_channels == 15
    torch.testing.assert_close(anchors.round(), theirs(images, [features])[0], atol=1, rtol=0)


def test_the_wide_rpn_and_head_of_a_bottleneck_network() -> None:
    with torch.device("meta"):
        detector = c4(name="resnet50")

    trunk = detector.head.branch("res5").trunk
    assert detector.rpn.conv.weight.shape == (1024, 1024, 3, 3)
    assert detector.head.branch("res5").cls.in_features == 2048
    assert set(trunk.state_dict()) == {
        name for name in resnet50().state_dict() if name.startswith("layer4.")
    }
    assert not any("layer4" in name for name in detector.backbone.state_dict())


def test_losses_reach_every_part(batch: ImageBatch, targets: Any) -> None:
    detector = build_detector(c4_config(norm="gn", frozen_stages=0), classes=3)

    losses = detector.losses(batch, targets)
    sum(losses.values()).backward()

    assert list(losses) == ["loss_rpn_cls", "loss_rpn_reg", "loss_res5_cls", "loss_res5_reg"]
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


@torch.inference_mode()
def test_the_graph_that_is_exported_detects_the_same() -> None:
    detector = c4()
    size = torch.tensor([[64, 96]])
    batch = ImageBatch(torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8), size, size)

    boxes, scores, labels = DetectorGraph(detector)(batch.pixels, size[0], size[0])

    [[expected]] = detector.detect(batch)
    torch.testing.assert_close(boxes, expected.boxes)
    torch.testing.assert_close(scores, expected.scores)
    assert torch.equal(labels, expected.labels)


def test_frozen_parts_stay_frozen_and_the_last_stage_learns() -> None:
    detector = c4(frozen_stages=4).train()

    assert not any(p.requires_grad for p in detector.backbone.parameters())
    assert all(p.requires_grad for p in detector.head.parameters())


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"head": {"branches": [RES5]}}, "`neck.kind: none` and one branch of kind `res5`"),
        ({"neck": {"kind": "none"}}, "`neck.kind: none` and one branch of kind `res5`"),
        (
            {"neck": {"kind": "none"}, "head": {"branches": [{**RES5, "name": n} for n in "ab"]}},
            "one branch of kind `res5` belong together",
        ),
        (
            {
                "neck": {"kind": "none"},
                "head": {"branches": [RES5]},
                "backbone": {"frozen_stages": 5},
            },
            "is at most 4 beside a `res5` branch",
        ),
        ({"anchors": {"sizes": [32, 64]}}, "needs one for each of P2 … P6, got 2"),
    ],
)
def test_what_does_not_fit_together(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate({"model": model})

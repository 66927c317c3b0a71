"""The whole detector: shapes, padding, gradients, and two images learnt by heart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from dhcli.config.heads import ONLY, all_read_outs
from dhcli.config.schema import Config
from dhcli.models.build import build_detector
from dhcli.models.contract import Detector
from dhcli.models.fast import prepare_for_training
from dhcli.ops.batch import ImageBatch, Target
from dhcli.ops.boxes import iou_matrix

MakeConfig = Callable[..., Config]


@pytest.fixture(params=["plain", "fast"])
def make_ready(request: pytest.FixtureRequest) -> Callable[[nn.Module], None]:
    """What is done to a detector before it trains: nothing, or what `dh train` does."""
    return prepare_for_training if request.param == "fast" else lambda _: None


def test_losses_reach_every_parameter_even_without_objects(
    small_config: MakeConfig,
    batch: ImageBatch,
    targets: list[Target],
    make_ready: Callable[[nn.Module], None],
) -> None:
    detector = build_detector(small_config(), classes=3)
    make_ready(detector)
    empty = targets[1]

    losses = detector.losses(batch, [empty, empty])
    sum(losses.values()).backward()

    assert all(torch.isfinite(loss) for loss in losses.values())
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_an_image_that_is_all_ignored_leaves_no_trace(
    small_config: MakeConfig, batch: ImageBatch, make_ready: Callable[[nn.Module], None]
) -> None:
    """Neither an anchor nor a RoI is sampled."""
    fc, conv = ({"name": kind, "kind": kind, "lambda": 1.0} for kind in ("fc", "conv"))
    detector = build_detector(small_config(fc, conv), classes=3).train()
    make_ready(detector)
    everything = torch.tensor([[-1e5, -1e5, 1e5, 1e5]])
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), everything)

    losses = detector.losses(batch, [target, target])
    sum(losses.values()).backward()

    assert all(loss == 0 for loss in losses.values())
    assert all((p.grad == 0).all() for p in detector.parameters() if p.grad is not None)
    assert all(torch.isfinite(value).all() for value in detector.buffers())


def test_mixed_precision_has_the_gradients_of_full(
    small_config: MakeConfig, batch: ImageBatch, targets: list[Target]
) -> None:
    """Also the RPN's, whose weights first run without a gradient (pytorch#65766)."""
    found = []
    for mixed in (True, False):
        torch.manual_seed(0)
        detector = build_detector(small_config(), classes=3)
        prepare_for_training(detector)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            losses = detector.losses(batch, targets)
        sum(losses.values()).backward()
        found.append({name: part.grad for name, part in detector.rpn.named_parameters()})

    for name, exact in found[1].items():
        assert found[0][name] is not None, name
        assert torch.cosine_similarity(found[0][name].flatten(), exact.flatten(), dim=0) > 0.9


def test_losses_have_the_papers_names(
    small_config: MakeConfig, batch: ImageBatch, targets: list[Target]
) -> None:
    losses = build_detector(small_config(), classes=3).losses(batch, targets)

    parts = ["rpn_cls", "rpn_reg", "fc_cls", "fc_reg", "conv_cls", "conv_reg"]
    assert list(losses) == [f"loss_{part}" for part in parts]
    assert all(loss.shape == () for loss in losses.values())


def test_padding_is_zero_after_normalising(small_config: MakeConfig, batch: ImageBatch) -> None:
    x = build_detector(small_config(), classes=3).pixels(batch)

    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (x[1, :, 50:] == 0).all()
    assert (x[1, :, :, 80:] == 0).all()
    red = (batch.pixels[0, 0, 0, 0].item() - 123.675) / 58.395
    assert x[0, 0, 0, 0].item() == pytest.approx(red, abs=1e-5)


def test_bgr_input(small_config: MakeConfig, batch: ImageBatch) -> None:
    config = small_config().model_copy(
        update={"input": small_config().input.model_copy(update={"channels": "bgr"})}
    )

    x = build_detector(config, classes=3).pixels(batch)

    blue_first = (batch.pixels[0, 2, 0, 0].item() - 123.675) / 58.395
    assert x[0, 0, 0, 0].item() == pytest.approx(blue_first, abs=1e-5)


@torch.inference_mode()
def test_detections_are_sorted_within_the_original_image(
    small_config: MakeConfig, batch: ImageBatch
) -> None:
    config = small_config()
    config = config.model_copy(
        update={
            "model": config.model.model_copy(
                update={"detect": config.model.detect.model_copy(update={"score_threshold": 0.0})}
            )
        }
    )

    found = build_detector(config, classes=3).eval().detect(batch)[0]

    for detections, original in zip(found, batch.originals, strict=True):
        assert len(detections) == 100
        assert (detections.scores.diff() <= 0).all()
        assert detections.boxes.dtype == torch.float32
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= original.flip(0).repeat(2) + 1e-3).all()


@torch.inference_mode()
def test_half_precision_still_gives_float32_boxes(
    small_config: MakeConfig, batch: ImageBatch
) -> None:
    detector = build_detector(small_config(), classes=3).eval()

    with torch.autocast("cpu", torch.bfloat16):
        [found] = detector.detect(batch)

    assert {d.boxes.dtype for d in found} == {torch.float32}
    assert {d.scores.dtype for d in found} == {torch.float32}


def test_frozen_stages_stay_as_they_are(small_config: MakeConfig) -> None:
    config = small_config()
    backbone = config.model.backbone.model_copy(update={"frozen_stages": 2, "norm": "bn"})
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"backbone": backbone})}
    )

    detector = build_detector(config, classes=3).train()

    fixed = {n for n, p in detector.backbone.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in fixed} == {"conv1", "bn1", "layer1"}
    assert not detector.backbone.bn1.training
    assert not detector.backbone.layer1[0].bn1.training
    assert detector.backbone.layer2[0].bn1.training


@pytest.mark.usefixtures("shallow")
def test_two_images_are_learnt_by_heart(small_config: MakeConfig) -> None:
    torch.manual_seed(3)
    pixels = torch.full((2, 64, 96, 3), 60, dtype=torch.uint8)
    pixels[0, 8:40, 8:40] = torch.tensor([250, 40, 40], dtype=torch.uint8)
    pixels[0, 20:60, 50:90] = torch.tensor([40, 250, 40], dtype=torch.uint8)
    pixels[1, 16:48, 30:62] = torch.tensor([40, 40, 250], dtype=torch.uint8)
    size = torch.tensor([[64, 96]] * 2)
    images = ImageBatch(pixels.permute(0, 3, 1, 2), size, size)
    none = torch.zeros(0, 4)
    boxes = [[[8.0, 8, 40, 40], [50, 20, 90, 60]], [[30.0, 16, 62, 48]]]
    labels = [[0, 1], [2]]
    targets = [
        Target(torch.tensor(b), torch.tensor(label), none)
        for b, label in zip(boxes, labels, strict=True)
    ]
    detector = build_detector(small_config(), classes=3)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)

    for iteration in range(100):
        if iteration == 70:  # settle: at the full rate the boxes still jump about
            optimizer.param_groups[0]["lr"] = 1e-4
        optimizer.zero_grad()
        sum(detector.losses(images, targets).values()).backward()
        optimizer.step()

    with torch.inference_mode():
        [found] = detector.eval().detect(images)
    for detections, target in zip(found, targets, strict=True):
        right = (detections.labels == target.labels[:, None]) & (detections.scores > 0.5)
        iou = iou_matrix(target.boxes, detections.boxes) * right
        assert (iou.amax(1) > 0.6).all()


def test_ties_of_the_last_one_stay_when_told(small_config: MakeConfig) -> None:
    corner = torch.arange(6.0)[:, None] * 100
    boxes = torch.cat([corner, corner, corner + 50, corner + 50], dim=1)
    scores = torch.tensor([0.5, 0.9, 0.5, 0.5, 0.3, 0.8])
    size = torch.tensor([1000, 1000])

    def kept(**rules: object) -> list[float]:
        detector = build_detector(small_config(), classes=1)
        rule, labels = detector.rule.model_copy(update=rules), torch.zeros(6, dtype=torch.int64)
        found = detector.select(boxes, scores, labels, size, size, rule)
        return [round(score, 1) for score in found.scores.tolist()]

    assert kept(max_detections=3) == [0.9, 0.8, 0.5]
    assert kept(max_detections=3, keep_ties=True) == [0.9, 0.8, 0.5, 0.5, 0.5]
    assert kept(max_detections=9, keep_ties=True) == [0.9, 0.8, 0.5, 0.5, 0.5, 0.3]
    assert kept(min_size=50.5) == []


def test_a_detector_is_read_as_its_head_is_and_a_strangers_in_one_way(
    small_config: MakeConfig,
) -> None:
    config = small_config()

    assert build_detector(config, classes=1).read_outs() == all_read_outs(config.model.head)
    assert Detector().read_outs() == [ONLY]

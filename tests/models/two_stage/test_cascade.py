"""The cascade: losses beside a plain transcription, what goes on between stages, its reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import all_read_outs, stage_heads
from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.build import build_detector
from dhcli.models.two_stage.cascade import Cascade
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import ImageBatch, Target
from dhcli.weights.layouts.mmdet import proposals
from tests.by_heart import assert_known, draw, learn_two_stage
from tests.models.two_stage.fast_step import ABSENT, assert_fast_changes_nothing
from tests.references import cascade as plain

FC: dict[str, Any] = {"kind": "fc", "width": 32, "omega": 2.0, "lambda": 0.5}
DOUBLE: list[dict[str, Any]] = [
    {"kind": "fc", "width": 32},
    {"kind": "conv", "width": 64, "residual": 2, "norm": "gn", "roi_scale": 1.3},
]
EXT = [{**DOUBLE[0], "lambda": 0.7}, {**DOUBLE[1], "lambda": 0.8}]
STAGES = [dict(stage) for stage in proposals.STAGES]
CLASSES = 3
SIZES = torch.tensor([[128, 128], [100, 120]])
NONE = torch.zeros(0, 4)


def make_cascade(branches: list[dict[str, Any]], **settings: Any) -> Cascade:
    values = {"branches": branches, "cascade": STAGES, "samples": 1000, **settings}
    config = HeadConfig.model_validate(values)
    pool = Pool(7, 0, True, (4, 8, 16, 32))
    heads = [Head(one, pool, channels=8, classes=CLASSES) for one in stage_heads(config)]
    made = Cascade(config, heads)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made


def levels() -> list[Tensor]:
    return [torch.randn(2, 8, 128 // s, 128 // s) for s in (4, 8, 16, 32)]


def objects() -> list[Target]:
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 20, 110, 70]])
    return [
        Target(boxes, torch.tensor([1, 2]), NONE),
        Target(boxes[:1] + 20, torch.tensor([0]), NONE),
    ]


def proposals() -> list[Tensor]:
    """21 boxes of each image: objects moved a little, and 5 boxes anywhere."""
    found = []
    for target in objects():
        near = target.boxes.repeat(16 // len(target.boxes), 1)
        corner = torch.rand(5, 2) * 80
        far = torch.cat([corner, corner + 20 + 20 * torch.rand(5, 2)], 1)
        found.append(torch.cat([near + 4 * torch.randn(near.shape), far]))
    return found


def exported(head: Cascade) -> dict[str, Tensor]:
    """Its tensors under MMDetection's names, leaves with a gradient of their own."""
    state = {}
    for stage in range(3):
        ours, theirs = f"stages.{stage}.branches.fc", f"{plain.HEAD}.{stage}"
        pairs = {"trunk.1": "shared_fcs.0", "trunk.3": "shared_fcs.1"}
        for one, other in {**pairs, "cls": "fc_cls", "reg": "fc_reg"}.items():
            for part in ("weight", "bias"):
                tensor = head.state_dict()[f"{ours}.{one}.{part}"]
                tensor = tensor.roll(-1, 0) if one == "cls" else tensor
                state[f"{theirs}.{other}.{part}"] = tensor.clone().requires_grad_()
    return state


def test_losses_and_gradients_are_the_plain_transcriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    ours = make_cascade([FC], class_agnostic=True).double()
    features = [level.double().requires_grad_() for level in levels()]
    given = [boxes.double() for boxes in proposals()]
    targets = [Target(t.boxes.double(), t.labels, NONE.double()) for t in objects()]
    state = exported(ours)

    mine = ours.losses(features, given, targets, SIZES)
    truth = [(target.boxes, target.labels) for target in targets]
    sizes = [(int(height), int(width)) for height, width in SIZES]
    theirs = plain.losses(state, features, given, truth, sizes)

    for stage, parts in enumerate(theirs):
        for task, expected in zip(("cls", "reg"), parts, strict=True):
            assert expected > 0
            found = mine[f"loss_s{stage}_fc_{task}"]
            assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    weights = ours.get_parameter("stages.1.branches.fc.trunk.1.weight")
    other = state[f"{plain.HEAD}.1.shared_fcs.0.weight"]
    one = torch.autograd.grad(sum(mine.values()), [*features, weights], **ABSENT)
    two = torch.autograd.grad(sum(sum(pair) for pair in theirs), [*features, other], **ABSENT)
    for a, b in zip(one, two, strict=True):
        assert (a - b).abs().max() < 1e-9 * (1 + b.abs().max())


def test_what_goes_on_is_refined_clipped_and_without_the_objects_that_were_added(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = make_cascade([FC], class_agnostic=True)
    seen: list[list[Tensor]] = []
    second = head.stages[1]
    assert isinstance(second, Head)
    sample = second.sample
    monkeypatch.setattr(second, "sample", lambda *given: seen.append(given[0]) or sample(*given))
    for name, parameter in head.stages[0].named_parameters():
        if "reg" in name:  # twice as wide and high, whatever it sees
            torch.nn.init.zeros_(parameter)
            if "bias" in name:
                parameter.data[2:] = 2**-1 * torch.tensor([2.0, 2.0]).log() / 0.1
    empty = torch.tensor([[128.0, 40, 128, 60]])

    head.losses(levels(), [torch.cat([*proposals()[:1], empty]), empty], objects(), SIZES)

    first, other = seen[0]
    assert len(first) == len(proposals()[0]) + 1
    assert other.tolist() == [[120, pytest.approx(30), 120, pytest.approx(70)]]
    assert not first.requires_grad
    assert first.min() >= 0


@pytest.mark.parametrize("branches", [[FC], DOUBLE, EXT], ids=["fc", "Double-Head", "Ext"])
@pytest.mark.parametrize("agnostic", [True, False])
def test_training_fast_changes_nothing(branches: list[dict[str, Any]], agnostic: bool) -> None:
    head = make_cascade(branches, class_agnostic=agnostic).train()

    assert_fast_changes_nothing(head, levels(), proposals(), objects(), SIZES)


def test_scores_are_read_from_the_mean_logits_and_boxes_from_the_last_stage() -> None:
    head = make_cascade(EXT, class_agnostic=True).eval()
    features, boxes = levels(), proposals()[0]
    images = torch.zeros(len(boxes), dtype=torch.int64)
    read_outs = all_read_outs(head.config)

    found = head.detect(read_outs, features, boxes, images, SIZES, 0.0)

    logits: dict[str, list[Tensor]] = {"fc": [], "conv": []}
    for stage in head.stages:
        assert isinstance(stage, Head)
        outputs = {name: stage.run(name, features, boxes, images) for name in logits}
        for name, output in outputs.items():
            logits[name].append(output.logits)
        deltas = outputs["conv"].boxes[:, 0]
        refined = stage.rules.decode(deltas, boxes, stage.config.box_std)
        boxes = stage.rules.clip(refined, SIZES[0])
    fc, conv = (sum(logits[name]) / 3 for name in ("fc", "conv"))
    fused = 1 - (1 - fc.softmax(1)) * (1 - conv.softmax(1))
    expected = {"fc": fc.softmax(1), "conv": conv.softmax(1), "complementary": fused}
    for read_out, scored in zip(read_outs, found, strict=True):
        if read_out.scores in expected:
            wanted = expected[read_out.scores][scored.rows, scored.labels + 1]
            assert torch.allclose(scored.scores, wanted, atol=1e-6)
        if read_out.boxes == "conv":
            assert torch.allclose(scored.boxes, refined[scored.rows], atol=1e-3)


def test_a_box_of_each_class_is_refined_as_the_class_that_scores_best() -> None:
    head = make_cascade([FC]).stages[0]
    assert isinstance(head, Head)
    boxes, images = proposals()[0], torch.zeros(21, dtype=torch.int64)
    output = head.run("fc", levels(), boxes, images)
    best = output.logits[:, 1:].argmax(1)
    known = torch.arange(21) % 4

    for classes, labels in ((None, best), (known, torch.where(known > 0, known - 1, best))):
        refined = head.refine({"fc": output}, boxes, images, SIZES, classes)

        deltas = output.boxes[torch.arange(21), labels]
        expected = head.rules.decode(deltas, boxes, head.config.box_std)
        assert torch.allclose(refined, head.rules.clip(expected, SIZES[0]))


def test_each_stage_has_its_own_thresholds_and_weighs_its_losses() -> None:
    config = load_config("coco-r50-cascade").config.model.head

    heads = stage_heads(config)

    assert [head.positive_iou for head in heads] == [0.5, 0.6, 0.7]
    assert [head.box_std[0] for head in heads] == [0.1, 0.05, 0.033]
    assert [head.branches[0].omega for head in heads] == [2, 1, 0.5]
    assert all(not head.cascade and head.class_agnostic for head in heads)


@pytest.mark.parametrize(
    "preset", ["coco-r50-cascade", "coco-r50-cascade-double-head"], ids=["fc", "Double-Head"]
)
def test_its_presets_have_three_heads(preset: str) -> None:
    config = load_config(preset).config
    with torch.device("meta"):
        detector = build_detector(config, classes=80)

    single = sum(p.numel() for p in detector.head.stages[0].parameters())

    assert sum(p.numel() for p in detector.head.parameters()) == 3 * single
    if preset == "coco-r50-cascade":
        assert sum(p.numel() for p in detector.parameters()) == 69_394_766  # as MMDetection's


@pytest.mark.usefixtures("shallow")
def test_it_overfits_two_images(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    config = small_config(FC, cascade=STAGES, class_agnostic=True, positive_fraction=0.5)
    detector = build_detector(config, classes=CLASSES)
    draw(batch, targets)
    learn_two_stage(detector, batch, targets)

    [found] = detector.detect(batch, DetectOptions(threshold=0.5))

    assert_known(found, targets, scale=2)

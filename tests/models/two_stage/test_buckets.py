"""Boxes by buckets: losses beside a plain transcription, the branches that can say them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import stage_heads
from dhcli.config.schema import Config
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.models.two_stage.cascade import Cascade
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import ImageBatch, Target
from dhcli.ops.buckets import decode_buckets, encode_buckets
from tests.by_heart import assert_known, draw, learn_two_stage
from tests.models.two_stage.fast_step import ABSENT, assert_fast_changes_nothing
from tests.models.two_stage.test_cascade import NONE, SIZES, levels, objects, proposals
from tests.references import sabl as plain

FC: dict[str, Any] = {"kind": "fc", "width": 16, "layers": 1}
SIDE: dict[str, Any] = {"kind": "side", "width": 12}
BUCKETS: dict[str, Any] = {"kind": "buckets"}
CONV: dict[str, Any] = {"kind": "conv", "width": 16, "residual": 2, "norm": "gn", "reg": BUCKETS}
STAGES = [
    {"positive_iou": iou, "bucket_scale": scale, "weight": weight}
    for iou, scale, weight in zip(plain.IOUS, plain.SCALES, plain.WEIGHTS, strict=True)
]
WAYS = {
    "sides": [FC, SIDE],
    "fc": [{**FC, "lambda": 0.5, "reg": BUCKETS}],
    "Double-Head": [FC, {**CONV, "roi_scale": 1.3}],
    "Ext": [{**FC, "lambda": 0.7, "reg": BUCKETS}, {**CONV, "lambda": 0.8}],
    "Ext, boxes in two ways": [{**FC, "lambda": 0.7}, {**CONV, "lambda": 0.8}],
}
EVERY = pytest.mark.parametrize("branches", WAYS.values(), ids=WAYS)


def make_head(branches: list[dict[str, Any]], cascade: bool) -> Head | Cascade:
    values = {"branches": branches, "cascade": STAGES if cascade else [], "samples": 1000}
    config = HeadConfig.model_validate(values)
    pool = Pool(7, 0, True, (4, 8, 16, 32))
    heads = [Head(one, pool, channels=8, classes=3) for one in stage_heads(config) or [config]]
    made = Cascade(config, heads) if cascade else heads[0]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


NAMES = {
    "fc.trunk.1": "cls_fcs.0",
    "fc.cls": "fc_cls",
    **{f"side.trunk.pre.{i}": f"reg_pre_convs.{i}.conv" for i in (0, 1)},
    **{f"side.trunk.post_{axis}.0": f"reg_post_conv_{axis}s.0.conv" for axis in "xy"},
    **{f"side.trunk.attend_{axis}": f"reg_conv_att_{axis}" for axis in "xy"},
    **{f"side.trunk.more_{axis}": f"upsample_{axis}" for axis in "xy"},
    "side.reg.logits": "fc_reg_cls",
    "side.reg.offsets": "fc_reg_offset",
}


def exported(head: Head | Cascade) -> dict[str, Tensor]:
    """Its tensors under MMDetection's names, leaves with a gradient of their own."""
    stages = len(head.stages) if isinstance(head, Cascade) else 0
    state = {}
    for ours, theirs in [(f"stages.{i}.", f".{i}") for i in range(stages)] or [("", "")]:
        for one, other in NAMES.items():
            for part in ("weight", "bias"):
                tensor = head.state_dict()[f"{ours}branches.{one}.{part}"]
                tensor = tensor.roll(-1, 0) if one == "fc.cls" else tensor
                state[f"{plain.HEAD}{theirs}.{other}.{part}"] = tensor.clone().requires_grad_()
    return state


@pytest.mark.parametrize("cascade", [False, True], ids=["alone", "cascade"])
def test_losses_and_gradients_are_the_plain_transcriptions(
    monkeypatch: pytest.MonkeyPatch, cascade: bool
) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    ours = make_head([FC, SIDE], cascade).double()
    for stage in ours.stages if isinstance(ours, Cascade) else ():
        stage.rules = stage.rules._replace(last_pixel=True)
    features = [level.double().requires_grad_() for level in levels()]
    given = [boxes.double() for boxes in proposals()]
    targets = [Target(t.boxes.double(), t.labels, NONE.double()) for t in objects()]
    state = exported(ours)

    mine = ours.losses(features, given, targets, SIZES)
    truth = [(target.boxes, target.labels) for target in targets]
    theirs = plain.losses(state, features, given, truth, [(h, w) for h, w in SIZES.tolist()])

    assert len(theirs) == (3 if cascade else 1)
    for stage, (cls, entropy, off) in enumerate(theirs):
        prefix = f"loss_s{stage}" if cascade else "loss"
        assert min(cls, entropy, off) > 0
        assert mine[f"{prefix}_fc_cls"].item() == pytest.approx(cls.item(), rel=1e-9)
        assert mine[f"{prefix}_side_reg"].item() == pytest.approx((entropy + off).item(), rel=1e-9)
    own = dict(ours.named_parameters())
    place = "stages.1." if cascade else ""
    names = {
        f"{place}branches.{one}.weight": f"{plain.HEAD}{'.1' if cascade else ''}.{other}.weight"
        for one, other in NAMES.items()
        if one != "fc.cls"
    }
    first = torch.autograd.grad(sum(mine.values()), [*features, *map(own.get, names)], **ABSENT)
    total = sum(sum(parts) for parts in theirs)
    second = torch.autograd.grad(total, [*features, *map(state.get, names.values())], **ABSENT)
    for a, b in zip(first, second, strict=True):
        assert (a - b).abs().max() < 1e-9 * (1 + b.abs().max())


def test_what_is_taught_decodes_to_the_object() -> None:
    boxes = torch.tensor([[10.0, 20, 50, 90], [30, 30, 40, 44]])
    goals = boxes + torch.tensor([[-4.0, 3, 6, -9], [1, -1, 0, 2]])

    taught = encode_buckets(goals, boxes, 1.7, 14)
    said = torch.stack([taught.nearest.float(), taught.offsets * taught.nearest], dim=-1)

    assert torch.allclose(decode_buckets(said, boxes, 1.7, 14), goals, atol=1e-4)
    assert (taught.nearest.sum(-1) == 1).all()
    # Of the outermost bucket: 1.7 × 40 / 14 wide, its centre half of that within the edge
    assert taught.offsets[0, 0, 0] == pytest.approx((-4 + 0.5 * 4.857 - 6) / 4.857, abs=1e-3)


def test_a_second_bucket_counts_as_sure_only_beside_the_best() -> None:
    head = make_head([FC, SIDE], cascade=False)
    said = torch.zeros(3, 4, 7, 2)
    said[0, :, 3, 0], said[0, :, 4, 0] = 2.0, 1.0
    said[1, :, 3, 0], said[1, :, 5, 0] = 2.0, 1.0
    said[2] = said[0]
    said[2, 3] = said[1, 3]

    sure = head.regressor("side").confidence(said, torch.tensor([0, 1, 2, 1]))

    e = torch.tensor([1.0, 2.0]).exp()
    first, second = (e[1] / (5 + e.sum())).item(), (e[0] / (5 + e.sum())).item()
    expected = [first + second, first, first + 0.75 * second, first]
    assert sure.tolist() == pytest.approx(expected)


@EVERY
def test_training_fast_changes_nothing(branches: list[dict[str, Any]]) -> None:
    head = make_head(branches, cascade=False).train()

    assert_fast_changes_nothing(head, levels(), proposals(), objects(), SIZES)


@EVERY
@pytest.mark.parametrize("objects_in", [True, False], ids=["objects", "no object"])
def test_every_weight_takes_part(
    small_config: Callable[..., Config],
    batch: ImageBatch,
    targets: list[Target],
    branches: list[dict[str, Any]],
    objects_in: bool,
) -> None:
    detector = build_detector(small_config(*branches), classes=3)
    prepare_for_training(detector)

    sum(detector.losses(batch, targets if objects_in else [targets[1]] * 2).values()).backward()

    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    for read_out in detector.read_outs():
        assert len(detector.eval().detect(batch, DetectOptions(read_outs=(read_out,)))[0]) == 2


def test_a_threshold_that_is_asked_for_holds_for_the_lowered_scores(
    small_config: Callable[..., Config], batch: ImageBatch
) -> None:
    detector = build_detector(small_config(FC, SIDE), classes=3).eval()

    [configured] = detector.detect(batch)
    [asked] = detector.detect(batch, DetectOptions(threshold=0.12))

    # A class scores about 1/4, and two buckets of seven are taken: both know nothing yet
    assert all(len(found) > 0 and found.scores.max() < 0.12 for found in configured)
    assert all(len(found) == 0 for found in asked)


@pytest.mark.parametrize(
    ("branch", "why"),
    [
        ({"lambda": 0.5}, "only places boxes"),
        ({"focus": "cls"}, "only places boxes"),
        ({"reg": {"kind": "deltas"}}, "deltas"),
    ],
)
def test_a_branch_of_sides_does_nothing_else(branch: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        HeadConfig.model_validate({"branches": [FC, {**SIDE, **branch}]})


def test_buckets_that_the_cells_cannot_make_are_refused(
    small_config: Callable[..., Config],
) -> None:
    with pytest.raises(ValidationError, match=r"`side`: 16 buckets are no multiple of `pool.size`"):
        small_config(FC, {**SIDE, "reg": {**BUCKETS, "count": 16}})


@pytest.mark.usefixtures("shallow")
def test_it_overfits_two_images(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    fc, side = {**FC, "width": 32}, {**SIDE, "width": 32}
    detector = build_detector(small_config(fc, side, positive_fraction=0.5), classes=3)
    draw(batch, targets)
    learn_two_stage(detector, batch, targets)

    [found] = detector.detect(batch, DetectOptions(threshold=0.4))

    assert_known(found, targets, scale=2)

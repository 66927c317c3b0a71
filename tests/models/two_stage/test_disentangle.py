"""Disentangled RoIs: losses beside a plain transcription of TSD, where branches look, reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.detecting import DetectOptions
from dhcli.config.heads import ReadOut, all_read_outs, own_read_out
from dhcli.config.load import load_config
from dhcli.config.schema import Config
from dhcli.config.schema import Head as HeadConfig
from dhcli.models.build import build_detector
from dhcli.models.fast import prepare_for_training
from dhcli.models.two_stage.cascade import Cascade
from dhcli.models.two_stage.head import Head
from dhcli.models.two_stage.pool import Pool
from dhcli.ops.batch import ImageBatch, Target
from dhcli.ops.box_rules import BoxRules
from tests.by_heart import assert_known, draw, learn_two_stage
from tests.models.two_stage.fast_step import ABSENT, assert_fast_changes_nothing
from tests.references import tsd as plain

OWN: dict[str, Any] = {"kind": "disentangled", "width": 16}
SIBLING: dict[str, Any] = {
    "kind": "fc",
    "name": "sibling",
    "width": 32,
    "omega": 2.0,
    "lambda": 0.5,
}
PAIR: list[dict[str, Any]] = [
    {"kind": "fc", "name": "pc", "width": 32, "focus": "cls", "roi": OWN},
    {"kind": "fc", "name": "pr", "width": 32, "focus": "reg", "roi": OWN},
]
TSD = [SIBLING, *PAIR]
CONV: dict[str, Any] = {"kind": "conv", "width": 64, "residual": 2, "roi_scale": 1.3, "roi": OWN}
DOUBLE = [SIBLING, {**PAIR[0], "name": "fc"}, CONV]
CLASSES = 3
STRIDES = (4, 8, 16, 32)
SIZES = torch.tensor([[128, 128]] * 3)
NONE = torch.zeros(0, 4)
PLUS = torch.tensor([0.0, 0, 1, 1])


def make_head(branches: list[dict[str, Any]], *, legacy: bool = False, **settings: Any) -> Head:
    if legacy:
        branches = [
            {**one, "roi": {**one["roi"], "samples": 4}} if "roi" in one else one
            for one in branches
        ]
        settings["background_box"] = True
    values = {"branches": branches, "samples": 1000, **settings}
    config = HeadConfig.model_validate(values)
    convention = {"legacy_plus_one": True, "convention": "mmdet1"} if legacy else {}
    pool = Pool(7, 2, not legacy, STRIDES, **convention)
    made = Head(config, pool, channels=8, classes=CLASSES, rules=BoxRules(legacy))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def levels() -> list[Tensor]:
    return [torch.randn(3, 8, 128 // s, 128 // s) for s in STRIDES]


def objects() -> list[Target]:
    boxes = torch.tensor([[10.0, 10, 50, 50], [60, 20, 110, 70]])
    return [
        Target(boxes, torch.tensor([1, 2]), NONE),
        Target(NONE, torch.tensor([], dtype=torch.int64), NONE),
        Target(boxes[:1] + 20, torch.tensor([0]), NONE),
    ]


def proposals() -> list[Tensor]:
    """7 boxes of each image: where objects may be, moved a little, and 3 boxes anywhere."""
    found = []
    for _ in range(3):
        near = torch.tensor([[10.0, 10, 50, 50], [60, 20, 110, 70], [30, 30, 70, 70]])
        near = torch.cat([near, near[:1]]) + 4 * torch.randn(4, 4)
        corner = torch.rand(3, 2) * 80
        found.append(torch.cat([near, torch.cat([corner, corner + 8 + 40 * torch.rand(3, 2)], 1)]))
    return found


NAMES = {
    "disentangle.shared.1": "shared_fc.0",
    **{f"disentangle.moves.pc.{i}": f"delta_c.{i}" for i in (0, 2)},
    **{f"disentangle.moves.pr.{i}": f"delta_r.{i}" for i in (0, 2)},
    **{f"branches.sibling.trunk.{2 * i + 1}": f"shared_fcs.{i}" for i in (0, 1)},
    **{f"branches.pc.trunk.{2 * i + 1}": f"TSD_pc_fcs.{i}" for i in (0, 1)},
    **{f"branches.pr.trunk.{2 * i + 1}": f"TSD_pr_fcs.{i}" for i in (0, 1)},
    "branches.sibling.cls": "fc_cls",
    "branches.sibling.reg": "fc_reg",
    "branches.pc.cls": "TSD_fc_cls",
    "branches.pr.reg": "TSD_fc_reg",
}


def exported(head: Head) -> dict[str, Tensor]:
    """Its tensors under the authors' names, leaves with a gradient of their own."""
    return {
        f"{plain.HEAD}.{theirs}.{part}": head.state_dict()[f"{ours}.{part}"].clone()
        for ours, theirs in NAMES.items()
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_losses_and_gradients_are_the_plain_transcriptions(
    fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tensor, "float", Tensor.double)
    ours = make_head(TSD, legacy=True).double()
    state = {name: tensor.requires_grad_() for name, tensor in exported(ours).items()}
    features = [level.double().requires_grad_() for level in levels()]
    given = [boxes.double() for boxes in proposals()]
    targets = [Target(t.boxes.double(), t.labels, NONE.double()) for t in objects()]
    if fast:
        prepare_for_training(ours)

    mine = ours.losses(features, given, targets, SIZES)
    plus = PLUS.double()
    truth = [(target.boxes - plus, target.labels + 1) for target in targets]
    theirs = plain.losses(state, features, [boxes - plus for boxes in given], truth)

    pairs = {
        "loss_sibling_cls": "cls",
        "loss_sibling_reg": "reg",
        "loss_pc_cls": "tsd_cls",
        "loss_pr_reg": "tsd_reg",
        "loss_pc_cls_margin": "m_cls",
        "loss_pr_reg_margin": "m_loc",
    }
    assert set(mine) == set(pairs)
    for name, other in pairs.items():
        assert theirs[other] > 0
        assert mine[name].item() == pytest.approx(theirs[other].item(), rel=1e-9)
    weights = [ours.get_parameter(f"{name}.weight") for name in NAMES]
    others = [state[f"{plain.HEAD}.{name}.weight"] for name in NAMES.values()]
    one = torch.autograd.grad(sum(mine.values()), [*features, *weights], **ABSENT)
    two = torch.autograd.grad(sum(theirs.values()), [*features, *others], **ABSENT)
    for a, b in zip(one, two, strict=True):
        assert b.abs().max() > 0 or a.shape[0] == 3  # a level that no box is on
        assert (a - b).abs().max() < 1e-9 * (1 + b.abs().max())


def test_outputs_are_the_plain_transcriptions() -> None:
    head = make_head(TSD, legacy=True)
    features, boxes = levels(), proposals()[0]
    images = torch.zeros(len(boxes), dtype=torch.int64)
    state = exported(head)

    said = {name: head.run(name, features, boxes, images) for name in head.branches}

    for row, box in enumerate(boxes - PLUS):
        logits, deltas, moved = plain.read_disentangled(state, features, 0, box)
        expected = plain.read_sibling(state, features, 0, box)
        assert torch.allclose(said["pc"].logits[row], logits, atol=1e-5)
        assert torch.allclose(said["pr"].boxes[row].flatten(), deltas[4:], atol=1e-5)
        assert torch.allclose(said["pr"].rois[row] - PLUS, moved, atol=1e-4)
        assert torch.allclose(said["sibling"].logits[row], expected[0], atol=1e-5)
        assert torch.allclose(said["sibling"].boxes[row].flatten(), expected[1][4:], atol=1e-5)


@pytest.mark.parametrize("branches", [TSD, DOUBLE, PAIR], ids=["TSD", "Double-Head", "no sibling"])
def test_training_fast_changes_nothing(branches: list[dict[str, Any]]) -> None:
    if branches is PAIR:
        branches = [{**one, "roi": {**OWN, "margin": 0}} for one in PAIR]
    head = make_head(branches).train()

    assert_fast_changes_nothing(head, levels(), proposals(), objects(), SIZES, 2e-5)


def test_only_the_branch_that_is_to_be_better_is_pushed() -> None:
    head = make_head(TSD)
    losses = head.losses(levels(), proposals(), objects(), SIZES)
    margins = losses["loss_pc_cls_margin"] + losses["loss_pr_reg_margin"]

    head.zero_grad()
    margins.backward()

    pushed = {name for name, p in head.named_parameters() if p.grad is not None}
    assert not any("sibling" in name for name in pushed)
    assert {name for name, _ in head.named_parameters() if "sibling" not in name} == pushed


def test_a_batch_without_objects_still_reaches_every_weight() -> None:
    head = make_head(TSD)
    prepare_for_training(head)

    losses = head.losses(levels(), proposals(), [objects()[1]] * 3, SIZES)
    sum(losses.values()).backward()

    assert losses["loss_pr_reg_margin"] == losses["loss_pc_cls_margin"] == 0
    assert all(p.grad is not None for p in head.parameters())


def test_a_roi_that_does_not_move_is_the_shared_one() -> None:
    head = make_head(TSD)
    for layer in head.disentangle.moves.values():
        torch.nn.init.zeros_(layer[2].weight)
        torch.nn.init.zeros_(layer[2].bias)
    features, boxes = levels(), proposals()[0]
    images = torch.zeros(len(boxes), dtype=torch.int64)

    shared = head.view("sibling", features, boxes, images)
    cells, whole = (head.view(name, features, boxes, images) for name in ("pc", "pr"))

    assert torch.allclose(cells.pooled, shared.pooled, atol=1e-5)
    assert torch.allclose(whole.pooled, shared.pooled, atol=1e-5)
    assert cells.boxes is None
    assert torch.equal(whole.boxes, boxes)


def test_a_roi_that_moves_as_a_whole_is_pooled_where_it_went() -> None:
    head = make_head([{**CONV, "roi": {**OWN, "margin": 0}, "lambda": 0.5}])
    features, boxes = levels(), torch.tensor([[40.0, 40, 90, 80], [20, 60, 60, 90]])
    images = torch.zeros(2, dtype=torch.int64)

    view = head.view("conv", features, boxes, images)
    there = head.pool(features, view.boxes, images, scale=1.3)

    assert (view.boxes - boxes).abs().max() > 1
    assert torch.allclose(view.pooled, there, atol=1e-4)


def test_what_is_read_is_the_pair_and_then_the_sibling() -> None:
    pair, sibling = ReadOut("pc", "pr"), ReadOut("sibling", "sibling")
    config = HeadConfig.model_validate({"branches": TSD})

    assert own_read_out(config) == pair
    assert all_read_outs(config) == [sibling, ReadOut("sibling", "pr"), pair]
    named = config.model_copy(update={"scores": "sibling", "boxes": "sibling"})
    assert own_read_out(named) == sibling


def test_two_that_classify_from_their_own_rois_are_fused_and_not_with_the_sibling() -> None:
    both = [SIBLING, *({**one, "lambda": 0.7} for one in PAIR)]
    head = make_head(both)
    (boxes, images), features = some_boxes(), levels()

    [found] = head.detect([head.read_out], features, boxes, images, SIZES, 0.0)

    pc, pr = (head.run(name, features, boxes, images).logits.softmax(1) for name in ("pc", "pr"))
    assert head.read_out == ReadOut("complementary", "pr")
    fused = (1 - (1 - pc) * (1 - pr))[found.rows, found.labels + 1]
    assert torch.allclose(found.scores, fused, atol=1e-6)


def some_boxes() -> tuple[Tensor, Tensor]:
    return torch.tensor([[10.0, 10, 50, 50], [60, 20, 110, 70]]), torch.zeros(2, dtype=torch.int64)


def test_each_stage_of_a_cascade_starts_from_where_the_last_one_moved() -> None:
    config = HeadConfig.model_validate({"branches": TSD, "cascade": [{}, {"positive_iou": 0.6}]})
    stages = [make_head(TSD), make_head(TSD)]
    cascade = Cascade(config, stages)
    (boxes, images), features = some_boxes(), levels()

    [found] = cascade.detect([cascade.read_out], features, boxes, images, SIZES, 0.0)
    losses = cascade.losses(features, proposals(), objects(), SIZES)

    first = {name: stages[0].run(name, features, boxes, images) for name in ("pc", "pr")}
    refined = stages[0].refine(first, boxes, images, SIZES)
    second = stages[1].run("pr", features, refined, images)
    decoded = stages[1].regressor("pr").decode(second.boxes, second.rois, found.rows, found.labels)
    assert torch.allclose(found.boxes, decoded, atol=1e-3)
    assert len(losses) == 12


@pytest.mark.parametrize(
    ("branches", "problem"),
    [
        (PAIR, "no branch on the shared RoI predicts `cls`"),
        ([SIBLING, PAIR[0], {**PAIR[1], "roi": {**OWN, "width": 8}}], "share their first layer"),
        ([*TSD, {**PAIR[0], "name": "third"}], "3 branches have `roi.kind: disentangled`"),
    ],
)
def test_branches_that_do_not_fit_are_refused(branches: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        HeadConfig.model_validate({"branches": branches})


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("coco-r50-tsd", 73_332_445 - 2 * 4 * 1025),  # the authors' have boxes of the background
        ("coco-r50-tsd-double-head", 66_985_173),
    ],
)
def test_its_presets_have_the_authors_parameters(preset: str, parameters: int) -> None:
    config = load_config(preset).config
    with torch.device("meta"):
        detector = build_detector(config, classes=80)

    assert sum(p.numel() for p in detector.parameters()) == parameters


@pytest.mark.usefixtures("shallow")
def test_it_overfits_two_images(
    small_config: Callable[..., Config], batch: ImageBatch, targets: list[Target]
) -> None:
    config = small_config(*TSD, positive_fraction=0.5)
    detector = build_detector(config, classes=CLASSES)
    draw(batch, targets)
    learn_two_stage(detector, batch, targets)

    [found] = detector.detect(batch, DetectOptions(threshold=0.5))

    assert_known(found, targets, scale=2)

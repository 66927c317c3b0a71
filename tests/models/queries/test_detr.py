"""DETR and Deformable DETR: what they say, that all of it learns, and transformers' traps."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dhcli
from dhcli.config.schema import Config, SoftmaxSetLoss
from dhcli.errors import DhError
from dhcli.models.build import build_detector
from dhcli.models.queries import transformer
from dhcli.models.queries.detector import QueryDetector
from dhcli.models.queries.proposals import Proposals, own_boxes
from dhcli.models.queries.set_loss import Said, find_owners, set_losses
from dhcli.ops.batch import ImageBatch, Target
from dhcli.ops.match import UNDECIDED
from dhcli.weights.model_file import ModelFile
from dhcli.weights.transfer import transfer
from tests.by_heart import draw, learn

BACKBONE = {"name": "resnet18", "norm": "gn", "weights": "none", "frozen_stages": 0}
LAYERS = {"queries": 8, "encoder_layers": 1, "decoder_layers": 2, "attention_heads": 2,
          "ffn_width": 32}  # fmt: skip
LEVELS = {"channels": 16, "finest": 3, "coarsest": 6, "norm": "gn", "bias": False}
KINDS: dict[str, dict[str, Any]] = {
    "detr": {"neck": {"channels": 16}, "head": {"kind": "detr"}},
    "deformable": {"neck": LEVELS, "head": {"kind": "deformable"}, "loss": {"kind": "focal"}},
    "refined": {
        "neck": LEVELS,
        "head": {"kind": "deformable", "refine": True},
        "loss": {"kind": "focal"},
    },
    "two-stage": {
        "neck": LEVELS,
        "head": {"kind": "deformable", "refine": True, "two_stage": True},
        "loss": {"kind": "focal"},
    },
}


def config_of(kind: str, **head: Any) -> Config:
    model = {"kind": "detr", "backbone": BACKBONE, **KINDS[kind]}
    model["head"] = {**model["head"], **LAYERS, **head}
    sizes = {"min_size": 64, "max_size": 96, "divisor": 1}
    return Config.model_validate({"input": sizes, "model": model})


def make(kind: str, **head: Any) -> QueryDetector:
    torch.manual_seed(0)
    detector = build_detector(config_of(kind, **head), classes=3)
    assert isinstance(detector, QueryDetector)
    return detector


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_says_something_of_every_query(kind: str, batch: ImageBatch) -> None:
    detector = make(kind)

    *cells, first, last = detector.head(detector.extract(batch), batch)

    said = [first, last]
    assert [one.any_class for one in (*cells, *said)] == [True] * len(cells) + [False] * 2
    assert len(cells) == (kind == "two-stage")
    scores = 4 if kind == "detr" else 3  # with the background, or without
    assert [tuple(one.logits.shape) for one in said] == [(2, 8, scores)] * 2
    assert [tuple(one.boxes.shape) for one in said] == [(2, 8, 4)] * 2


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_takes_part(
    kind: str, batch: ImageBatch, targets: list[Target], objects: bool
) -> None:
    detector = make(kind)

    losses = detector.losses(batch, targets if objects else [targets[1]] * 2)
    sum(losses.values()).backward()

    assert list(losses) == ["loss_cls", "loss_l1", "loss_giou"]
    assert all(weight.grad is not None for weight in detector.parameters())
    assert (losses["loss_l1"] > 0) == objects


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_unequal_images_is_each_of_them_within_its_padding(
    kind: str, batch: ImageBatch
) -> None:
    detector = make(kind).eval()
    other = ImageBatch(batch.pixels.clone(), batch.sizes, batch.originals)
    other.pixels[1, :, 50:] = 200  # what lies in the padding is not seen

    with torch.no_grad():
        [first], [second] = detector.detect(batch), detector.detect(other)
        alone = ImageBatch(batch.pixels[1:], batch.sizes[1:], batch.originals[1:])
        [[single]] = detector.detect(alone)

    for one in (second[1], single):
        torch.testing.assert_close(one.boxes, first[1].boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(one.scores, first[1].scores)


@pytest.mark.parametrize("kind", ["detr", "deformable"])
def test_it_learns_two_images_by_heart(kind: str, batch: ImageBatch) -> None:
    detector = make(kind, dropout=0.0)
    none = torch.zeros(0, 4)
    two = torch.tensor([[4.0, 4, 36, 36], [40, 10, 90, 60]])
    targets = [
        Target(two, torch.tensor([0, 2]), none),
        Target(torch.tensor([[10.0, 12, 60, 40]]), torch.tensor([1]), none),
    ]
    draw(batch, targets)
    with torch.no_grad():
        features = detector.backbone(detector.pixels(batch))  # learning by heart needs no better
    weights = [*detector.neck.parameters(), *detector.get_submodule("head").parameters()]

    def losses() -> dict[str, Tensor]:
        said = detector.head(detector.neck(features), batch)
        return set_losses(said, batch.sizes, targets, detector.loss)

    learn(losses, weights, steps=200, lr=3e-3)

    with torch.no_grad():
        [found] = detector.eval().detect(batch)

    for own, target in zip(found, targets, strict=True):
        count = len(target.labels)
        order = own.labels[:count].argsort()
        assert own.labels[order].tolist() == target.labels.tolist()
        assert (own.boxes[order] / 2 - target.boxes).abs().max() < 6
        assert own.scores[count - 1] > 1.5 * own.scores[count]


def test_detr_answers_with_one_class_a_query_and_deformable_with_several(
    batch: ImageBatch,
) -> None:
    plain, several = make("detr").eval(), make("deformable").eval()

    with torch.no_grad():
        [one], [many] = plain.detect(batch), several.detect(batch)
        logits = plain.head(plain.extract(batch), batch)[-1].logits

    assert [len(found) for found in (*one, *many)] == [8, 8, 24, 24]
    best = logits[0].softmax(-1)[:, 1:].max(-1).values.sort(descending=True).values
    torch.testing.assert_close(one[0].scores, best)
    assert all((found.boxes >= 0).all() for found in (*one, *many))  # cut at the edges
    assert (one[0].boxes <= torch.tensor([192, 128, 192, 128])).all()


@pytest.mark.parametrize("kind", ["detr", "deformable", "two-stage"])
def test_in_half_precision_it_detects_nearly_the_same(kind: str, batch: ImageBatch) -> None:
    detector = make(kind).eval()
    stage = 0 if kind == "two-stage" else -1  # what a cell says may be asked in another order

    with torch.no_grad():
        exact = detector.head(detector.extract(batch), batch)[stage]
        for part in detector.parts().values():  # as `prepare` of the runtime does
            part.to(torch.bfloat16)
        half = detector.head(detector.extract(batch), batch)[stage]

    assert half.boxes.dtype == half.logits.dtype == torch.float32
    assert (half.boxes - exact.boxes).abs().max() < 2
    assert (half.logits - exact.logits).abs().max() < 0.1


def test_rows_by_class_have_the_background_first_in_detr_and_none_in_deformable() -> None:
    of_detr, of_refined = make("detr").predictors(), make("refined").predictors()

    assert list(of_detr) == ["head.cls.weight", "head.cls.bias"]
    assert {one.background for one in of_detr.values()} == {"first"}
    assert list(of_refined) == [f"head.cls.{n}.{p}" for n in (0, 1) for p in ("weight", "bias")]
    assert {one.background for one in of_refined.values()} == {"none"}


def test_what_all_classes_share_in_the_first_goes_to_the_first_of_others() -> None:
    source = make("two-stage")
    state = source.state_dict()
    before = ModelFile(config_of("two-stage"), ("cat", "dog", "cow"), (1, 2, 3), state)
    torch.manual_seed(1)
    other = build_detector(before.config, classes=2)

    started, copied = transfer(before, other, ("cow", "owl"), {})

    assert [row.source for row in copied.rows] == ["cow", None]
    for part in ("weight", "bias"):
        cells, queries = (state[f"head.{name}.{part}"] for name in ("proposals.cls", "cls.1"))
        assert torch.equal(started[f"head.proposals.cls.{part}"], cells[:2])
        assert torch.equal(started[f"head.cls.1.{part}"][0], queries[2])


def test_a_cell_at_the_edge_or_in_the_padding_is_not_asked() -> None:
    torch.manual_seed(0)
    proposals = Proposals(8, scores=3, count=5)
    inside = torch.zeros(1, 3, 120, dtype=torch.bool)
    inside[:, :2, :110] = True
    x = torch.randn(1, 360, 8)

    found = proposals(x, [inside])

    asked = (found.boxes != 1).any(dim=-1).view(3, 120)
    row = (torch.arange(120) >= 1) & (torch.arange(120) < 109)  # 0.5 / 110 is too near
    assert torch.equal(asked, row & torch.tensor([[True], [True], [False]]))
    assert found.reference.shape == (1, 5, 4)
    assert not found.reference.requires_grad
    assert own_boxes([inside])[0, 121].tolist() == pytest.approx([1.5 / 110, 0.75, 0.05, 0.05])


def test_a_loss_of_any_class_is_that_of_the_first_class(batch: ImageBatch) -> None:
    detector = make("two-stage")
    cells, *layers = detector.head(detector.extract(batch), batch)
    boxes = torch.tensor([[4.0, 4, 36, 36], [40, 10, 90, 60]])
    both = [Target(boxes, torch.tensor(labels), boxes[:0]) for labels in ([2, 1], [1, 0])]
    first = [Target(one.boxes, torch.zeros(2).long(), one.ignore) for one in both]

    together = set_losses([cells, *layers], batch.sizes, both, detector.loss)
    of_cells = set_losses([cells._replace(any_class=False)], batch.sizes, first, detector.loss)
    of_layers = set_losses(layers, batch.sizes, both, detector.loss)

    for name, loss in together.items():
        torch.testing.assert_close(loss, of_cells[name] + of_layers[name])


# the set loss with a softmax


def said(best: list[int], boxes: list[list[float]]) -> list[Said]:
    logits = torch.zeros(1, len(best), 4)
    logits[0, torch.arange(len(best)), torch.tensor(best)] = 2
    return [Said(logits.requires_grad_(), torch.tensor([boxes]))]


SIDES = torch.tensor([[100, 200]])
NEAR, HIDDEN, FAR = [10.0, 10, 50, 50], [60.0, 60, 90, 90], [120.0, 10, 160, 50]


def test_cross_entropy_is_a_mean_in_which_the_background_weighs_a_tenth() -> None:
    stages = said([2, 0, 0], [NEAR, HIDDEN, FAR])
    one = Target(torch.tensor([NEAR]), torch.tensor([1]), torch.zeros(0, 4))

    loss = set_losses(stages, SIDES, [one], SoftmaxSetLoss())["loss_cls"]

    right = -torch.tensor([2.0, 0, 0, 0]).log_softmax(0)[0]
    assert loss.item() == pytest.approx((right * 1.2 / 1.2).item())


def test_a_query_in_a_region_to_ignore_is_not_taught_the_background() -> None:
    stages = said([2, 1, 0], [NEAR, HIDDEN, FAR])
    region = torch.tensor([[55.0, 55, 95, 95]])
    one = Target(torch.tensor([NEAR]), torch.tensor([1]), region)

    owners = find_owners(stages, SIDES, [one], SoftmaxSetLoss()).owners
    loss = set_losses(stages, SIDES, [one], SoftmaxSetLoss())["loss_cls"]
    [gradient] = torch.autograd.grad(loss, stages[0].logits)

    assert owners[0, 0, 1] == UNDECIDED
    assert not gradient[0, 1].any()
    assert gradient[0, 2].all()


def test_no_object_and_only_ignored_queries_give_no_loss_but_a_gradient() -> None:
    stages = said([0, 0], [NEAR, FAR])
    everywhere = torch.tensor([[0.0, 0, 200, 100]])
    nothing = Target(torch.zeros(0, 4), torch.zeros(0).long(), everywhere)

    losses = set_losses(stages, SIDES, [nothing], SoftmaxSetLoss())
    sum(losses.values()).backward()

    assert [x.item() for x in losses.values()] == [0, 0, 0]
    assert stages[0].logits.grad is not None


# transformers' traps; those of outputs and losses are in tests/weights/test_transformers.py


def test_the_backbone_is_ours_and_learns() -> None:
    detector = make("detr")

    assert all(weight.requires_grad for weight in detector.backbone.parameters())
    assert not [name for name in detector.state_dict() if "head" in name and "backbone" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_where_the_papers_have_it_and_not_on_the_encoders_input(
    kind: str, batch: ImageBatch
) -> None:
    detector = make(kind, dropout=0.5).train()
    head = detector.get_submodule("head")
    seen = []
    head.encoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    levels = detector.extract(batch)
    detector.head(levels, batch)

    assert torch.equal(seen[0], torch.cat([level.flatten(2).mT for level in levels], dim=1))
    for layer in (*head.encoder, *head.decoder):
        assert (layer.dropout, layer.mlp.dropout, layer.mlp.activation_dropout) == (0.5,) * 3
        own = layer.self_attn
        assert getattr(own, "attention_dropout", 0.5) == 0.5


def test_the_necks_convolutions_have_a_bias_only_where_asked() -> None:
    without, asked = make("deformable").neck, make("detr").neck

    assert not [name for name in without.state_dict() if name.endswith("conv.bias")]
    assert [name for name in asked.state_dict() if name.endswith("conv.bias")]


def test_its_image_processor_is_not_loaded() -> None:
    make("detr")

    assert not [name for name in sys.modules if name.startswith("transformers.models.detr.image")]


def test_without_transformers_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transformer, "find_spec", lambda name: None)

    with pytest.raises(DhError, match="needs transformers") as raised:
        make("detr")

    assert raised.value.hint == "pip install 'dhcli[detr]'"


# settings that do not fit


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ({"neck": {"channels": 18}}, r"no multiple of `head\.attention_heads`"),
        ({"neck": {"finest": 4}}, "sees one level"),
        ({"neck": {"finest": 5, "coarsest": 4}}, "coarsest 4 is below finest 5"),
        ({"head": {"kind": "deformable", "two_stage": True}}, "needs `refine: true`"),
    ],
)
def test_what_does_not_fit_is_refused(model: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Config.model_validate({"model": {"kind": "detr", **model}})


def test_first_scores_and_looks_of_deformable_detr() -> None:
    head = make("deformable").get_submodule("head")
    bias = head.encoder[0].self_attn.sampling_offsets.bias.view(2, 4, 4, 2)

    assert torch.sigmoid(head.cls[0].bias).tolist() == pytest.approx([0.01] * 3)
    assert head.reg[0][-1].bias.tolist() == [0, 0, -2, -2]
    assert bias[0, 3].tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]]
    assert bias[1, 0, :, 0].tolist() == [-1, -2, -3, -4]


def test_transformers_is_imported_by_no_module_as_it_loads() -> None:
    """Other detectors start as fast as without it."""
    early = [
        path.name
        for path in Path(dhcli.__file__).parent.rglob("*.py")
        if re.search(r"^(from|import) transformers\b", path.read_text("utf-8"), re.MULTILINE)
    ]

    assert early == []

"""Sparse R-CNN: what it says, that all of it learns, and the detections it gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dhcli.config.detecting import DetectOptions
from dhcli.config.schema import Config
from dhcli.models.fast import prepare_for_training
from dhcli.models.queries.detector import QueryDetector
from dhcli.models.queries.set_loss import set_losses
from dhcli.models.select import SelectBest
from dhcli.ops.batch import ImageBatch, Target
from tests.by_heart import draw, learn

Make = Callable[..., QueryDetector]


def test_first_boxes_are_parts_of_the_image_within_the_padding(
    sparse: Make, batch: ImageBatch
) -> None:
    head = sparse().head
    with torch.no_grad():
        head.boxes[0] = torch.tensor([0.25, 0.5, 0.5, 0.2])

    boxes = head.first_boxes(batch.sizes)

    assert boxes[0, 0].tolist() == pytest.approx([0, 0.4 * 64, 0.5 * 96, 0.6 * 64])
    assert boxes[1, 0].tolist() == pytest.approx([0, 0.4 * 50, 0.5 * 80, 0.6 * 50])
    assert boxes[1, 1].tolist() == [0, 0, 80, 50]  # before it learns: all of the image


def test_every_stage_says_something_of_every_proposal(sparse: Make, batch: ImageBatch) -> None:
    detector = sparse(stages=3)

    stages = detector.head(detector.extract(batch), batch)

    assert [tuple(said.logits.shape) for said in stages] == [(2, 12, 3)] * 3
    assert [tuple(said.boxes.shape) for said in stages] == [(2, 12, 4)] * 3
    scores = torch.cat([said.logits.sigmoid().flatten() for said in stages])
    assert 0.001 < scores.median() < 0.1  # it begins with one in a hundred


@pytest.mark.parametrize("objects", [True, False])
@pytest.mark.parametrize("fast", [True, False])
def test_every_weight_takes_part(
    sparse: Make, batch: ImageBatch, targets: list[Target], objects: bool, fast: bool
) -> None:
    detector = sparse()
    if fast:
        prepare_for_training(detector)

    losses = detector.losses(batch, targets if objects else [targets[1]] * 2)
    sum(losses.values()).backward()

    assert list(losses) == ["loss_cls", "loss_l1", "loss_giou"]
    assert all(weight.grad is not None for weight in detector.parameters())
    assert (losses["loss_l1"] > 0) == objects
    moved = detector.head.boxes.grad
    assert moved is not None
    assert bool(moved.any()) == objects


def test_a_batch_of_unequal_images_is_each_of_them_alone(sparse: Make, batch: ImageBatch) -> None:
    detector = sparse().eval()
    with torch.no_grad():
        for stage in detector.head.stages:
            stage.reg.weight *= 0.1
        [together] = detector.detect(batch)
        alone = ImageBatch(batch.pixels[1:], batch.sizes[1:], batch.originals[1:])
        [[single]] = detector.detect(alone)

    torch.testing.assert_close(together[1].boxes, single.boxes, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(together[1].scores, single.scores)


def test_it_learns_two_images_by_heart(sparse: Make, batch: ImageBatch) -> None:
    detector = sparse(proposals=8).eval()
    none = torch.zeros(0, 4)
    two = torch.tensor([[4.0, 4, 36, 36], [40, 10, 90, 60]])
    targets = [
        Target(two, torch.tensor([0, 2]), none),
        Target(torch.tensor([[10.0, 12, 60, 40]]), torch.tensor([1]), none),
    ]
    draw(batch, targets)
    with torch.no_grad():
        features = detector.backbone(detector.pixels(batch))  # learning by heart needs no better
    weights = [*detector.neck.parameters(), *detector.head.parameters()]

    def losses() -> dict[str, Tensor]:
        stages = detector.head(detector.neck(features), batch)
        return set_losses(stages, batch.sizes, targets, detector.loss)

    learn(losses, weights, steps=300)

    with torch.no_grad():
        [found] = detector.detect(batch)

    for own, target in zip(found, targets, strict=True):
        count = len(target.labels)
        order = own.labels[:count].argsort()
        assert own.labels[order].tolist() == target.labels.tolist()
        assert (own.boxes[order] / 2 - target.boxes).abs().max() < 4
        assert own.scores[count - 1] > 1.5 * own.scores[count]


def test_the_best_of_all_boxes_and_classes_are_taken_as_they_are() -> None:
    boxes = torch.tensor([[-5.0, 0, 10, 10], [0, 0, 400, 10], [1, 1, 2, 2]])
    scores = torch.tensor([[0.9, 0.8, 0.0], [0.1, 0.7, 0.2], [0.0, 0.0, 0.0]])
    sizes = torch.tensor([100, 50]), torch.tensor([200, 50])
    rule = Config.model_validate({"model": {"kind": "queries"}}).model.detect

    every = SelectBest()(boxes, scores, *sizes, rule)
    best = SelectBest()(boxes, scores, *sizes, DetectOptions(most=3, threshold=0.75).over(rule))

    assert every.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.2, 0.1])
    assert every.labels.tolist() == [0, 1, 1, 2, 0]
    assert every.boxes[:3].tolist() == [[-5, 0, 10, 20], [-5, 0, 10, 20], [0, 0, 400, 20]]
    assert best.labels.tolist() == [0, 1]


def test_each_stage_has_rows_by_class(sparse: Make) -> None:
    detector = sparse()
    state = detector.state_dict()

    names = detector.predictors()

    assert list(names) == [f"head.stages.{n}.cls.{p}" for n in (0, 1) for p in ("weight", "bias")]
    assert all(len(state[name]) == 3 for name in names)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no multiple of `head\.attention_heads`"):
        Config.model_validate({"model": {"kind": "queries", "neck": {"channels": 100}}})

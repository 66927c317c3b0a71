"""From scored boxes to detections: NMS within classes, and across them where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from dhcli.config.detecting import DetectOptions
from dhcli.config.schema import Detect
from dhcli.config.schema.detect import SoftNms
from dhcli.models.select import Nms, Select
from dhcli.ops.batch import Detections
from dhcli.ops.box_rules import BoxRules

SIZE = torch.tensor([100, 100])


def select(
    boxes: Tensor, scores: Tensor, labels: Tensor, how: str = "exact", **rule: Any
) -> Detections:
    return Select(BoxRules(), Nms(how), 3)(boxes, scores, labels, SIZE, SIZE * 2, Detect(**rule))


def test_of_two_classes_on_one_object_the_better_stays() -> None:
    square = [10.0, 10.0, 50.0, 50.0]
    boxes = torch.tensor([square, [10, 10, 50, 48], [60, 60, 90, 90], [10, 10, 50, 40], square])
    scores = torch.tensor([0.6, 0.9, 0.3, 0.8, 0.2])
    labels = torch.tensor([0, 1, 0, 2, 0])

    usual = select(boxes, scores, labels)
    found = select(boxes, scores, labels, across_classes=0.85)

    assert usual.labels.tolist() == [1, 2, 0, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])  # 38/40 goes, 30/38 stays
    assert found.labels.tolist() == [1, 2, 0]
    assert found.boxes[0].tolist() == [20, 20, 100, 96]


@pytest.mark.parametrize("how", ["exact", "mmdet", "torchvision"])
@pytest.mark.parametrize("most", [30, 1000])
def test_across_classes_equals_a_loop_over_what_the_classes_kept(how: str, most: int) -> None:
    boxes, scores, labels = crowd(300)
    kept = select(boxes, scores, labels, how, max_detections=1000)
    expected: list[int] = []
    overlap = box_iou(kept.boxes.double(), kept.boxes.double())
    for row in range(len(kept)):
        if all(overlap[row, better] <= 0.6 for better in expected):
            expected.append(row)

    found = select(boxes, scores, labels, how, max_detections=most, across_classes=0.6)

    assert 30 < len(expected) < len(kept)
    assert expected[29] > 29  # the limit counts what is left
    for part in ("boxes", "scores", "labels"):
        assert torch.equal(getattr(found, part), getattr(kept, part)[expected[:most]])


def test_off_runs_one_nms_with_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    forward = Nms.forward
    monkeypatch.setattr(Nms, "forward", lambda *a: (calls.append(a[4:]), forward(*a))[1])

    select(*crowd(20), max_detections=5)

    assert calls == [(0.5, (5, 0, False), 3)]


def test_nothing_is_found_where_nothing_is() -> None:
    empty = torch.zeros(0)

    assert len(select(torch.zeros(0, 4), empty, empty.long(), across_classes=0.5)) == 0


def crowd(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes of three classes that overlap much, their scores and labels."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 15 + torch.rand(count, 2, generator=generator) * 30], 1)
    scores = torch.rand(count, generator=generator)
    return boxes, scores, torch.randint(0, 3, (count,), generator=generator)


def test_soft_nms_gives_the_scores_that_are_left() -> None:
    """In pixels of the original, where the IoU is 0.6; then NMS across classes takes the second."""
    boxes = torch.tensor([[0.0, 0, 8, 10], [2, 0, 10, 10], [50, 50, 60, 60], [2, 0, 10, 9]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.5]), torch.tensor([1, 1, 0, 2])
    soft = SoftNms(kind="soft")

    found = select(boxes, scores, labels, nms=soft)
    best = select(boxes, scores, labels, nms=soft, max_detections=2)
    across = select(boxes, scores, labels, nms=soft, across_classes=0.85)

    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.5, 0.32])
    assert found.labels.tolist() == [1, 0, 2, 1]
    assert found.boxes[3].tolist() == [4, 0, 20, 20]
    assert best.scores.tolist() == pytest.approx([0.9, 0.7])
    assert across.labels.tolist() == [1, 0, 2]


def test_a_threshold_that_is_asked_for_holds_after_soft_nms() -> None:
    configured = Detect(nms=SoftNms(kind="soft"))

    assert (configured.lowest(), Detect().lowest()) == (1e-3, 0.05)
    assert DetectOptions(threshold=0.3).over(configured).lowest() == 0.3
    assert DetectOptions(nms="soft").over(Detect()) == configured
    assert DetectOptions(nms="hard").over(configured) == Detect()
    kept = DetectOptions(nms="soft").over(Detect(nms=SoftNms(kind="soft", method="gaussian")))
    assert kept.nms.method == "gaussian"

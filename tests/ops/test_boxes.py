"""Box arithmetic against hand-computed numbers and torchvision's."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import generalized_box_iou

from dhcli.ops.boxes import (
    clip_boxes,
    covered_by,
    decode_boxes,
    encode_boxes,
    enlarge_boxes,
    generalized_iou,
    iou_matrix,
)

STD = (0.1, 0.1, 0.2, 0.2)


def random_boxes(count: int, seed: int = 0) -> Tensor:
    corner = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)) * 100
    size = 1 + torch.rand(count, 2, generator=torch.Generator().manual_seed(seed + 1)) * 50
    return torch.cat([corner, corner + size], dim=1)


def test_deltas_of_a_shifted_and_doubled_box() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    box = torch.tensor([[5.0, 0.0, 25.0, 20.0]])  # centre 10 to the right, twice as wide

    deltas = encode_boxes(box, anchor, (1.0, 1.0, 1.0, 1.0))

    assert torch.allclose(deltas, torch.tensor([[1.0, 0.0, torch.log(torch.tensor(2.0)), 0.0]]))


def test_encode_and_decode_agree_with_torchvision() -> None:
    boxes, anchors = random_boxes(50), random_boxes(50, seed=7)
    coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))

    deltas = encode_boxes(boxes, anchors, STD)

    assert torch.allclose(deltas, coder.encode_single(boxes, anchors), atol=1e-4)
    theirs = coder.decode_single(deltas, anchors)
    assert torch.allclose(decode_boxes(deltas, anchors, STD), theirs, atol=1e-4)


def test_decode_undoes_encode() -> None:
    boxes, anchors = random_boxes(50), random_boxes(50, seed=7)

    assert torch.allclose(
        decode_boxes(encode_boxes(boxes, anchors, STD), anchors, STD), boxes, atol=1e-3
    )


def test_decode_keeps_huge_deltas_finite() -> None:
    deltas = torch.tensor([[0.0, 0.0, 1e6, 1e6]])

    boxes = decode_boxes(deltas, torch.tensor([[0.0, 0.0, 16.0, 16.0]]), STD)

    assert torch.allclose(boxes[0, 2:] - boxes[0, :2], torch.tensor([1000.0, 1000.0]))


def test_decode_broadcasts_over_classes() -> None:
    deltas, anchors = torch.zeros(3, 5, 4), random_boxes(3)

    boxes = decode_boxes(deltas, anchors[:, None], STD)

    assert boxes.shape == (3, 5, 4)
    assert torch.allclose(boxes[:, 2], anchors, atol=1e-5)


def test_decode_is_float32_under_half_precision() -> None:
    deltas = torch.zeros(1, 4, dtype=torch.bfloat16)

    boxes = decode_boxes(deltas, torch.tensor([[300.3, 0.0, 611.7, 9.0]]), STD)

    assert boxes.dtype == torch.float32
    assert boxes[0, 0] == pytest.approx(300.3, abs=1e-3)


@pytest.mark.parametrize(
    ("legacy", "expected"),
    [(False, [0.0, 0.0, 40.0, 30.0]), (True, [0.0, 0.0, 40.0, 30.0])],
)
def test_clip_to_height_and_width(legacy: bool, expected: list[float]) -> None:
    boxes = torch.tensor([[-5.0, -5.0, 99.0, 99.0]])

    clipped = clip_boxes(boxes, torch.tensor([30, 40]), legacy_plus_one=legacy)

    assert clipped[0].tolist() == expected


def test_legacy_clip_leaves_one_pixel_of_a_box_outside() -> None:
    boxes = torch.tensor([[50.0, 50.0, 60.0, 60.0]])  # wholly beyond a 40 × 30 image
    size = torch.tensor([30, 40])

    assert clip_boxes(boxes, size)[0].tolist() == [40, 30, 40, 30]
    assert clip_boxes(boxes, size, legacy_plus_one=True)[0].tolist() == [39, 29, 40, 30]


def test_enlarge_about_the_centre() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0]])

    assert torch.allclose(enlarge_boxes(box, 1.3), torch.tensor([[7.0, 17.0, 33.0, 43.0]]))
    assert enlarge_boxes(box, 1.0) is box


def test_iou_agrees_with_torchvision() -> None:
    a, b = random_boxes(20), random_boxes(30, seed=3)

    assert torch.allclose(iou_matrix(a, b), torchvision.ops.box_iou(a, b), atol=1e-6)


def test_covered_by_is_the_share_of_the_box_itself() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    regions = torch.tensor([[5.0, 0.0, 100.0, 10.0], [0.0, 0.0, 2.0, 10.0]])

    assert covered_by(boxes, regions).tolist() == [0.5, 1.0]
    assert covered_by(boxes, regions[:0]).tolist() == [0.0, 0.0]


def test_generalized_iou_is_torchvisions_for_pairs_and_for_all() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(30, 2, generator=generator) * 40
    boxes = torch.cat([corner, corner + 1 + torch.rand(30, 2, generator=generator) * 30], 1)
    a, b = boxes[:18].double(), boxes[12:].double()

    every = generalized_iou(a[:, None], b)

    torch.testing.assert_close(every, generalized_box_iou(a, b))
    torch.testing.assert_close(generalized_iou(a, b), every.diagonal())
    assert every.min() < 0
    assert every.max() == 1


def test_generalized_iou_of_boxes_without_an_area_is_a_number() -> None:
    point = torch.tensor([[3.0, 3, 3, 3]], requires_grad=True)

    overlap = generalized_iou(point, torch.tensor([[3.0, 3, 3, 3]]))
    overlap.sum().backward()

    assert torch.isfinite(overlap).all()
    assert torch.isfinite(point.grad).all()

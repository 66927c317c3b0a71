"""Matching and sampling on hand-made boxes."""

from __future__ import annotations

import pytest
import torch

from dhcli.ops import match
from dhcli.ops.match import BACKGROUND, UNDECIDED, match_boxes, sample_matches

OBJECTS = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 110.0, 110.0]])
NOTHING = torch.zeros(0, 4)
RPN = {"positive_iou": 0.7, "negative_iou": 0.3}


def test_positive_undecided_and_background() -> None:
    boxes = torch.tensor(
        [
            [0.0, 0.0, 10.0, 8.0],  # IoU 0.8 with object 0
            [0.0, 0.0, 10.0, 5.0],  # 0.5
            [0.0, 0.0, 10.0, 2.0],  # 0.2
            [100.0, 100.0, 110.0, 110.0],  # object 1 itself
        ]
    )

    assert match_boxes(boxes, OBJECTS, NOTHING, **RPN).tolist() == [0, UNDECIDED, BACKGROUND, 1]


def test_every_object_gets_its_best_boxes_even_weak_and_tied_ones() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 2.0], [0.0, 8.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]])

    matches = match_boxes(boxes, OBJECTS, NOTHING, **RPN, best_for_each=True)

    assert matches.tolist() == [0, 0, BACKGROUND]  # object 1 touches nothing and gets nothing


def test_no_objects_is_all_background() -> None:
    assert match_boxes(OBJECTS, NOTHING, NOTHING, **RPN).tolist() == [BACKGROUND] * 2


def test_no_boxes_match_nothing() -> None:
    for objects, region in ((OBJECTS, NOTHING), (NOTHING, OBJECTS), (OBJECTS, OBJECTS)):
        matches = match_boxes(NOTHING, objects, region, **RPN, best_for_each=True)

        assert matches.shape == (0,)
        assert matches.dtype == torch.int64


def test_background_inside_an_ignored_region_is_undecided() -> None:
    boxes = torch.tensor([[50.0, 50.0, 60.0, 60.0], [58.0, 50.0, 68.0, 60.0]])
    region = torch.tensor([[40.0, 40.0, 60.0, 60.0]])  # covers all of the first, 0.2 of the second

    assert match_boxes(boxes, OBJECTS, region, **RPN).tolist() == [UNDECIDED, BACKGROUND]


def test_an_object_inside_an_ignored_region_stays_an_object() -> None:
    region = torch.tensor([[0.0, 0.0, 200.0, 200.0]])

    assert match_boxes(OBJECTS, OBJECTS, region, **RPN).tolist() == [0, 1]


def test_sampling_fills_up_with_background_and_never_takes_undecided() -> None:
    matches = torch.tensor([3, 0, UNDECIDED, 1, BACKGROUND, UNDECIDED] + [BACKGROUND] * 20)

    positive, negative = sample_matches(matches, count=8, positive_fraction=0.25)

    assert len(positive) == 2
    assert set(positive.tolist()) <= {0, 1, 3}
    assert len(negative) == 6
    assert (matches[negative] == BACKGROUND).all()


def test_sampling_is_random_but_seeded() -> None:
    matches = torch.full((1000,), BACKGROUND)

    def draw(seed: int) -> list[int]:
        torch.manual_seed(seed)
        return sample_matches(matches, 10, 0.5)[1].tolist()

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


@pytest.mark.parametrize("pairs", [1, 130, 1000])
@pytest.mark.parametrize("best_for_each", [False, True])
def test_many_objects_are_matched_in_pieces_to_the_same_result(
    pairs: int, best_for_each: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)

    def some(count: int) -> torch.Tensor:
        corner = torch.randint(0, 30, (count, 2)).float()  # whole numbers: many are tied
        return torch.cat([corner, corner + torch.randint(1, 12, (count, 2))], dim=1)

    boxes, objects, ignore = some(128), some(20).repeat(2, 1), some(5)
    how = {"positive_iou": 0.4, "negative_iou": 0.2, "best_for_each": best_for_each}
    whole = match_boxes(boxes, objects, ignore, **how)

    monkeypatch.setattr(match, "PAIRS", pairs)

    assert torch.equal(match_boxes(boxes, objects, ignore, **how), whole)
    assert len(set(whole.tolist())) > 10


def test_memory_of_matching_does_not_grow_with_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    measure = match.iou_matrix

    def watched(part: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        seen.append(len(part) * len(boxes))
        return measure(part, boxes)

    monkeypatch.setattr(match, "iou_matrix", watched)
    objects = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(3000, 1)

    match_boxes(torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(5000, 1), objects, NOTHING, **RPN)

    assert sum(seen) == 3000 * 5000
    assert max(seen) <= match.PAIRS

"""The set loss beyond the transcription's: more objects than queries, regions to ignore."""

from __future__ import annotations

import pytest
import torch

from dhcli.config.schema import SetLoss
from dhcli.models.queries.set_loss import Said, find_owners, match_costs, set_losses
from dhcli.ops.batch import Target
from dhcli.ops.match import BACKGROUND, UNDECIDED

SIZES = torch.tensor([[100, 200]])
NONE = torch.zeros(0, 4)


def said(boxes: list[list[float]], *best: int) -> list[Said]:
    """Two stages that say the same: of each box, the class that scores."""
    logits = torch.full((1, len(boxes), 3), -3.0)
    for query, label in enumerate(best):
        logits[0, query, label] = 3
    return [Said(logits.requires_grad_(), torch.tensor([boxes]))] * 2


def target(boxes: list[list[float]], *labels: int, ignore: torch.Tensor = NONE) -> Target:
    return Target(torch.tensor(boxes).view(-1, 4), torch.tensor(labels).long(), ignore)


NEAR, FAR, HIDDEN = [10.0, 10, 50, 50], [120.0, 10, 160, 50], [60.0, 60, 90, 90]


def test_every_object_has_one_query_and_of_too_many_objects_some_have_none() -> None:
    one = target([NEAR, [12, 12, 50, 52]], 1, 1)

    many = find_owners(said([NEAR, FAR, HIDDEN], 1, 2, 0), SIZES, [one], SetLoss())
    few = find_owners(said([NEAR], 1), SIZES, [one], SetLoss())

    assert sorted(many.owners[0, 0].tolist()) == [BACKGROUND, 0, 1]
    assert many.owners[0, 0, 0] == 0
    assert few.owners.tolist() == [[[0]], [[0]]]


def test_a_query_in_a_region_to_ignore_is_not_taught_that_nothing_is_there() -> None:
    region = torch.tensor([[55.0, 55, 95, 95]])
    stages = said([NEAR, HIDDEN, FAR], 1, 0, -1)
    shown = target([NEAR], 1)
    ignored = target([NEAR], 1, ignore=region)

    owners = find_owners(stages, SIZES, [ignored], SetLoss()).owners
    loss = set_losses(stages, SIZES, [ignored], SetLoss())["loss_cls"]
    [gradient] = torch.autograd.grad(loss, stages[0].logits)

    assert owners.tolist() == [[[0, UNDECIDED, BACKGROUND]]] * 2
    assert not gradient[0, 1].any()
    assert gradient[0, 2].all()
    assert loss < set_losses(stages, SIZES, [shown], SetLoss())["loss_cls"]


def test_an_object_in_a_region_to_ignore_is_still_found() -> None:
    everywhere = torch.tensor([[0.0, 0, 200, 100]])

    owners = find_owners(said([NEAR, FAR], 1, 1), SIZES, [target([NEAR], 1, ignore=everywhere)],
                         SetLoss()).owners  # fmt: skip

    assert owners[0].tolist() == [[0, UNDECIDED]]


def test_the_cost_weighs_scores_sides_and_overlap() -> None:
    boxes = said([NEAR], 1)[0]
    one = target([[20.0, 10, 60, 50]], 1)
    sides = torch.tensor([200.0, 100, 200, 100])

    def cost(**weights: float) -> float:
        config = SetLoss(**{"cls": 0, "l1": 0, "giou": 0} | weights)
        return match_costs(boxes, one, sides, config).item()

    p = torch.sigmoid(torch.tensor(3.0))
    focal = -0.25 * (1 - p) ** 2 * p.log() + 0.75 * p**2 * (1 - p).log()
    assert cost(l1=5) == pytest.approx(5 * (10 + 10) / 200)
    assert cost(giou=2) == pytest.approx(-2 * 30 / 50)
    assert cost(cls=2) == pytest.approx(2 * float(focal))


def test_parts_are_divided_by_the_objects_that_have_a_query() -> None:
    stages = said([NEAR, FAR], 1, 1)
    right = target([[10.0, 10, 50, 60]], 1)
    twice = [Said(*(torch.cat([part, part]) for part in one[:2])) for one in stages]

    one = set_losses(stages, SIZES, [right], SetLoss())
    two = set_losses(twice, SIZES.repeat(2, 1), [right, right], SetLoss())

    assert one["loss_l1"].item() == pytest.approx(2 * 5 * 10 / 100)  # two stages
    assert one["loss_giou"].item() == pytest.approx(2 * 2 * (1 - 40 / 50))
    for name in one:
        torch.testing.assert_close(two[name], one[name])

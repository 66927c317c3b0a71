"""SimOTA against a statement of it that looks at one cell and one object at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dhcli.config.schema.dense import Priors as PriorsConfig
from dhcli.config.schema.dense import SimOtaAssign
from dhcli.models.dense.assigners import assign
from dhcli.ops.batch import Target
from dhcli.ops.match import BACKGROUND, UNDECIDED
from dhcli.ops.priors import Owned, Priors, Seen, lay_priors, prior_cells
from tests.references import yolox

STRIDES, SIDES, CLASSES = [8, 16, 32], [(8, 8), (4, 4), (2, 2)], 3
NONE = torch.zeros(0, 4).double()


def points() -> Priors:
    """Those of a picture of 64 × 64 pixels."""
    laid = lay_priors(prior_cells(PriorsConfig(sizes=(1,)), STRIDES), STRIDES, SIDES)
    return Priors(laid.boxes.double(), laid.strides.double(), laid.levels)


def say(generator: torch.Generator, near: Tensor, spread: float = 4.0) -> Seen:
    """Random scores; boxes about objects of `near` (M, 4), or anywhere if there are none."""
    priors = points()
    count = len(priors.boxes)
    around = near if len(near) else priors.boxes
    chosen = around[torch.randint(len(around), (count,), generator=generator)]
    boxes = chosen + spread * torch.randn(count, 4, generator=generator).double()
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    logits = torch.randn(count, CLASSES, generator=generator).double()
    quality = torch.randn(count, generator=generator).double()
    return Seen(priors, boxes, logits, quality)


def objects(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    corner = 50 * torch.rand(count, 2, generator=generator).double()
    size = 4 + 40 * torch.rand(count, 2, generator=generator).double()
    return torch.cat([corner, corner + size], 1), torch.randint(CLASSES, (count,))


def assigned(seen: Seen, boxes: Tensor, labels: Tensor, ignore: Tensor = NONE) -> Owned:
    return assign(seen, Target(boxes, labels, ignore), SimOtaAssign(kind="simota"))


def stated(seen: Seen, boxes: Tensor, labels: Tensor) -> list[int]:
    corners = seen.priors.centres()
    assert seen.quality is not None
    said = yolox.Said(corners, seen.priors.strides[:, 0], seen.logits, NONE, seen.quality)
    middles = [(x, y) for x, y in (corners + said.strides[:, None] / 2).tolist()]
    scores = (said.logits.sigmoid() * said.objectness.sigmoid()[:, None]).sqrt()
    shown = seen.boxes.tolist(), scores.tolist(), boxes.tolist(), labels.tolist()
    return yolox.simota(middles, said.strides.tolist(), *shown)


@pytest.mark.parametrize("seed", range(8))
def test_random_pictures_are_assigned_as_the_paper_says(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = objects(generator, 1 + seed)
    seen = say(generator, boxes)

    found = assigned(seen, boxes, labels)

    assert found.owners.tolist() == stated(seen, boxes, labels)
    assert found.rows.tolist() == torch.nonzero(found.owners >= 0).flatten().tolist()
    assert torch.equal(found.objects, found.owners[found.rows])


def crowd(boxes: Tensor) -> Tensor:
    return (boxes[:1].repeat(6, 1) + torch.arange(6)[:, None]).contiguous()


def twins(boxes: Tensor) -> Tensor:
    return boxes[:1].repeat(3, 1)


def far_off(boxes: Tensor) -> Tensor:
    return boxes + 500


def specks(boxes: Tensor) -> Tensor:
    return torch.cat([boxes[:, :2], boxes[:, :2] + 0.5], 1)


def whole(boxes: Tensor) -> Tensor:
    return torch.tensor([[0.0, 0, 64, 64], [16, 16, 48, 48]]).double()


@pytest.mark.parametrize("shaped", [crowd, twins, far_off, specks, whole])
def test_adversarial_objects_are_assigned_as_the_paper_says(
    shaped: Callable[[Tensor], Tensor],
) -> None:
    generator = torch.Generator().manual_seed(3)
    boxes = shaped(objects(generator, 3)[0])
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    seen = say(generator, boxes if shaped is not far_off else NONE)

    assert assigned(seen, boxes, labels).owners.tolist() == stated(seen, boxes, labels)


def test_without_objects_all_is_background() -> None:
    seen = say(torch.Generator().manual_seed(0), NONE)

    found = assigned(seen, NONE, torch.zeros(0, dtype=torch.int64))

    assert (found.owners == BACKGROUND).all()
    assert not len(found.rows)


def test_of_equal_costs_the_first_cells_are_taken() -> None:
    seen = say(torch.Generator().manual_seed(0), NONE)
    box = torch.tensor([[0.0, 0, 64, 64]]).double()
    same = box.repeat(len(seen.boxes), 1)
    same[:, 2] = 20  # IoU 0.3125: ten of them are 3 cells
    seen = Seen(seen.priors, same, torch.zeros_like(seen.logits), torch.zeros(len(same)).double())

    owners = assigned(seen, box, torch.tensor([0])).owners

    # On the finest level those within 2.5 cells of the middle, which is 32: rows and columns 2 … 5
    assert torch.nonzero(owners == 0).flatten().tolist() == [8 * 2 + 2, 8 * 2 + 3, 8 * 2 + 4]
    assert owners.tolist() == stated(seen, box, torch.tensor([0]))


def test_scores_of_certainty_cost_what_torch_says_they_do() -> None:
    generator = torch.Generator().manual_seed(5)
    boxes, labels = objects(generator, 2)
    seen = say(generator, boxes)
    assert seen.quality is not None
    sure = Seen(seen.priors, seen.boxes, 1000 * seen.logits, 1000 * seen.quality)

    assert assigned(sure, boxes, labels).owners.tolist() == stated(sure, boxes, labels)


def test_no_cell_whose_middle_lies_in_a_region_to_ignore_is_background() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes, labels = objects(generator, 3)
    seen = say(generator, boxes)
    ignore = torch.tensor([[8.0, 8, 16, 16], [30, 0, 64, 40]]).double()  # the first is one cell
    without = assigned(seen, boxes, labels).owners

    owners = assigned(seen, boxes, labels, ignore).owners

    middles = seen.priors.centres() + seen.priors.strides / 2
    inside = torch.zeros(len(owners), dtype=torch.bool)
    for x1, y1, x2, y2 in ignore.tolist():
        x, y = middles.T
        inside |= (x > x1) & (x < x2) & (y > y1) & (y < y2)
    assert inside[9]
    assert not (owners[inside] == BACKGROUND).any()
    assert torch.equal(owners[~inside], without[~inside])
    assert torch.equal(owners >= 0, without >= 0)
    assert (owners == UNDECIDED).any()

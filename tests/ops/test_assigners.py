"""Assigners of dense detectors against plain statements of their papers, one prior at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dhcli.config.schema import Priors as PriorsConfig
from dhcli.config.schema.dense import (
    AtssAssign,
    IouAssign,
    MixtureAssign,
    RangeAssign,
    UniformAssign,
)
from dhcli.models.dense.assigners import assign
from dhcli.ops.batch import Target
from dhcli.ops.match import BACKGROUND, UNDECIDED
from dhcli.ops.mixture import split_losses
from dhcli.ops.priors import Owned, Priors, Seen, lay_priors, prior_cells
from tests.references import assigners
from tests.references.dense import focal_of

STRIDES, SIDES = [8, 16, 32], [(6, 9), (3, 5), (2, 3)]
KINDS: dict[str, Any] = {
    "iou": IouAssign(kind="iou"),
    "atss": AtssAssign(candidates=4),
    "uniform": UniformAssign(kind="uniform"),
    "mixture": MixtureAssign(kind="mixture", candidates=4),
    "ranges": RangeAssign(kind="ranges"),
}
CLASSES = 3
EMPTY = torch.zeros(0, 4, dtype=torch.float64)


def laid(sizes: tuple[float, ...] = (4.0,), offset: float = 0.0) -> Priors:
    config = PriorsConfig(sizes=sizes, offset=offset)
    priors = lay_priors(prior_cells(config, STRIDES), STRIDES, SIDES)
    return priors._replace(boxes=priors.boxes.double())


def seen(priors: Priors, seed: int) -> Seen:
    """Predictions near the priors."""
    generator = torch.Generator().manual_seed(seed)
    moved = torch.randn(priors.boxes.shape, generator=generator, dtype=torch.float64)
    logits = torch.randn(len(moved), CLASSES, generator=generator, dtype=torch.float64)
    return Seen(priors, priors.boxes + 4 * moved * torch.tensor([1, 1, 0.5, 0.5]), logits, None)


def objects(seed: int, count: int) -> Target:
    generator = torch.Generator().manual_seed(100 + seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([60, 36])
    size = 3 + 40 * torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return Target(torch.cat([corner, corner + size], 1), labels, EMPTY)


def plainly(kind: str, look: Seen, target: Target) -> tuple[list[int], list[tuple[int, int]]]:
    """The owners, and the pairs of a prior and an object, as the papers say."""
    priors, wanted = look.priors.boxes.tolist(), target.boxes.tolist()
    levels = look.priors.levels.tolist()
    if kind == "uniform":
        found, pairs = assigners.uniform(priors, look.boxes.tolist(), wanted)
        return assigners.hide(found, priors, target.ignore.tolist()), pairs
    if kind == "atss":
        found = assigners.atss(priors, levels, wanted, k=4)
    elif kind == "ranges":
        found = assigners.ranges(priors, look.priors.strides[:, 0].tolist(), wanted)
    else:
        costs = [
            [_cost(look, target, i, m) for m in range(len(wanted))] for i in range(len(priors))
        ]
        found = assigners.mixture(priors, levels, costs, wanted, k=4)
    found = assigners.hide(found, priors, target.ignore.tolist())
    return found, [(i, m) for i, m in enumerate(found) if m >= 0]


def _costs(look: Seen, target: Target, i: int) -> list[float]:
    return [_cost(look, target, i, m) for m in range(len(target.boxes))]


def _cost(look: Seen, target: Target, i: int, m: int) -> float:
    focal = sum(focal_of(look.logits[i, k], k == int(target.labels[m])) for k in range(CLASSES))
    apart = 1 - assigners.giou(look.boxes[i].tolist(), target.boxes[m].tolist())
    return float(focal) + 1.3 * apart


def check(kind: str, look: Seen, target: Target) -> Owned:
    found = assign(look, target, KINDS[kind])
    owners, pairs = plainly(kind, look, target)
    assert found.owners.tolist() == owners
    assert sorted(zip(found.rows.tolist(), found.objects.tolist(), strict=True)) == sorted(pairs)
    return found


@pytest.mark.parametrize("kind", ["atss", "uniform", "mixture", "ranges"])
@pytest.mark.parametrize(("seed", "count"), [(0, 1), (1, 2), (2, 5), (3, 9)])
def test_priors_go_to_the_objects_that_the_paper_says(kind: str, seed: int, count: int) -> None:
    priors = laid((1.0,), 0.5) if kind == "ranges" else laid()
    if kind == "uniform":  # on a grid, two corners are equally near by L1
        noise = torch.randn(priors.boxes.shape, generator=torch.Generator().manual_seed(seed))
        priors = priors._replace(boxes=priors.boxes + 0.01 * noise)
    look, target = seen(priors, seed), objects(seed, count)
    target.ignore = torch.tensor([[30.0, 5, 60, 30]], dtype=torch.float64)

    found = check(kind, look, target)

    assert (found.owners >= 0).any() or count == 1
    assert (found.owners == UNDECIDED).any()


@pytest.mark.parametrize("kind", KINDS)
def test_without_objects_all_is_background_but_what_is_ignored(kind: str) -> None:
    look, none = seen(laid(), 0), objects(0, 0)

    assert (assign(look, none, KINDS[kind]).owners == BACKGROUND).all()
    none.ignore = torch.tensor([[-100.0, -100, 500, 500]], dtype=torch.float64)
    found = assign(look, none, KINDS[kind])

    assert (found.owners == UNDECIDED).all()
    assert len(found.rows) == len(found.objects) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_prior_of_a_crowd_is_taught_as_background(kind: str) -> None:
    """A box that lies in the region by more than half has its centre there."""
    look, target = seen(laid((1.0, 2.0, 6.0)), 4), objects(4, 3)
    region = torch.tensor([[21.0, 3, 66, 44]], dtype=torch.float64)
    target.ignore = region
    before = assign(look, Target(target.boxes, target.labels, EMPTY), KINDS[kind])

    found = assign(look, target, KINDS[kind])

    background = look.priors.boxes[found.owners == BACKGROUND]
    assert (share(background, region[0]) <= 0.5).all()
    kept = before.owners >= 0
    assert torch.equal(found.owners[kept], before.owners[kept])  # objects stay objects
    assert torch.equal(found.rows, before.rows)


def share(boxes: Tensor, region: Tensor) -> Tensor:
    low, high = torch.maximum(boxes[:, :2], region[:2]), torch.minimum(boxes[:, 2:], region[2:])
    size = boxes[:, 2:] - boxes[:, :2]
    return (high - low).clamp(min=0).prod(1) / size.prod(1)


@pytest.mark.parametrize("kind", ["atss", "uniform", "ranges"])
def test_the_same_object_twice_goes_to_one_of_both(kind: str) -> None:
    """All costs are equal."""
    look = seen(laid((1.0,), 0.5) if kind == "ranges" else laid(), 5)
    one = objects(5, 1)
    twice = Target(one.boxes.repeat(2, 1), one.labels.repeat(2), EMPTY)

    single, both = (assign(look, target, KINDS[kind]) for target in (one, twice))

    assert torch.equal(both.owners >= 0, single.owners >= 0)
    assert len(both.owners[both.owners >= 0].unique()) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "box", [[10.0, 10, 10, 10], [-50, -50, -40, -40], [500, 500, 900, 900], [-500, -500, 900, 900]]
)
def test_odd_objects_break_nothing(kind: str, box: list[float]) -> None:
    """A point, beyond the image on either side, and far larger than the image."""
    target = Target(torch.tensor([box]).double(), torch.tensor([0]), EMPTY)

    found = assign(seen(laid(), 6), target, KINDS[kind])

    assert set(found.owners.tolist()) <= {0, BACKGROUND, UNDECIDED}


def test_a_single_cell_is_a_level_too() -> None:
    """One candidate has no deviation."""
    priors = lay_priors(prior_cells(PriorsConfig(sizes=(4.0,)), [8]), [8], [(1, 1)])
    look = Seen(priors, priors.boxes, torch.zeros(1, CLASSES), None)
    target = Target(torch.tensor([[-9.0, -9, 9, 9]]), torch.tensor([1]), torch.zeros(0, 4))

    assert assign(look, target, KINDS["atss"]).owners.tolist() == [0]


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [1.0],
        [1.0, 1.0],
        [0.2, 0.3, 1.9, 2.0, 2.4],
        [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
        [1.0, 1.0, 1.0, 1.0],
        [0.1, 9.0],
    ],
)
def test_losses_are_split_as_by_two_gaussians(losses: list[float]) -> None:
    found = split_losses(torch.tensor(losses, dtype=torch.float64)).tolist()

    assert found == assigners.split(losses)

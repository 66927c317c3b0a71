"""One query per object, against every way to pair them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from dhcli.ops.hungarian import match_one_to_one
from dhcli.ops.match import BACKGROUND


@pytest.mark.parametrize(("queries", "objects"), [(5, 3), (3, 3), (3, 5), (4, 1), (3, 0)])
def test_no_other_way_to_pair_them_costs_less(queries: int, objects: int) -> None:
    costs = torch.randn(6, queries, objects, generator=torch.Generator().manual_seed(0))

    owners = match_one_to_one(costs)

    for cost, owner in zip(costs, owners, strict=True):
        mine = torch.nonzero(owner != BACKGROUND).flatten()
        assert len(mine) == min(queries, objects)
        assert owner[mine].unique().numel() == len(mine)
        short = cost if queries <= objects else cost.T
        ways = permutations(range(short.shape[1]), short.shape[0])
        least = min(sum(float(short[i, j]) for i, j in enumerate(way)) for way in ways)
        assert float(cost[mine, owner[mine]].sum()) == pytest.approx(least, abs=1e-6)


def test_a_cost_that_is_no_number_is_the_worst() -> None:
    costs = torch.tensor([[[torch.nan, 1.0], [5.0, torch.inf], [torch.nan, torch.nan]]])

    assert match_one_to_one(costs).tolist() == [[1, 0, BACKGROUND]]

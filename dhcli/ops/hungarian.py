"""Which query answers for which object, one to one."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.ops.match import BACKGROUND

WORST = 1e9
"""Cost of a pair whose cost is no number, in a network that has gone astray."""


def match_one_to_one(costs: Tensor) -> Tensor:
    """The object of each of N queries, so that the costs of the pairs have the least sum.

    Each object has one query; of more objects than queries, each query has one object.

    in   costs  (L, N, M) float: L matchings, each of N queries with M objects
    out  (L, N) int64, the index of an object or BACKGROUND
    """
    from scipy.optimize import linear_sum_assignment

    finite = torch.nan_to_num(costs, nan=WORST, posinf=WORST, neginf=-WORST)
    owners = torch.full(costs.shape[:2], BACKGROUND, dtype=torch.int64)
    for owner, cost in zip(owners, finite.cpu().numpy(), strict=True):
        queries, objects = linear_sum_assignment(cost)
        owner[torch.from_numpy(queries)] = torch.from_numpy(objects)
    return owners.to(costs.device)

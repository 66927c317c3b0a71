"""The operator for exporters gives what the function gives."""

from __future__ import annotations

import pytest
import torch

from dhcli.ops.nms import Limits, best_of_groups
from dhcli.ops.nms_operator import exported_best


@pytest.mark.parametrize("limits", [Limits(5), Limits(20, 3), Limits(5, 0, True)])
def test_the_operator_keeps_what_the_function_keeps(limits: Limits) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(60, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 10 + torch.rand(60, 2, generator=generator) * 20], dim=1)
    scores = (torch.rand(60, generator=generator) * 8).round() / 8  # with ties
    groups = torch.randint(0, 4, (60,), generator=generator)

    kept = exported_best(boxes, scores, groups, 4, 0.5, *limits)

    assert torch.equal(kept, best_of_groups(boxes, scores, groups, 0.5, limits, count=4))
    assert len(kept) >= 5

"""FCOS: "A Simple and Strong Anchor-free Object Detector", §3: by centre and by level."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.config.schema.dense import RangeAssign
from dhcli.ops.batch import Target
from dhcli.ops.boxes import box_area
from dhcli.ops.priors import Seen, inside, nothing


def assign_ranges(seen: Seen, target: Target, config: RangeAssign) -> Tensor:
    """The object that each prior answers for: (N,) int64 index or BACKGROUND.

    Its centre lies in the object and less than `radius` (if any) strides from its centre, and the
    farthest side of the object within the range of its level. Of several objects the smallest, of
    equals the first.
    """
    owners, objects, priors = nothing(seen.priors), target.boxes, seen.priors
    if not len(objects):
        return owners
    centres = priors.centres()
    middle = (objects[:, :2] + objects[:, 2:]) / 2
    away = (centres[:, None] - middle).abs().amax(dim=-1)  # (N, M)
    fits = inside(centres, objects) > 0
    if config.radius:
        fits &= away < config.radius * priors.strides
    sides = torch.stack([centres[:, None] - objects[:, :2], objects[:, 2:] - centres[:, None]])
    farthest = sides.amax(dim=(0, -1))
    finest, coarsest = priors.levels == 0, priors.levels == priors.levels.max()
    least = torch.where(finest[:, None], 0.0, config.smallest * priors.strides)
    most = torch.where(coarsest[:, None], torch.inf, config.largest * priors.strides)
    fits &= (farthest > least) & (farthest < most)
    area = torch.where(fits, box_area(objects), torch.inf)
    smallest, index = area.min(dim=1)
    return torch.where(smallest < torch.inf, index, owners)

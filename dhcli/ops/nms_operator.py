"""`best_of_groups` as one operator, which an exporter can put into another program's words."""

from __future__ import annotations

import torch
from torch import Tensor

from dhcli.ops.nms import Limits, grouped_nms, take_best


@torch.library.custom_op("dh::best_of_groups", mutates_args=())
def exported_best(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    count: int,
    iou_threshold: float,
    most: int,
    per_group: int,
    keep_ties: bool,
) -> Tensor:
    """See `dhcli.ops.nms.best_of_groups`."""
    keep = grouped_nms(boxes, scores, groups, iou_threshold)
    return take_best(keep, scores, groups, Limits(most, per_group, keep_ties)).clone()


@exported_best.register_fake
def _(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    count: int,
    iou_threshold: float,
    most: int,
    per_group: int,
    keep_ties: bool,
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size(max=None if keep_ties else most)
    return boxes.new_empty(kept, dtype=torch.int64)

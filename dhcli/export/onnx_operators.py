"""ONNX forms of the operators that torch's exporter lacks, or would change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnxscript import opset18

from dhcli.ops.nms import UNLIMITED

op: Any = opset18
"""Operators, traced; what they return stands for values, which onnxscript's types do not say."""
INT64 = 7
"""ONNX's number of the type."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operator → its ONNX form, for `torch.onnx.export`."""
    from dhcli.ops import nms_operator  # noqa: F401 - registers dh.best_of_groups

    dh, torchvision = torch.ops.dh, torch.ops.torchvision
    return {dh.best_of_groups.default: suppress, torchvision.roi_align.default: pool}


def suppress(
    boxes: Any,
    scores: Any,
    groups: Any,
    count: int,
    iou_threshold: float,
    most: int,
    per_group: int,
    keep_ties: bool,
) -> Any:
    """`best_of_groups` as NonMaxSuppression, which knows groups (it calls them classes).

    A box has the score -1 in every group but its own, which is below the least that counts.
    """
    first, second = op.Constant(value_ints=[0]), op.Constant(value_ints=[1])
    numbers = op.Constant(value_ints=list(range(count)))
    member = op.Equal(op.Unsqueeze(numbers, second), op.Unsqueeze(groups, first))
    elsewhere = op.Constant(value_float=-1.0)
    by_group = op.Where(member, op.Unsqueeze(scores, first), elsewhere)  # (count, N)
    # No group gives more than `most` to the best `most`, but for ties
    of_a_group = per_group or (UNLIMITED if keep_ties else most)
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, first),
        op.Unsqueeze(by_group, first),
        op.Constant(value_ints=[of_a_group]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[-0.5]),
    )  # (n, 3): image, group, row
    rows = op.Gather(chosen, op.Constant(value_int=2), axis=1)
    kept_scores = op.Gather(scores, rows)
    kept = op.Min(op.Shape(rows), op.Constant(value_ints=[most]))
    best, order = op.TopK(kept_scores, kept)
    if keep_ties:
        # above every score, so that there is a least one where nothing is kept
        nothing = op.Constant(value_floats=[2.0])
        least = op.ReduceMin(op.Concat(best, nothing, axis=0), keepdims=1)
        tied = op.Cast(op.GreaterOrEqual(kept_scores, least), to=INT64)
        _, order = op.TopK(kept_scores, op.ReduceSum(tied, first, keepdims=1))
    return op.Gather(rows, order)


def pool(
    input: Any,
    rois: Any,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int = -1,
    aligned: bool = False,
) -> Any:
    """RoIAlign with its sampling ratio, which the exporter itself would leave out.

    Its arguments have torchvision's names, by which torch 2.9 finds it.
    """
    image = op.Gather(rois, op.Constant(value_int=0), axis=1)
    return op.RoiAlign(
        input,
        op.Gather(rois, op.Constant(value_ints=[1, 2, 3, 4]), axis=1),
        op.Cast(image, to=INT64),
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        spatial_scale=spatial_scale,
        output_height=pooled_height,
        output_width=pooled_width,
        sampling_ratio=max(sampling_ratio, 0),
    )

"""Sides of a box as buckets and offsets ("Side-Aware Boundary Localization").

Sides are left, right, top, bottom; buckets of a side go from the outside in. N boxes, b = count / 2
buckets of a side.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dhcli.ops.boxes import enlarge_boxes

SIDES = (0, 2, 1, 3)
"""Left, right, top, bottom in xyxy; and back."""


class BucketGoals(NamedTuple):
    """What is to be said of the sides of N boxes.

    offsets  (N, 4, b) float, from each bucket's centre to the side, in buckets, outwards positive
    nearest  (N, 4, b) bool, the bucket whose centre is nearest to the side
    judged   (N, 4, b) bool, whether the bucket's logit has a loss: not of others within one bucket
    placed   (N, 4, b) bool, whether its offset has: of the nearest, of the second within one bucket
    """

    offsets: Tensor
    nearest: Tensor
    judged: Tensor
    placed: Tensor


def lay_buckets(boxes: Tensor, scale: float, count: int) -> tuple[Tensor, Tensor]:
    """Centres (N, 4, b) of the buckets around `boxes` (N, 4) xyxy, and their widths (N, 4, 1).

    The box, enlarged by `scale` about its centre, is cut into `count`; half of them are of a side.
    Widths of the right and the bottom are negative: inwards is against the axis.
    """
    large = enlarge_boxes(boxes, scale)
    size = (large[:, 2:] - large[:, :2]) / count
    width, height = size.unbind(1)
    widths = torch.stack([width, -width, height, -height], dim=1)[..., None]
    steps = torch.arange(count // 2, device=boxes.device).to(boxes.dtype) + 0.5
    return large[:, SIDES, None] + steps * widths, widths


def encode_buckets(goals: Tensor, boxes: Tensor, scale: float, count: int) -> BucketGoals:
    """What says that the RoIs `boxes` (N, 4) are the objects `goals` (N, 4), both float xyxy.

    offset = (centre − side) / |width|
    """
    centres, widths = lay_buckets(boxes, scale, count)
    offsets = (centres - goals[:, SIDES, None]) / widths.abs()
    far = offsets.abs()
    order = far.topk(2, dim=-1, largest=False).indices
    places = torch.arange(count // 2, device=boxes.device)
    nearest, second = places == order[..., :1], places == order[..., 1:]
    close = far < 1
    return BucketGoals(offsets, nearest, nearest | ~close, nearest | (second & close))


def decode_buckets(said: Tensor, boxes: Tensor, scale: float, count: int) -> Tensor:
    """Boxes (N, 4) float32 xyxy of the best bucket of each side of `boxes` (N, 4); not clipped.

    side = centre − offset · |width|

    in   said  (N, 4, b, 2) float, logit and offset of each bucket
    """
    centres, widths = lay_buckets(boxes, scale, count)
    logits, offsets = said.float().unbind(-1)
    best = logits.argmax(dim=-1, keepdim=True)
    sides = centres.gather(-1, best) - offsets.gather(-1, best) * widths.abs()
    return sides[:, SIDES, 0]

"""The region proposal network: which of the anchors hold an object, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import Anchors
from dhcli.config.schema import Rpn as RpnConfig
from dhcli.models.fast.winograd import Conv3x3
from dhcli.models.init import init_normal
from dhcli.models.losses import objectness_loss, regression_loss
from dhcli.ops.anchors import STRIDES, cell_anchors, grid_anchors
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import BoxRules
from dhcli.ops.boxes import encode_boxes
from dhcli.ops.match import match_boxes, sample_matches

UNIT_STD = (1.0, 1.0, 1.0, 1.0)
PLAIN = BoxRules()


@dataclass
class RpnOutput:
    """What the RPN says of every anchor of a batch, level after level.

    logits   (B, N) float
    deltas   (B, N, 4) float
    anchors  (N, 4) float32 xyxy
    counts   anchors of each level, summing to N
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    counts: list[int]


class Rpn(nn.Module):
    """A 3×3 convolution, then two 1×1, shared by all levels ("Faster R-CNN", §3.1)."""

    def __init__(
        self,
        channels: int,
        anchors: Anchors,
        config: RpnConfig,
        rules: BoxRules = PLAIN,
        strides: Sequence[int] = STRIDES,
    ) -> None:
        super().__init__()
        self.config = config
        self.rules = rules
        self.strides = strides
        self.divides = anchors.convention == "torchvision"
        cells = level_anchors(anchors, strides)
        per_cell = cells.shape[1]
        self.conv = Conv3x3(channels)
        self.cls = nn.Conv2d(channels, per_cell, 1)
        self.reg = nn.Conv2d(channels, per_cell * 4, 1)
        for conv in (self.conv, self.cls, self.reg):
            init_normal(conv, std=0.01)
        self.cells: Tensor
        self.register_buffer("cells", cells, persistent=False)

    def forward(self, levels: Sequence[Tensor]) -> RpnOutput:
        """Score and refine the anchors of P2 … P6, or of what else has the `strides`."""
        logits, deltas, anchors = [], [], []
        finest = [side * self.strides[0] for side in levels[0].shape[-2:]]
        padded = (finest[0], finest[1]) if self.divides else None
        for level, cell, stride in zip(levels, self.cells, self.strides, strict=True):
            x = F.relu(self.conv(level))
            # (B, A·c, h, w) to (B, h·w·A, c): row, column, anchor
            logits.append(self.cls(x).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.reg(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4)))
            height, width = level.shape[-2:]
            anchors.append(grid_anchors(cell, height, width, stride, padded))
        counts = [each.shape[0] for each in anchors]
        return RpnOutput(torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(anchors), counts)

    @torch.no_grad()
    def propose(self, output: RpnOutput, sizes: Tensor, *, training: bool) -> list[Tensor]:
        """The best boxes of each image, best first: B tensors (n, 4) float32 xyxy.

        in   sizes  (B, 2) int64 height, width
        """
        config = self.config
        rows, groups = self._best_of_levels(
            output, config.pre_nms_train if training else config.pre_nms_test
        )
        scores = output.logits.gather(1, rows).float().sigmoid()
        deltas = output.deltas.gather(1, rows[:, :, None].expand(-1, -1, 4))
        boxes = self.rules.decode(deltas, output.anchors[rows], UNIT_STD)
        boxes = self.rules.clip(boxes, sizes[:, None])
        limit = config.proposals_train if training else config.proposals_test
        if not training or config.proposals_per == "image":
            kept = [self._suppress(b, s, groups, limit) for b, s in zip(boxes, scores, strict=True)]
            return [b for b, _ in kept]
        kept = [
            self._suppress(b, s, groups, len(groups)) for b, s in zip(boxes, scores, strict=True)
        ]
        return _best_of_batch(kept, limit)

    def losses(
        self, levels: Sequence[Tensor], output: RpnOutput, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """loss_rpn_cls and loss_rpn_reg, each divided by the number of sampled anchors.

        Of what `forward` made of `levels`, only the anchors are read: the gradient comes from
        `revisit`.
        """
        config = self.config
        images, anchors, is_object, goals = [], [], [], []
        for index, target in enumerate(targets):
            matches = match_boxes(
                output.anchors,
                target.boxes,
                target.ignore,
                positive_iou=config.positive_iou,
                negative_iou=config.negative_iou,
                best_for_each=True,
            )
            positive, negative = sample_matches(matches, config.samples, config.positive_fraction)
            anchors.append(torch.cat([positive, negative]))
            images.append(torch.full_like(anchors[-1], index))
            is_object += [torch.ones_like(positive), torch.zeros_like(negative)]
            objects = target.boxes[matches[positive]]
            goals.append(encode_boxes(objects, output.anchors[positive], UNIT_STD))
        chosen = torch.cat(images), torch.cat(anchors)
        logits, deltas = self.revisit(levels, output.counts, *chosen)
        truth, beta = torch.cat(is_object), config.smooth_l1_beta
        deltas = deltas[truth > 0]
        return {
            "loss_rpn_cls": objectness_loss(logits, truth.float()),
            "loss_rpn_reg": regression_loss(deltas, torch.cat(goals), beta, len(truth)),
        }

    def revisit(
        self, levels: Sequence[Tensor], counts: Sequence[int], images: Tensor, anchors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What `forward` says of some anchors: logits (n,), deltas (n, 4).

        Only sampled anchors carry a loss, and what is said of one depends on 3 × 3 cells. So these
        few are computed again with a gradient, instead of a gradient for every cell of the pyramid.

        in   levels   (B, C, h, w) float each;  counts  anchors of each
             images   (n,) int64;  anchors  (n,) int64, numbered level after level
        """
        per_cell, start = self.cells.shape[1], 0
        order, patches = [], []
        for level, count in zip(levels, counts, strict=True):
            mine = torch.nonzero((anchors >= start) & (anchors < start + count)).flatten()
            patches.append(_take_patches(level, images[mine], (anchors[mine] - start) // per_cell))
            order.append(mine)
            start += count
        back = torch.argsort(torch.cat(order))
        x = F.relu(F.conv2d(torch.cat(patches)[back], self.conv.weight, self.conv.bias))
        ratio = (anchors % per_cell)[:, None]  # a level has whole cells of anchors
        logits, deltas = self.cls(x).flatten(1), self.reg(x).flatten(1).unflatten(1, (-1, 4))
        return logits.gather(1, ratio)[:, 0], deltas.take_along_dim(ratio[:, :, None], 1)[:, 0]

    def _best_of_levels(self, output: RpnOutput, limit: int) -> tuple[Tensor, Tensor]:
        """Anchor numbers (B, n) of each level's best, and the level (n,) of each column."""
        rows, groups, start = [], [], 0
        for level, count in enumerate(output.counts):
            logits = output.logits[:, start : start + count]
            best = logits.topk(min(limit, count), dim=1).indices
            rows.append(best + start)
            groups.append(torch.full_like(best[0], level))
            start += count
        return torch.cat(rows, 1), torch.cat(groups)

    def _suppress(
        self, boxes: Tensor, scores: Tensor, groups: Tensor, limit: int
    ) -> tuple[Tensor, Tensor]:
        real = torch.nonzero(self.rules.has_area(boxes, self.config.min_size)).flatten()
        boxes, scores, groups = boxes[real], scores[real], groups[real]
        keep = self.rules.suppress(boxes, scores, groups, self.config.nms_threshold)
        if self.config.level_proposals:
            keep = keep[_rank_in_group(groups[keep]) < self.config.level_proposals]
        keep = keep[:limit]
        return boxes[keep], scores[keep]


def _take_patches(level: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """The 3 × 3 cells around some `cells` (n,) of a map (B, C, h, w), 0 outside: (n, C, 3, 3)."""
    height, width = level.shape[2:]
    near = torch.arange(-1, 2, device=cells.device)
    rows = (cells // width)[:, None, None] + near[:, None]  # (n, 3, 1)
    columns = (cells % width)[:, None, None] + near  # (n, 1, 3)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)  # (n, 3, 3)
    rows = rows.clamp(0, height - 1) + images[:, None, None] * height
    index = rows * width + columns.clamp(0, width - 1)
    vectors = level.permute(0, 2, 3, 1).flatten(0, 2)  # (B·h·w, C), a view in channels_last
    patches = vectors.index_select(0, index.flatten()).view(*index.shape, level.shape[1])
    return (patches * inside[..., None]).permute(0, 3, 1, 2)


def _rank_in_group(groups: Tensor) -> Tensor:
    """How many of the same group stand before each of `groups` (N,): (N,) int64."""
    return F.one_hot(groups).cumsum(0).gather(1, groups[:, None])[:, 0] - 1


def level_anchors(anchors: Anchors, strides: Sequence[int]) -> Tensor:
    """One size a level, or on a single level all sizes, ratio by ratio: (levels, A, 4) float32."""
    sizes = [[size] for size in anchors.sizes] if len(strides) > 1 else [list(anchors.sizes)]
    cells = [
        [cell_anchors(size, stride, anchors.ratios, anchors.convention) for size in level]
        for level, stride in zip(sizes, strides, strict=True)
    ]
    return torch.stack([torch.stack(level, dim=1).flatten(0, 1) for level in cells])


def _best_of_batch(kept: Sequence[tuple[Tensor, Tensor]], limit: int) -> list[Tensor]:
    """The `limit` best boxes of all images together, as a tensor an image."""
    scores = torch.cat([s for _, s in kept])
    if len(scores) <= limit:
        return [b for b, _ in kept]
    threshold = scores.topk(limit).values[-1]
    return [b[s >= threshold] for b, s in kept]

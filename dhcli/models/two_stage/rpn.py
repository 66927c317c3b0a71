"""The region proposal network: which anchors hold an object, and the box of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhcli.config.schema import Anchors
from dhcli.config.schema import Rpn as RpnConfig
from dhcli.models.init import init_normal
from dhcli.models.losses import binary_loss, regression_loss
from dhcli.models.select import Nms
from dhcli.ops.anchors import grid_anchors, level_anchors
from dhcli.ops.batch import Target
from dhcli.ops.box_rules import BoxRules
from dhcli.ops.boxes import encode_boxes
from dhcli.ops.largest import largest
from dhcli.ops.match import UNDECIDED, match_boxes, sample_matches
from dhcli.ops.nms import Limits

UNIT_STD = (1.0, 1.0, 1.0, 1.0)


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


@dataclass
class Sampled:
    """The anchors of a batch that carry a loss.

    images     (n,) int64, the image that each lies in
    anchors    (n,) int64, its number, counted level after level
    is_object  (n,) float32 0 or 1
    goals      (P, 4) float32, the deltas that would take each of the P objects to its box
    """

    images: Tensor
    anchors: Tensor
    is_object: Tensor
    goals: Tensor


class Rpn(nn.Module):
    """A 3×3 convolution, then two 1×1, shared by all levels ("Faster R-CNN", §3.1)."""

    def __init__(
        self,
        channels: int,
        strides: Sequence[int],
        anchors: Anchors,
        config: RpnConfig,
        rules: BoxRules,
        nms: Nms,
    ) -> None:
        super().__init__()
        self.config = config
        self.rules = rules
        self.nms = nms
        self.strides = strides
        self.divides = anchors.convention == "torchvision"
        # Not a buffer: it stays float32 in whatever the network computes
        self.cells = level_anchors(anchors, strides)
        per_cell = self.cells.shape[1]
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls = nn.Conv2d(channels, per_cell, 1)
        self.reg = nn.Conv2d(channels, per_cell * 4, 1)
        for conv in (self.conv, self.cls, self.reg):
            init_normal(conv, std=0.01)

    def forward(self, levels: Sequence[Tensor]) -> RpnOutput:
        """Score and refine the anchors of P2 … P6, or of what else has the `strides`."""
        logits, deltas, anchors = [], [], []
        self.cells = self.cells.to(levels[0].device)
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

    def learn(
        self, levels: Sequence[Tensor], sizes: Tensor, targets: Sequence[Target]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Proposals as of `propose`, and loss_rpn_cls and loss_rpn_reg.

        in   sizes  (B, 2) int64 height, width
        """
        output = self(levels)
        proposals = self.propose(output, sizes, training=True)
        sampled = self.sample(output, targets, sizes)
        chosen = sampled.images, sampled.anchors
        return proposals, self.losses(output.logits[chosen], output.deltas[chosen], sampled)

    @torch.no_grad()
    def propose(
        self, output: RpnOutput, sizes: Tensor, *, training: bool, wanted: int = 0
    ) -> list[Tensor]:
        """The best boxes of each image, best first: B tensors (n, 4) float32 xyxy.

        in   sizes   (B, 2) int64 height, width
             wanted  at test time, detections per image that more proposals than configured are for
        """
        config = self.config
        best, rows, groups = _best_of_levels(
            output, config.pre_nms_train if training else max(config.pre_nms_test, wanted)
        )
        deltas = output.deltas.gather(1, rows[:, :, None].expand(-1, -1, 4))
        boxes = self.rules.decode(deltas, output.anchors[rows], UNIT_STD)
        boxes = self.rules.clip(boxes, sizes[:, None])
        limit = config.proposals_train if training else max(config.proposals_test, wanted)
        per_batch = training and config.proposals_per == "batch"
        kept = [
            self._suppress(box, logit, groups, len(groups) if per_batch else limit)
            for box, logit in zip(boxes, best, strict=True)
        ]
        return _best_of_batch(kept, limit) if per_batch else [box for box, _ in kept]

    @torch.no_grad()
    def sample(self, output: RpnOutput, targets: Sequence[Target], sizes: Tensor) -> Sampled:
        """A random choice of the anchors that carry a loss, image by image.

        in   sizes  (B, 2) int64 height, width
        """
        config = self.config
        images, anchors, is_object, goals = [], [], [], []
        for index, target in enumerate(targets):
            matches = self._match(output.anchors, target, sizes[index])
            positive, negative = sample_matches(matches, config.samples, config.positive_fraction)
            anchors.append(torch.cat([positive, negative]))
            images.append(torch.full_like(anchors[-1], index))
            is_object += [torch.ones_like(positive), torch.zeros_like(negative)]
            objects = target.boxes[matches[positive]]
            goals.append(encode_boxes(objects, output.anchors[positive], UNIT_STD))
        return Sampled(
            torch.cat(images), torch.cat(anchors), torch.cat(is_object).float(), torch.cat(goals)
        )

    def _match(self, anchors: Tensor, target: Target, size: Tensor) -> Tensor:
        """As `match_boxes` for each of `anchors` (N, 4); UNDECIDED where it is too far outside."""
        config, border = self.config, self.config.allowed_border
        rows = None
        if border >= 0:
            low, high = anchors[:, :2] >= -border, anchors[:, 2:] < size.flip(0) + border
            rows = torch.nonzero((low & high).all(dim=1)).flatten()
        matches = match_boxes(
            anchors if rows is None else anchors[rows],
            target.boxes,
            target.ignore,
            positive_iou=config.positive_iou,
            negative_iou=config.negative_iou,
            best_for_each=True,
        )
        if rows is None:
            return matches
        return torch.full_like(anchors[:, 0], UNDECIDED, dtype=torch.int64).scatter(
            0, rows, matches
        )

    def losses(self, logits: Tensor, deltas: Tensor, sampled: Sampled) -> dict[str, Tensor]:
        """loss_rpn_cls and loss_rpn_reg, each divided by the number of sampled anchors.

        in   logits (n,) float, deltas (n, 4) float: what is said of them
        """
        truth, beta = sampled.is_object, self.config.smooth_l1_beta
        return {
            "loss_rpn_cls": binary_loss(logits, truth),
            "loss_rpn_reg": regression_loss(deltas[truth > 0], sampled.goals, beta, len(truth)),
        }

    def _suppress(
        self, boxes: Tensor, logits: Tensor, groups: Tensor, limit: int
    ) -> tuple[Tensor, Tensor]:
        """The best boxes (n, 4) of an image and their scores (n,)."""
        real = self.rules.has_area(boxes, self.config.min_size)
        if torch.compiler.is_exporting():
            real = real & torch.isfinite(logits)  # see `largest`
        rows = torch.nonzero(real).flatten()
        boxes, scores, groups = boxes[rows], logits.float().sigmoid()[rows], groups[rows]
        config = self.config
        limits = Limits(limit, config.level_proposals)
        keep = self.nms(boxes, scores, groups, config.nms_threshold, limits, len(self.strides))
        return boxes[keep], scores[keep]


def _best_of_levels(output: RpnOutput, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each level's best logits (B, n), their anchor numbers (B, n), and the level (n,) of each."""
    logits, rows, groups, start = [], [], [], 0
    for level, count in enumerate(output.counts):
        values, best = largest(output.logits[:, start : start + count], limit)
        logits.append(values)
        rows.append(best + start)
        groups.append(torch.full_like(best[0], level))
        start += count
    return torch.cat(logits, 1), torch.cat(rows, 1), torch.cat(groups)


def _best_of_batch(kept: Sequence[tuple[Tensor, Tensor]], limit: int) -> list[Tensor]:
    """The `limit` best boxes of all images together, as a tensor an image."""
    scores = torch.cat([s for _, s in kept])
    if len(scores) <= limit:
        return [b for b, _ in kept]
    threshold = scores.topk(limit).values[-1]
    return [b[s >= threshold] for b, s in kept]

"""The detector as one graph of standard operators, for one image of any size.

Two things differ from `Detector.detect`, and neither changes a result: every level gives the RPN
a fixed number of candidates (padded with candidates that do not count), and one RoI that does not
count goes through the head, so that no convolution ever sees an empty batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhcli.models.detector import Detector
from dhcli.models.two_stage.rpn import UNIT_STD, RpnOutput
from dhcli.ops.batch import ImageBatch
from dhcli.ops.nms import grouped_nms


@torch.library.custom_op("dh::best_of_groups", mutates_args=())
def best_of_groups(
    boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou_threshold: float, limit: int
) -> Tensor:
    """`grouped_nms`, the best `limit`, as one operator that export can translate.

    `groups` (N,) int64 lie in 0 … count − 1.
    """
    return grouped_nms(boxes, scores, groups, iou_threshold)[:limit].clone()


@best_of_groups.register_fake
def _(
    boxes: Tensor, scores: Tensor, groups: Tensor, count: int, iou_threshold: float, limit: int
) -> Tensor:
    kept = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(kept, dtype=torch.int64)


class DetectorGraph(nn.Module):
    """What is exported.

    in   pixels  (1, 3, H, W) uint8 RGB 0–255, zeros right of and below the image
         size    (2,) int64 height, width of the image within the padding
    out  boxes   (D, 4) float32 xyxy in pixels of the input, best first
         scores  (D,) float32
         labels  (D,) int64 in 0…K-1
    """

    def __init__(self, detector: Detector, classes: int) -> None:
        super().__init__()
        self.detector = detector
        self.classes = classes

    def forward(self, pixels: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        detector = self.detector
        levels = detector.extract(ImageBatch(pixels, size[None], size[None]))
        proposals = self.propose(detector.rpn(levels), size)
        boxes, scores, labels = self.detect(levels, proposals)
        boxes = detector.rpn.rules.clip(boxes, size)
        rule = detector.config
        keep = best_of_groups(
            boxes, scores, labels, self.classes, rule.nms_threshold, rule.max_detections
        )
        return boxes[keep], scores[keep], labels[keep]

    def propose(self, output: RpnOutput, size: Tensor) -> Tensor:
        """The best boxes of the image, best first: (n, 4) float32. See `Rpn.propose`."""
        rpn, config = self.detector.rpn, self.detector.rpn.config
        rows, levels, real = _best_of_levels(output, config.pre_nms_test)
        boxes = rpn.rules.decode(output.deltas[0][rows], output.anchors[rows], UNIT_STD)
        boxes = rpn.rules.clip(boxes, size)
        real = torch.nonzero(real & rpn.rules.has_area(boxes, config.min_size)).flatten()
        boxes, levels = boxes[real], levels[real]
        scores = output.logits[0][rows[real]].float().sigmoid()
        keep = best_of_groups(
            boxes, scores, levels, len(output.counts), config.nms_threshold, config.proposals_test
        )
        return boxes[keep]

    def detect(self, levels: Sequence[Tensor], proposals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (D, 4), not clipped, scores (D,), labels (D,) above the threshold.

        See `Head.detect`. Row 0 of the RoIs is the one that does not count.
        """
        head = self.detector.head
        boxes = torch.cat([proposals.new_tensor([[0, 0, 1, 1]]), proposals])
        images = torch.zeros_like(boxes[:, 0], dtype=torch.int64)
        scorers, box_branch = head.scorers(head.read_out), head.read_out.boxes
        outputs = {name: head.run(name, levels, boxes, images) for name in scorers}
        scores = head.scores(head.read_out, outputs)
        above = scores[:, 1:] > self.detector.config.score_threshold
        above = above & (torch.arange(above.shape[0]) > 0)[:, None]
        rows, labels = torch.nonzero(above, as_tuple=True)
        if box_branch in outputs:
            deltas, own = outputs[box_branch].deltas, rows
        else:
            alive = torch.cat([rows.new_zeros(1), torch.nonzero(above.any(dim=1)).flatten()])
            own = above.any(dim=1).long().cumsum(0)[rows]
            deltas = head.run(box_branch, levels, boxes[alive], images[alive]).deltas
        assert deltas is not None  # the configuration was checked: this branch predicts boxes
        chosen = deltas[own, torch.zeros_like(labels) if head.config.class_agnostic else labels]
        refined = head.rules.decode(chosen, boxes[rows], head.config.box_std)
        return refined, scores[rows, labels + 1], labels


def _best_of_levels(output: RpnOutput, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each level `limit` anchor numbers (n,), their levels (n,), and which are real (n,)."""
    rows, levels, real, start = [], [], [], 0
    for level, count in enumerate(output.counts):
        logits = output.logits[0, start : start + count]
        padded = torch.cat([logits, logits.new_full((limit,), float("-inf"))])
        best = padded.topk(limit).indices
        rows.append(best.clamp(max=count - 1) + start)
        levels.append(torch.full_like(best, level))
        real.append(best < count)
        start += count
    return torch.cat(rows), torch.cat(levels), torch.cat(real)

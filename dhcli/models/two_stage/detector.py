"""Faster R-CNN with a head of branches: proposals first, then what they are and where they end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.heads import ReadOut, all_read_outs
from dhcli.config.schema import Detect
from dhcli.config.schema.detect import GuidedNms
from dhcli.models.contract import Features, Predictor
from dhcli.models.detector import FeatureDetector, Pixels
from dhcli.models.select import Select
from dhcli.models.two_stage.cascade import Cascade
from dhcli.models.two_stage.head import Head, Scored
from dhcli.models.two_stage.rpn import Rpn
from dhcli.ops.batch import Detections, ImageBatch, Target


class TwoStageDetector(FeatureDetector):
    """Pixels, backbone, neck; the RPN proposes, the head scores and refines, `select` chooses."""

    def __init__(
        self,
        pixels: Pixels,
        backbone: Features,
        neck: nn.Module,
        rpn: Rpn,
        head: Head | Cascade,
        select: Select,
        rule: Detect,
    ) -> None:
        super().__init__(pixels, backbone, neck)
        self.rpn = rpn
        self.head = head
        self.select = select
        self.rule = rule

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The parts of L = ω_fc L_fc + ω_conv L_conv + L_rpn (Eq. 1); see the contract."""
        levels = self.extract(images)
        proposals, losses = self.rpn.learn(levels, images.sizes, targets)
        return losses | self.head.losses(levels, proposals, targets, images.sizes)

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        """What is in each image by each read-out; the network runs once for all of them."""
        return self.find(self.extract(images), images, options)

    def find(
        self, levels: Sequence[Tensor], images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        """As `detect`, from the `levels` that `extract` gives of the images."""
        rule = options.over(self.rule)
        wanted = options.most or 0
        proposals = self.rpn.propose(self.rpn(levels), images.sizes, training=False, wanted=wanted)
        owners = [torch.full_like(p[:, 0], i).long() for i, p in enumerate(proposals)]
        boxes, owner = torch.cat(proposals), torch.cat(owners)
        read_outs = options.read_outs or (self.head.read_out,)
        every = self.head.detect(
            read_outs, levels, boxes, owner, images.sizes, rule.score_threshold, rule.gate
        )
        guided, least = isinstance(rule.nms, GuidedNms), options.threshold
        if least is not None and not guided:  # also where a box's confidence has lowered a score
            every = [scored.above(least) for scored in every]
        found = [self._divide(scored, owner[scored.rows], levels, images, rule) for scored in every]
        if least is not None and guided:  # which changes scores
            found = [[one.above(least) for one in of_read_out] for of_read_out in found]
        return found

    def parts(self) -> dict[str, nn.Module]:
        first = {"backbone": self.backbone, "neck": self.neck, "RPN": self.rpn}
        return first | self.head.parts() | {"NMS": self.select.suppressor(self.rule)}

    def predictors(self) -> dict[str, Predictor]:
        return {f"head.{name}": rows for name, rows in self.head.predictors().items()}

    def read_outs(self) -> list[ReadOut]:
        return all_read_outs(self.head.config)

    def notes(self) -> list[str]:
        return self.head.notes()

    def _divide(
        self,
        scored: Scored,
        owner: Tensor,
        levels: Sequence[Tensor],
        images: ImageBatch,
        rule: Detect,
    ) -> list[Detections]:
        """The detections of each image, of scored boxes that lie in the images `owner` (D,).

        By the IoUs that a branch predicts, where NMS asks for them; boxes may then be moved too.
        """
        every, ious = scored.boxes, None
        guide = rule.nms if isinstance(rule.nms, GuidedNms) else None
        if guide is not None:
            assert isinstance(self.head, Head)  # the configuration was checked: not of a cascade
            every = self.select.rules.clip(every, images.sizes[owner])
            ious = self.head.judge(levels, every, owner, scored.labels)
        found = []
        for i in range(images.sizes.shape[0]):
            mine = torch.nonzero(owner == i).flatten()
            boxes, scores, labels = (x[mine] for x in (every, scored.scores, scored.labels))
            sizes, own = (
                (images.sizes[i], images.originals[i]),
                None if ious is None else ious[mine],
            )
            one = self.select(boxes, scores, labels, *sizes, rule, own)
            if guide is not None and guide.refine:
                one = self._climb(one, levels, i, *sizes, guide)
            found.append(one)
        return found

    def _climb(
        self,
        found: Detections,
        levels: Sequence[Tensor],
        image: int,
        size: Tensor,
        original: Tensor,
        guide: GuidedNms,
    ) -> Detections:
        """Detections in original pixels, refined by the gradient of their predicted IoU."""
        assert isinstance(self.head, Head)
        rules = self.select.rules
        scale = rules.scale(size, original).to(found.boxes.dtype)
        boxes = rules.rescale(found.boxes, 1 / scale)
        images = torch.full_like(found.labels, image)
        boxes, ious = self.head.climb(levels, boxes, images, found.labels, guide.refine, guide.step)
        boxes = rules.clip(boxes, size)
        scores = found.scores * ious.clamp(0, 1) if guide.multiply else found.scores
        order = scores.argsort(descending=True, stable=True)
        order = order[rules.has_area(boxes)[order]]
        boxes = rules.rescale(boxes, scale)
        return Detections(boxes[order], scores[order], found.labels[order])

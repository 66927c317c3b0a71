"""A detector of queries: a fixed number of them, each of which finds one object or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.schema import DetectBest, SetLoss
from dhcli.models.contract import Features, Predictor
from dhcli.models.detector import FeatureDetector, Pixels
from dhcli.models.queries.set_loss import set_losses
from dhcli.models.queries.sparse import SparseHead
from dhcli.models.select import SelectBest
from dhcli.ops.batch import Detections, ImageBatch, Target


class QueryDetector(FeatureDetector):
    """Pixels, backbone, neck; the head finds, `select` takes the best of what its end says."""

    def __init__(
        self,
        pixels: Pixels,
        backbone: Features,
        neck: nn.Module,
        head: SparseHead,
        loss: SetLoss,
        rule: DetectBest,
    ) -> None:
        super().__init__(pixels, backbone, neck)
        self.head = head
        self.select = SelectBest()
        self.loss = loss
        self.rule = rule

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `set_losses`."""
        levels = self.extract(images)
        stages = self.head(levels, images.sizes)
        losses = set_losses(stages, images.sizes, targets, self.loss)
        # A level that no box is pooled from takes part with nothing
        idle = torch.stack([level[:0].float().sum() for level in levels]).sum()
        return losses | {"loss_cls": losses["loss_cls"] + idle}

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        """What the last stage finds."""
        rule = options.over(self.rule)
        logits, boxes = self.head(self.extract(images), images.sizes)[-1]
        scores = logits.sigmoid()
        return [
            [
                self.select(boxes[i], scores[i], images.sizes[i], images.originals[i], rule)
                for i in range(images.sizes.shape[0])
            ]
        ]

    def parts(self) -> dict[str, nn.Module]:
        stages = {f"stage {n}": stage for n, stage in enumerate(self.head.stages, 1)}
        return {
            "backbone": self.backbone,
            "neck": self.neck,
            "pool": self.head.pool,
            **stages,
            "best": self.select,
        }

    def predictors(self) -> dict[str, Predictor]:
        stages = range(len(self.head.stages))
        both = ("weight", "bias")
        return {f"head.stages.{n}.cls.{part}": Predictor(1) for n in stages for part in both}

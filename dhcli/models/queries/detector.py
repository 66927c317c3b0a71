"""A detector of queries: a fixed number of them, each of which finds one object or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.schema import DetectBest, SoftmaxSetLoss
from dhcli.models.contract import Features, Predictor
from dhcli.models.detector import FeatureDetector, Pixels
from dhcli.models.queries.set_loss import AnySetLoss, Said, set_losses
from dhcli.models.select import SelectBest
from dhcli.ops.batch import Detections, ImageBatch, Target


class QueryHead(Protocol):
    """What finds: a module with these methods."""

    def __call__(self, levels: Sequence[Tensor], images: ImageBatch, /) -> list[Said]:
        """What each stage says, of levels (B, C, h, w) float."""

    def parts(self) -> dict[str, nn.Module]:
        """The modules by name, in the order they run."""

    def predictors(self, rows: Predictor) -> dict[str, Predictor]:
        """The tensors that have `rows` by class."""


class QueryDetector(FeatureDetector):
    """Pixels, backbone, neck; the head finds, `select` takes the best of what its end says."""

    head: QueryHead

    def __init__(
        self,
        pixels: Pixels,
        backbone: Features,
        neck: nn.Module,
        head: nn.Module,
        loss: AnySetLoss,
        rule: DetectBest,
    ) -> None:
        super().__init__(pixels, backbone, neck)
        self.add_module("head", head)
        self.select = SelectBest()
        self.loss = loss
        self.rule = rule

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `set_losses`."""
        levels = self.extract(images)
        stages = self.head(levels, images)
        losses = set_losses(stages, images.sizes, targets, self.loss)
        # A level that no box is pooled from takes part with nothing
        idle = torch.stack([level[:0].float().sum() for level in levels]).sum()
        return losses | {"loss_cls": losses["loss_cls"] + idle}

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        """What the last stage finds."""
        rule = options.over(self.rule)
        logits, boxes, _ = self.head(self.extract(images), images)[-1]
        scores = self.read_scores(logits)
        return [
            [
                self.select(boxes[i], scores[i], images.sizes[i], images.originals[i], rule)
                for i in range(images.sizes.shape[0])
            ]
        ]

    def read_scores(self, logits: Tensor) -> Tensor:
        """The score of each class (B, N, K); after a softmax only that of a query's best one."""
        if not isinstance(self.loss, SoftmaxSetLoss):
            return logits.sigmoid()
        scores = logits.softmax(dim=-1)[..., 1:]
        best, label = scores.max(dim=-1, keepdim=True)
        return torch.zeros_like(scores).scatter(-1, label, best)

    def parts(self) -> dict[str, nn.Module]:
        return {
            "backbone": self.backbone,
            "neck": self.neck,
            **self.head.parts(),
            "best": self.select,
        }

    def predictors(self) -> dict[str, Predictor]:
        softmax = isinstance(self.loss, SoftmaxSetLoss)
        rows = Predictor(1, "first" if softmax else "none")
        return {f"head.{name}": one for name, one in self.head.predictors(rows).items()}

"""The detector of one stage: features → a score and a box of every prior."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from dhcli.config.detecting import AS_CONFIGURED, DetectOptions
from dhcli.config.schema import Dense
from dhcli.models.contract import Features, Predictor
from dhcli.models.dense.coders import Coder
from dhcli.models.dense.head import DenseHead
from dhcli.models.dense.losses import dense_losses
from dhcli.models.dense.select import SelectDense
from dhcli.models.detector import FeatureDetector, Pixels
from dhcli.ops.batch import Detections, ImageBatch, Target
from dhcli.ops.priors import Priors, lay_priors, padded_cells, prior_cells


class DenseDetector(FeatureDetector):
    """Pixels, backbone, neck; the head says something of every prior, `select` takes the best."""

    def __init__(
        self,
        pixels: Pixels,
        backbone: Features,
        neck: nn.Module,
        head: DenseHead,
        coder: Coder,
        select: SelectDense,
        config: Dense,
        divisor: int = 1,
    ) -> None:
        super().__init__(pixels, backbone, neck)
        self.head = head
        self.coder = coder
        self.select = select
        self.config = config
        self.divisor = divisor
        self.settled = False
        # No buffers: they stay float32 in whatever the network computes
        self.cells = prior_cells(config.priors, head.strides)

    def lay(self, levels: Sequence[Tensor]) -> Priors:
        """The priors of `levels`."""
        self.cells = [cell.to(levels[0].device) for cell in self.cells]
        return lay_priors(self.cells, self.head.strides, [level.shape[-2:] for level in levels])

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `dense_losses`."""
        levels = self.extract(images)
        said, priors = self.head(levels), self.lay(levels)
        padded = None
        if self.config.loss.padding != "seen":
            # Each image has padding of its own up to there
            own = (images.sizes + self.divisor - 1) // self.divisor * self.divisor
            sides = [level.shape[-2:] for level in levels]
            padded = padded_cells(priors, self.head.strides, sides, own)
        told = (self.coder, self.config)
        return dense_losses(said, priors, targets, *told, late=self.settled, padded=padded)

    def settle(self) -> None:
        self.settled = True

    def detect(
        self, images: ImageBatch, options: DetectOptions = AS_CONFIGURED
    ) -> list[list[Detections]]:
        """The best of what is said, image by image."""
        rule = options.over(self.config.detect)
        levels = self.extract(images)
        logits, boxes, quality, _ = self.head(levels)
        priors = self.lay(levels)
        per_cell = self.config.priors.per_cell()
        counts = [per_cell * math.prod(level.shape[-2:]) for level in levels]
        found = []
        for i in range(images.sizes.shape[0]):
            said = logits[i], boxes[i], None if quality is None else quality[i]
            sizes = images.sizes[i], images.originals[i]
            found.append(self.select(said, priors, counts, *sizes, rule))
        return [found]

    def parts(self) -> dict[str, nn.Module]:
        return {
            "backbone": self.backbone,
            "neck": self.neck,
            "head": self.head,
            "select": self.select,
        }

    def predictors(self) -> dict[str, Predictor]:
        priors = self.config.priors.per_cell()
        layers = [f"head.towers.{n}.cls" for n in range(len(self.head.towers))]
        both = ("weight", "bias")
        return {f"{one}.{part}": Predictor(1, anchors=priors) for one in layers for part in both}

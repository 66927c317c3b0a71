"""The whole detector: images to losses, images to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dhcli.config.heads import ReadOut
from dhcli.config.schema import Detect, Input
from dhcli.models.two_stage.head import Head, Scored
from dhcli.models.two_stage.rpn import Rpn
from dhcli.ops.batch import Detections, ImageBatch, Target


class Detector(nn.Module):
    """Backbone, pyramid, proposals, head.

    Training and detecting are two methods; neither depends on `self.training`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        rpn: Rpn,
        head: Head,
        pixels: Input,
        detect: Detect,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.head = head
        self.config = detect
        self.dtype = torch.float32
        self.bgr = pixels.channels == "bgr"
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(pixels.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(pixels.std).view(3, 1, 1), persistent=False)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Have the network detect in `dtype`; anchors, boxes, scores and NMS stay float32."""
        self.dtype = dtype
        for part in (
            self.backbone,
            self.neck,
            self.rpn.conv,
            self.rpn.cls,
            self.rpn.reg,
            self.head,
        ):
            part.to(dtype)

    def losses(self, images: ImageBatch, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted loss parts by name, each () float32; the loss is their sum (Eq. 1).

        Every trainable parameter takes part, also where no image holds an object.
        """
        levels = self.extract(images)
        with torch.no_grad():  # its losses look at a few anchors again
            proposed = self.rpn(levels)
        # Autocast keeps weights as it cast them; in older torch, those without a gradient too
        torch.clear_autocast_cache()
        proposals = self.rpn.propose(proposed, images.sizes, training=True)
        return self.rpn.losses(levels, proposed, targets) | self.head.losses(
            levels, proposals, targets
        )

    def detect(self, images: ImageBatch) -> list[Detections]:
        """What is in each image, best first, in pixels of the original image."""
        return self.detect_each(images, [self.head.read_out])[0]

    def detect_each(
        self, images: ImageBatch, read_outs: Sequence[ReadOut]
    ) -> list[list[Detections]]:
        """What is in each image by each of `read_outs`; the network runs once for all of them."""
        levels = self.extract(images)
        proposals = self.rpn.propose(self.rpn(levels), images.sizes, training=False)
        boxes = torch.cat(proposals)
        counts = torch.tensor([len(p) for p in proposals], device=boxes.device)
        owner = torch.repeat_interleave(torch.arange(len(images), device=boxes.device), counts)
        threshold, gate = self.config.score_threshold, self.config.gate
        every = self.head.detect(read_outs, levels, boxes, owner, threshold, gate)
        return [self._divide(scored, owner[scored.rows], images) for scored in every]

    def extract(self, images: ImageBatch) -> list[Tensor]:
        """P2 … P6 of the batch."""
        x = self.normalise(images).to(self.dtype)
        levels: list[Tensor] = self.neck(self.backbone(x))
        return levels

    def normalise(self, images: ImageBatch) -> Tensor:
        """(pixels − mean) / std, zero in the padding: (B, 3, H, W) float32, channels_last."""
        pixels = images.pixels.flip(1) if self.bgr else images.pixels
        x = (pixels.to(self.mean.dtype) - self.mean) / self.std
        y = torch.arange(x.shape[2], device=x.device) < images.sizes[:, :1]  # (B, H)
        columns = torch.arange(x.shape[3], device=x.device) < images.sizes[:, 1:]  # (B, W)
        x = x * (y[:, None, :, None] & columns[:, None, None, :])
        return x.contiguous(memory_format=torch.channels_last)

    def _divide(self, scored: Scored, owner: Tensor, images: ImageBatch) -> list[Detections]:
        """The detections of each image, of scored boxes that lie in the images `owner` (D,)."""
        boxes = self.rpn.rules.clip(scored.boxes, images.sizes[owner])
        return [
            self.select(
                boxes[mine],
                scored.scores[mine],
                scored.labels[mine],
                images.sizes[i],
                images.originals[i],
            )
            for i, mine in enumerate(owner == i for i in range(len(images)))
        ]

    def select(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, size: Tensor, original: Tensor
    ) -> Detections:
        """Of the scored boxes of one image, the best of each overlapping group.

        in   boxes (D, 4) float32 in resized pixels, scores (D,), labels (D,);
             size, original (2,) height, width of the resized and of the original image
        """
        config, rules = self.config, self.rpn.rules
        if config.min_size:
            large = rules.has_area(boxes, config.min_size)
            boxes, scores, labels = boxes[large], scores[large], labels[large]
        rescaled = rules.rescale(boxes, (original / size).flip(0).to(boxes.dtype))
        basis = rescaled if config.nms_on == "original" else boxes
        keep = rules.suppress(basis, scores, labels, config.nms_threshold)
        keep = keep[: _count_best(scores[keep], config.max_detections, config.keep_ties)]
        return Detections(rescaled[keep], scores[keep], labels[keep])


def _count_best(scores: Tensor, most: int, keep_ties: bool) -> int:
    """How many of `scores` (N,), best first, are kept: `most`, and the ties of the last of them."""
    if not keep_ties or len(scores) <= most:
        return most
    return int((scores >= scores[most - 1]).sum())

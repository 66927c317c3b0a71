"""Our own detectors are one sentence: pixels → backbone → neck → finder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dhcli.config.schema import Input
from dhcli.models.contract import Detector, Features
from dhcli.ops.batch import ImageBatch


class Pixels(nn.Module):
    """(pixels − mean) / std, zero in the padding; or the padding is `letterbox` before.

    in   ImageBatch, RGB 0–255
    out  (B, 3, H, W) float32, channels_last, channels in the order that the network sees
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Input) -> None:
        super().__init__()
        self.bgr = config.channels == "bgr"
        self.letterbox = config.letterbox
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, images: ImageBatch) -> Tensor:
        pixels = images.pixels.flip(1) if self.bgr else images.pixels
        pixels = pixels.to(self.mean.dtype)
        if self.letterbox is not None:
            pixels = torch.where(images.inside(), pixels, float(self.letterbox))
        x = (pixels - self.mean) / self.std
        if self.letterbox is None:
            x = x * images.inside()
        return x.contiguous(memory_format=torch.channels_last)


class FeatureDetector(Detector):
    """What all our detectors share: a finder extends it, and finds in the neck's levels."""

    def __init__(self, pixels: Pixels, backbone: Features, neck: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.backbone = backbone
        self.neck = neck

    def extract(self, images: ImageBatch) -> list[Tensor]:
        """The neck's levels of the batch, such as P2 … P6, in what the backbone computes in."""
        x = self.pixels(images).to(next(self.backbone.parameters()).dtype)
        levels: list[Tensor] = self.neck(self.backbone(x))
        return levels

    def features(self) -> Features:
        return self.backbone
